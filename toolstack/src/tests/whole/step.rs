//! One step of a schedule.

use sim::broker::Fault;
use sim::process::{Moment, Signal};
use sim::random::Random;

use super::play::ALL;

/// What a guest's driver has done to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    BusMaster,
    Msix,
    MsixOff,
    Msi,
    MsiOff,
    /// To registers that are not the guest's.
    Denied,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Attach {
        guest: usize,
        devices: Vec<&'static str>,
        persistent: bool,
    },
    Detach {
        guest: usize,
        devices: Vec<&'static str>,
        force: bool,
    },
    /// Out of the pool and back.
    Pool(&'static str),
    /// `pcidom list`, in full.
    List,
    /// The domain ends, and another one of its name begins.
    Reboot(usize),
    /// Its driver is unloaded and loaded again.
    Reload(usize),
    /// Its drivers do nothing until the next command has ended.
    Sleep(usize),
    /// It asks and waits, with the device of this number among those that it has found.
    Drive(usize, usize, Drive),
    Kill,
    Start,
    Stop,
    GoOn,
    /// Something goes wrong with the broker's next request.
    Broker(Fault),
    /// The stub's image crashes now, in so many turns, or so many moments before and after calls later.
    Crash,
    CrashInTurns(usize),
    CrashInMoments(usize),
    /// Requests of the stub fail: message type, error, how many.
    Store(u32, &'static str, u32),
    /// Events that wait for stub and broker are lost.
    LoseEvents,
    /// Each port of the stub gets an event for nothing.
    SpuriousEvents,
    /// So many events of watches come twice.
    DoubleWatches(u32),
    /// The call to Xen, sysfs or the clock that comes so many calls later fails, whoever makes it.
    FailCall(usize),
    /// The same with requests to xenstored.
    FailRequest(u64),
    /// Time passes, milliseconds.
    Pass(u64),
}

/// A step, and what happens around it.
#[derive(Clone, Debug)]
pub(super) struct Scheduled {
    pub(super) step: Step,
    /// The command is killed before its change with this number.
    pub(super) kill: Option<usize>,
    /// Afterwards everything is mended and looked at.
    pub(super) settles: bool,
}

impl From<Step> for Scheduled {
    fn from(step: Step) -> Self {
        Self { step, kill: None, settles: false }
    }
}

fn some_devices(random: &mut Random) -> Vec<&'static str> {
    let from = random.below(ALL.len());
    let count = 1 + random.below(2);
    ALL.iter().cycle().skip(from).take(count).copied().collect()
}

fn misfortune(random: &mut Random) -> Step {
    match random.below(16) {
        0 => Step::Kill,
        1 => Step::Start,
        2 => Step::Stop,
        3 => Step::GoOn,
        4 => {
            let moment = Moment::Call(u32::try_from(random.below(60) + 1).unwrap());
            let faults = [Fault::NoConfig, Fault::Signal(Signal::Stop, moment), Fault::Signal(Signal::Kill, moment)];
            Step::Broker(faults[random.below(faults.len())])
        }
        5 => Step::Crash,
        6 => Step::CrashInTurns(random.below(300)),
        7 => Step::CrashInMoments(random.below(100)),
        8 | 9 => {
            let (kind, error) =
                [(7, "EAGAIN"), (7, "EIO"), (6, "ENOSPC"), (11, "ENOSPC"), (2, "EIO"), (4, "E2BIG")][random.below(6)];
            let times = [1, 2, 5, u32::MAX][random.below(4)];
            Step::Store(kind, error, times)
        }
        10 => Step::LoseEvents,
        11 => Step::SpuriousEvents,
        12 => Step::DoubleWatches(u32::try_from(1 + random.below(20)).unwrap()),
        13 | 14 => Step::FailCall(random.below(2_000)),
        _ => Step::FailRequest(u64::try_from(random.below(400)).unwrap()),
    }
}

impl Scheduled {
    /// The step with this number of a schedule: it does not depend on the steps before it, so that these can be left out.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut random = Random::new(Random::new(seed).next() ^ Random::new(!number).next());
        let random = &mut random;
        let guest = random.below(2);
        let devices = some_devices(random);
        let step = match random.below(24) {
            0..6 => Step::Attach { guest, devices, persistent: random.below(2) == 0 },
            6..11 => Step::Detach { guest, devices, force: random.below(4) == 0 },
            11 => Step::Reboot(guest),
            12 => Step::Sleep(guest),
            13 => Step::Reload(guest),
            14 => Step::Pool(devices[0]),
            15..18 => {
                let what = [Drive::BusMaster, Drive::Msix, Drive::MsixOff, Drive::Msi, Drive::MsiOff, Drive::Denied];
                Step::Drive(guest, random.below(3), what[random.below(what.len())])
            }
            18 => Step::Pass([1, 400, 1_600, 70_000][random.below(4)]),
            19 => Step::List,
            _ => misfortune(random),
        };
        // Every other schedule has no killed commands, so that rights that are taken back twice show.
        let kill = (seed % 2 == 1 && random.below(3) == 0).then(|| 1 + random.below(900));
        Self { step, kill, settles: random.below(3) != 0 }
    }
}
