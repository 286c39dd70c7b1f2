//! Random commands on guests that come and go, answer or do not, with commands that are killed anywhere: the real tool and the
//! real backend. Whatever happens, afterwards the tool's table, Xen's rights, the stub's pool and what guests see agree.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use pcidom_abi::paths;
use sim::SimFrontend;
use sim::random::Random;
use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::Error;
use crate::fake::{DB, E1000, EDU, Killed, MachineWithStub, NVME, WEB, device};
use crate::ops::attach::{Following, Request, Until, attach};
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;
use crate::records::device_table::{self, Phase};

const ALL: [&str; 3] = [E1000, EDU, NVME];
const NAMES: [&str; 2] = ["web", "db"];
/// `PCIDOM_SEQUENCES` asks for more, `PCIDOM_SEED` for others.
const SEQUENCES: u64 = 150;
const STEPS: usize = 8;

struct Play {
    machine: MachineWithStub,
    random: Random,
    /// The guests' numbers.
    guests: [DomId; 2],
    next: u16,
    /// Their drivers, while they do nothing.
    silent: Vec<(DomId, SimFrontend)>,
    kills: bool,
    /// For the message of a failure.
    done: Vec<String>,
}

impl Play {
    fn new(seed: u64) -> Self {
        let machine = MachineWithStub::new();
        machine.with_peers(|peers| peers.tool.write("/local/domain/5/vm", "/vm/web"));
        machine.create(DB, "db");
        crate::ops::assignable::add(&machine.host, &ALL.map(device), "pcidom").unwrap();
        let kills = seed % 2 == 1;
        machine.machine.with(|world| world.uncertain = kills);
        let guests = [WEB, DB];
        Self { machine, random: Random::new(seed), guests, next: 20, silent: Vec::new(), kills, done: Vec::new() }
    }

    fn some_devices(&mut self) -> Vec<&'static str> {
        let from = self.random.below(ALL.len());
        let count = 1 + self.random.below(2);
        ALL.iter().cycle().skip(from).take(count).copied().collect()
    }

    /// One command, which may be killed; then the next one puts right what it left.
    fn command(&mut self, what: String, act: impl FnOnce(&MachineWithStub) -> Result<(), Error>) {
        let kill = self.kills && self.random.below(3) == 0;
        if kill {
            let at = 1 + self.random.below(900);
            self.machine.machine.with(|world| world.killing_change = Some(world.changes + at));
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| act(&self.machine)));
        self.machine.machine.with(|world| world.killing_change = None);
        match outcome {
            Ok(outcome) => self.done.push(format!("{what}: {outcome:?}")),
            Err(payload) if payload.is::<Killed>() => {
                self.done.push(format!("{what}: killed"));
                self.machine.restart();
            }
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    fn step(&mut self) {
        let which = self.random.below(2);
        let name = NAMES[which];
        let devices = self.some_devices();
        match self.random.below(10) {
            0..4 => {
                let following = if self.random.below(2) == 0 { Following::Yes } else { Following::No };
                self.command(format!("attach {name} {devices:?} {following:?}"), |machine| {
                    reclaim(&machine.host)?;
                    let request = Request {
                        guest: name.to_owned(),
                        backend: "pcidom".to_owned(),
                        devices: devices.iter().map(|text| text.parse().unwrap()).collect(),
                        timeout: Duration::from_secs(30),
                        export: None,
                        following,
                        until: Until::Used,
                    };
                    attach(&machine.host, &request).map(drop)
                });
            }
            4..8 => {
                let force = self.random.below(4) == 0;
                self.command(format!("detach {name} {devices:?} {force}"), |machine| {
                    let reclaimed = reclaim(&machine.host)?;
                    let devices = devices.iter().map(|text| device(text)).collect();
                    let timeout = Duration::from_secs(30);
                    let request = detach::Request { guest: name.to_owned(), backend: None, devices, timeout, force };
                    detach(&machine.host, &request, &reclaimed)
                });
            }
            8 => self.reboot(which),
            _ => {
                self.done.push(format!("{name} does nothing for a while"));
                let id = self.guests[which];
                let driver = self.machine.with_peers(|peers| peers.guests.remove(&id));
                self.silent.extend(driver.map(|driver| (id, driver)));
                return; // it wakes up after the next step
            }
        }
        self.wake();
        self.settle();
        self.check();
    }

    fn reboot(&mut self, which: usize) {
        self.wake();
        let (old, new) = (self.guests[which], DomId(self.next));
        self.done.push(format!("{} reboots: {old} becomes {new}", NAMES[which]));
        self.next += 1;
        self.machine.with_peers(|peers| peers.destroy(old));
        self.machine.create(new, NAMES[which]);
        self.guests[which] = new;
    }

    fn wake(&mut self) {
        let silent = std::mem::take(&mut self.silent);
        self.machine.with_peers(|peers| peers.guests.extend(silent));
    }

    /// What `pcidom serve` sees to.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.machine.with_peers(|peers| peers.settle());
            reclaim(&self.machine.host).unwrap();
        }
        self.machine.with_peers(|peers| peers.settle());
    }

    fn check(&self) {
        // One that lost a device by force learns of it when it looks.
        self.machine.with_peers(|peers| {
            let connected = peers.guests.values_mut().filter(|guest| guest.state() == 4);
            connected.for_each(|guest| guest.scan(&mut peers.stub));
        });
        let host = &self.machine.host;
        let records = device_table::load(host).unwrap();
        let story = || format!("{:#?}", self.done);
        for id in self.guests {
            let theirs: Vec<Sbdf> =
                records.iter().filter(|record| record.frontend == Some(id)).map(|record| record.device).collect();
            let resources: Vec<DeviceResources> =
                theirs.iter().map(|device| DeviceResources::gather(host, *device).unwrap()).collect();
            let rights = GuestRights::of(&resources);
            let frames: BTreeSet<u64> =
                rights.frames.iter().flat_map(|frames| frames.first.0..frames.first.0 + frames.count).collect();
            self.machine.machine.with(|world| {
                let has: BTreeSet<u64> =
                    world.iomem.iter().filter(|(domain, _)| *domain == id).map(|(_, frame)| *frame).collect();
                assert_eq!(has, frames, "frames of {id}: {}", story());
                let irqs: Vec<u32> =
                    world.irqs.iter().filter(|(domain, _)| *domain == id).map(|(_, gsi)| *gsi).collect();
                assert_eq!(irqs, rights.gsis, "interrupts of {id}: {}", story());
            });
            let found = self.machine.with_peers(|peers| peers.guests[&id].found.len());
            assert_eq!(found, theirs.len(), "what {id} sees: {}", story());
            let directory = self.machine.read(&path::child(&path::backend_dir(crate::fake::STUB, id), "state"));
            let expected = (!theirs.is_empty()).then_some("4");
            assert_eq!(directory.as_deref(), expected, "the connection of {id}: {}", story());
        }
        for record in &records {
            assert!(matches!(record.phase, Phase::Pool | Phase::Attached), "{record:?}: {}", story());
            let owner = self.machine.machine.with(|world| world.owners[&record.device]);
            assert_eq!(owner, record.frontend.unwrap_or(DomId::IO), "{record:?}: {}", story());
            let pool = self.machine.read(&paths::pool_state_node(record.stub, record.device));
            let expected = record.frontend.map_or_else(|| "free".to_owned(), |guest| format!("assigned {guest}"));
            assert_eq!(pool, Some(expected), "{record:?}: {}", story());
        }
        assert_eq!(records.len(), ALL.len(), "{}", story());
        let leftover = |path: &str| self.machine.with_peers(|peers| peers.xen.store().peek(path));
        assert_eq!(leftover("/tool/pcidom/work"), None, "{}", story());
        assert_eq!(leftover("/tool/pcidom/paused"), None, "{}", story());
        self.machine.machine.with(|world| assert_eq!(world.violations, [""; 0], "{}", story()));
    }
}

#[test]
fn whatever_happens_everybody_agrees_who_has_what() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("PCIDOM_SEED").unwrap_or(0);
    for seed in first..first + number("PCIDOM_SEQUENCES").unwrap_or(SEQUENCES) {
        let mut play = Play::new(seed);
        let played = catch_unwind(AssertUnwindSafe(|| (0..STEPS).for_each(|_| play.step())));
        if let Err(payload) = played {
            println!("seed {seed}: {:#?}", play.done);
            play.machine.machine.with(|world| println!("{:#?}", world.notes));
            std::panic::resume_unwind(payload);
        }
    }
}
