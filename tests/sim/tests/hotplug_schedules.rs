//! A hundred thousand schedules: toolstack, guests, broker, xenstored, hardware and the stub take their turns in any order, and
//! things go wrong. Nothing may ever be served to a guest that has no right to it; when the dust has settled, no change is half done and nothing is
//! left behind.
//!
//! The same with an image that crashes and is started again in place (docs/restart.md): once somewhere in each of many schedules, and in every turn and at
//! every call of some.
//!
//! `SCHEDULES=` in the environment asks for another number of them; `SEED=` for the one that failed, which the failure names.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

use pciif::{Command as PciCommand, Request};
use sim::admin::{Admin, Command};
use sim::broker::Fault;
use sim::device::Function;
use sim::process::{Moment, Signal};
use sim::random::Random;
use sim::stub::Turn;
use sim::tool::ecam;
use sim::world::{STUB, World, device_id};
use sim::{Kind, SimTool};
use xen_types::{DomId, Errno, Sbdf};
use xenstored::Fault as StoreFault;

/// A number with a cache line of its own.
#[repr(align(128))]
struct Counter(AtomicI64);

/// Allocations that were not given back, of each test; the first number is everybody else's.
static LIVE: [Counter; 5] = [const { Counter(AtomicI64::new(0)) }; 5];

thread_local! {
    /// Whose allocations this thread makes.
    static OWN: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting. Each allocation remembers whose it is: what a test's thread gives to its broker may end there.
struct Counting;

/// An allocation with the number of its owner in front, and how far behind that it begins.
fn with_owner(layout: Layout) -> Option<(Layout, usize)> {
    let (whole, offset) = Layout::new::<usize>().extend(layout).ok()?;
    Some((whole.pad_to_align(), offset))
}

// SAFETY: everything is passed on to the system's allocator, which keeps the promises of the trait, with room in front for a number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, offset)) = with_owner(layout) else { return null_mut() };
        // SAFETY: the caller's promises are those that the system's allocator asks for; a larger layout keeps them.
        let start = unsafe { System.alloc(whole) };
        if start.is_null() {
            return start;
        }
        let owner = OWN.get();
        // SAFETY: the allocation begins with room for a number, aligned for it.
        unsafe { start.cast::<usize>().write(owner) };
        LIVE[owner].0.fetch_add(1, Relaxed);
        // SAFETY: `offset` is inside of the allocation.
        unsafe { start.add(offset) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some((whole, offset)) = with_owner(layout) else { return };
        // SAFETY: `pointer` came from `alloc` with this layout, so the allocation begins `offset` before it.
        let start = unsafe { pointer.sub(offset) };
        // SAFETY: `alloc` has written it.
        let owner = unsafe { start.cast::<usize>().read() };
        LIVE[owner].0.fetch_sub(1, Relaxed);
        // SAFETY: `start` came from the system's allocator with the layout `whole`.
        unsafe { System.dealloc(start, whole) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Two functions of one slot, and two alone.
const DEVICES: [Sbdf; 4] =
    [Sbdf::from_devfn(0, 3, 0), Sbdf::from_devfn(0, 3, 1), Sbdf::from_devfn(0, 5, 0x10), Sbdf::from_devfn(0, 6, 0)];
const GUESTS: [DomId; 2] = [DomId(5), DomId(6)];
/// Where a guest may find them.
const PLACES: [u8; 8] = [0, 1, 8, 9, 0x10, 0x11, 0x18, 0x19];

/// Steps in a schedule.
const STEPS: usize = 32;
/// Schedules that one machine goes through.
const SCHEDULES_A_WORLD: u64 = 50;
/// Schedules in each of the first two tests below.
const SCHEDULES: u64 = 50_000;
/// For how many of these there is one in which the image crashes once, and one that is played again and again, with a crash at each step of it.
const FOR_A_CRASH: u64 = 40;
const FOR_A_CRASH_AT_EACH_STEP: u64 = 25_000;
/// A crash is somewhere in so many turns of the shell, or moments before and after calls to Xen: about those of a schedule.
const TURNS: usize = 400;
const MOMENTS: usize = 100;

fn function() -> Function {
    Function::endpoint(0x8086, 1).with_interrupts(8)
}

fn plug(world: &World, device: Sbdf) {
    let mut function = function();
    function.write(0, u32::from(device_id(device)) << 16 | 0x8086);
    world.xen.plug(ecam(device), function);
}

struct Play {
    world: World,
    admin: Admin,
    random: Random,
}

impl Play {
    fn new(seed: u64) -> Self {
        let world = World::with(sim::SimXen::new(), &DEVICES, pciback::Options::default(), |function| {
            function.with_interrupts(8)
        });
        let admin = Admin::new(SimTool::new(world.xen.clone(), STUB));
        Self { world, admin, random: Random::new(seed) }
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.random.below(one_in) == 0
    }

    fn some(&mut self, of: &[Sbdf]) -> Vec<Sbdf> {
        of.iter().filter(|_| self.random.below(2) == 0).copied().collect()
    }

    fn with_wishes(&mut self, devices: &[Sbdf]) -> Vec<(Sbdf, Option<u8>)> {
        let requested = |device: &Sbdf| {
            (*device, (self.random.below(4) == 0).then(|| u8::try_from(self.random.below(4)).unwrap_or(0)))
        };
        devices.iter().map(requested).collect()
    }

    /// What dom0 does next, if it does anything.
    fn command(&mut self, guest: DomId) {
        if self.admin.command.is_some() {
            self.admin.step();
            if self.chance(12) {
                let by_force = self.chance(2);
                self.admin.time_out(by_force);
            }
            return;
        }
        self.admin.step();
        let has_directory = self.world.tool.backend(guest, "frontend").is_some();
        let free = self.admin.free(&DEVICES);
        let wanted = self.some(&free);
        let attach = self.with_wishes(&wanted);
        if !has_directory {
            self.world.guest(guest).forget(); // a driver without directory was torn down with it
            self.admin.attach(guest, &attach);
        } else {
            let listed = self.admin.listed(guest);
            match self.random.below(8) {
                0 | 1 if !attach.is_empty() => self.admin.attach(guest, &attach),
                2..5 if !listed.is_empty() => {
                    let detach = self.some(&listed);
                    self.admin.change(guest, &[], &detach);
                }
                5 | 6 => {
                    let detach = self.some(&listed);
                    self.admin.change(guest, &attach, &detach);
                }
                7 if self.chance(3) => self.admin.close(guest),
                _ => {}
            }
        }
    }

    fn guest_acts(&mut self, guest: DomId) {
        match self.random.below(24) {
            0 => {
                self.world.guest(guest).forget();
                self.world.guest(guest).set_state(1);
            }
            1 => self.world.guest(guest).unload(),
            2 => {
                self.world.guest(guest).forget();
                self.world.guest(guest).probe();
            }
            3 => {
                let state = u32::try_from(self.random.below(10)).unwrap_or(0);
                self.world.guest(guest).set_state(state);
            }
            4 => {
                let value = ["", "77", "x", "4294967295"][self.random.below(4)];
                let _ = self.world.guest(guest).write(["pci-op-ref", "event-channel"][self.random.below(2)], value);
            }
            5 => {
                self.world.destroy(guest);
                if self.chance(2) {
                    self.admin.guest_died(guest);
                }
            }
            6..12 => {
                let place = Sbdf::from_devfn(0, 0, PLACES[self.random.below(PLACES.len())]);
                let request = match self.random.below(4) {
                    0 => Request::conf_write(place, 4, 2, 4),
                    1 => Request::new(PciCommand::EnableMsi, place),
                    2 => Request::new(PciCommand::DisableMsi, place),
                    _ => Request::conf_read(place, 6, 2),
                };
                self.world.guest(guest).publish(&request);
            }
            12 => self.world.guest(guest).give_up(),
            _ => {
                let World { stub, guests, .. } = &mut self.world;
                guests.get_mut(&guest).map(|guest| guest.step(stub));
            }
        }
    }

    fn misfortune(&mut self) {
        let device = DEVICES[self.random.below(DEVICES.len())];
        match self.random.below(12) {
            0 => self.world.xen.unplug(ecam(device)),
            1 => self.world.tool.set_online(device, true), // has the stub look
            2 => self.world.xen.fail_next("map_grant", Errno::EINVAL),
            3 => self.world.xen.fail_next("bind_interdomain", Errno::EINVAL),
            4..7 => {
                let (kind, error) =
                    [(7, "EAGAIN"), (7, "EIO"), (6, "ENOSPC"), (11, "ENOSPC"), (2, "EIO")][self.random.below(5)];
                let times = u32::try_from(self.random.below(3) + 1).unwrap_or(1);
                let fault = StoreFault { kind: Some(kind), path_end: String::new(), error, times };
                self.world.xen.store().inject(fault);
            }
            7 if !self.world.broker.is_running() => self.start_broker(),
            8 => self.world.broker.kill(),
            9 => self.world.broker.stop(),
            10 => self.world.broker.go_on(),
            _ => {
                let moment = Moment::Call(u32::try_from(self.random.below(60) + 1).unwrap_or(1));
                let faults =
                    [Fault::NoConfig, Fault::Signal(Signal::Stop, moment), Fault::Signal(Signal::Kill, moment)];
                self.world.broker.faults.push_back(faults[self.random.below(faults.len())]);
            }
        }
    }

    fn start_broker(&mut self) {
        self.world.xen.clear_failures(); // those are meant for the stub
        self.world.broker.kill();
        self.world.broker.start();
    }

    /// The image crashes once in what comes next.
    fn crash_somewhere(&mut self, random: &mut Random) {
        let World { stub, xen, .. } = &mut self.world;
        match random.below(2) {
            0 => stub.crash_at(stub.turns() + random.below(TURNS)),
            _ => xen.crash_at_call(STUB, xen.moments(STUB) + random.below(MOMENTS)),
        }
    }

    /// One schedule, from an empty machine to an empty machine.
    fn once(&mut self) {
        for _ in 0..STEPS {
            self.act();
        }
        self.settle();
        self.assert_settled();
        self.end();
    }

    /// One thing that one of those involved does.
    fn act(&mut self) {
        let guest = GUESTS[self.random.below(GUESTS.len())];
        if !self.world.guests.contains_key(&guest) {
            if self.world.tool.backend(guest, "frontend").is_some() {
                self.admin.guest_died(guest);
            }
            self.world.create_guest(guest.0);
            let kind = [Kind::Linux, Kind::Linux, Kind::Linux, Kind::MiniOs, Kind::FreeBsd, Kind::Silent];
            let kind = kind[self.random.below(kind.len())];
            let front = self.world.guest(guest);
            front.kind = kind;
            front.scans_everything = false;
            return;
        }
        let count = self.random.below(1_500);
        match self.random.below(32) {
            0..10 => {
                for _ in 0..=self.random.below(6) {
                    for turn in [Turn::Run, Turn::Send(2_000), Turn::Receive(count)] {
                        self.world.stub.turn(turn);
                    }
                }
            }
            10 | 11 => self.world.work(),
            12 => drop(self.world.stub.turn(Turn::Serve)),
            13 => drop(self.world.broker.step()),
            14 => self.world.xen.advance_ns(300_000_000),
            15..19 => self.command(guest),
            19 => self.misfortune(),
            20 => self.assert_nobody_has_what_is_not_his(),
            _ => self.guest_acts(guest),
        }
    }

    /// Each guest that is connected finds only what it has a right to.
    fn assert_nobody_has_what_is_not_his(&mut self) {
        let World { stub, guests, .. } = &mut self.world;
        for (domid, guest) in guests.iter() {
            if guest.response().is_none() {
                continue; // it has asked something and waits for the answer
            }
            for place in PLACES {
                let request = Request::conf_read(Sbdf::from_devfn(0, 0, place), 0, 4);
                let answer = guest.ask(stub, &request).filter(|answer| answer.err == 0);
                // Ones: it does not answer, and is looked for.
                let Some(answer) = answer.filter(|answer| answer.value != u32::MAX) else { continue };
                let device = DEVICES.into_iter().find(|device| u32::from(device_id(*device)) == answer.value >> 16);
                let device = device.expect("one of ours");
                assert_eq!(self.admin.rights.get(&device), Some(domid), "who may reach {device}");
            }
        }
    }

    /// All faults are mended and everybody does his part.
    fn settle(&mut self) {
        self.world.xen.store().clear_faults();
        self.world.xen.clear_failures();
        self.world.broker.faults.clear();
        self.start_broker();
        for device in DEVICES {
            if self.world.xen.with_function(ecam(device), |_| ()).is_none() {
                plug(&self.world, device);
            }
        }
        for patience in 0..40 {
            self.world.settle_deadlines(60);
            if !self.admin.step() && self.admin.command.is_none() {
                return;
            }
            if patience % 4 == 3 {
                let guest = self.admin.command.as_ref().map(Command::guest);
                assert!(
                    !guest.is_some_and(|guest| self.does_its_part(guest)),
                    "no end: {:?} {:?} {:?}",
                    self.admin.command,
                    guest.map(|guest| self.world.states(guest)),
                    guest.map(|guest| self.world.guests[&guest].kind)
                );
                self.admin.time_out(true);
            }
        }
        panic!("the toolstack never comes to rest: {:?}", self.admin.command);
    }

    /// Whether a guest has a driver that answers, and can be understood.
    fn does_its_part(&self, guest: DomId) -> bool {
        let Some(front) = self.world.guests.get(&guest) else { return false };
        let node = |name: &str| self.world.tool.read(&format!("{}/{name}", SimTool::frontend_dir(guest)));
        let keys = front.keys().map(|(gref, port)| (Some(gref.to_string()), Some(port.to_string())));
        let is_understood = keys == Some((node("pci-op-ref"), node("event-channel")));
        let (ours, theirs) = self.world.states(guest);
        // Not the pairs that a driver comes to by writing states that it should not; mini-os at 3 waits for our 4 and nothing else.
        let is_at_work = match theirs {
            3 => front.kind == Kind::Linux && matches!(ours.as_str(), "3" | "4" | "7" | "8"),
            4 => matches!(ours.as_str(), "4" | "7" | "8"),
            7 => matches!(ours.as_str(), "3" | "4" | "7" | "8"),
            _ => false,
        };
        matches!(front.kind, Kind::Linux | Kind::MiniOs) && is_understood && is_at_work
    }

    /// No change of devices is half done: whoever has answered is not waited for, and rights are where devices are.
    fn assert_settled(&mut self) {
        self.assert_nobody_has_what_is_not_his();
        for (device, guest) in &self.admin.rights {
            let is_listed = self.admin.listed(*guest).contains(device);
            let pool = self.world.tool.pool_state(*device);
            assert!(is_listed, "{guest} may reach {device}, {pool:?}, at {:?}", self.world.states(*guest));
        }
        for guest in GUESTS {
            let (ours, theirs) = self.world.states(guest);
            let entries = self.world.tool.entries(guest);
            let kind = self.world.guests.get(&guest).map(|guest| guest.kind);
            // A detach that was given up in the moment in which the stub had released the devices leaves entries whose devices the stub has to take
            // again. It asks for that by itself, with 7, and a guest without a driver does not answer.
            let is_taken_back = |(device, state): &(Sbdf, String)| {
                state == "3" && self.world.tool.pool_state(*device) != Some(format!("assigned {guest}"))
            };
            let is_asked_again = entries.iter().any(is_taken_back) && !self.does_its_part(guest);
            assert!(ours != "7" || is_asked_again, "7 with {guest}, {kind:?}, at {theirs}: {entries:?}");
            // Who is at a state that no driver goes to from 8 has not answered.
            let has_answered = matches!(kind, Some(Kind::Linux | Kind::MiniOs)) && matches!(theirs, 1 | 3..=7);
            let is_waiting = theirs == 7 && self.does_its_part(guest);
            assert!(!is_waiting, "{guest} waits at 7: {entries:?}");
            assert!(ours != "8" || !has_answered, "8 with {guest} at {theirs}");
            for (device, state) in entries {
                assert!(ours != "4" || theirs != 4 || ["3", "5", "6"].contains(&state.as_str()), "{device} at {state}");
            }
        }
    }

    /// Everything can be taken away, and nothing is left.
    fn end(&mut self) {
        for guest in GUESTS {
            self.world.destroy(guest);
            self.admin.guest_died(guest);
        }
        self.admin.command = None;
        self.world.settle_deadlines(60);
        self.admin.step();
        assert!(
            self.admin.rights.is_empty(),
            "rights are left behind: {:?} {:?}",
            self.admin.rights,
            self.world.pool_states()
        );
        for (device, state) in self.world.pool_states() {
            if state != "free" {
                assert!(state.starts_with("refused"), "{device}: {state}");
                // As the tool does with a device that came back.
                self.world.tool.write(&format!("/local/domain/{STUB}/pool/{device}/state"), "new");
            }
        }
        for device in DEVICES {
            plug(&self.world, device);
        }
        self.world.settle_deadlines(60);
        assert!(self.world.pool_states().values().all(|state| state == "free"), "{:?}", self.world.pool_states());
        self.world.assert_clean();
        assert_eq!(self.world.xen.pirqs(), [], "pirqs");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tells how to see a failure again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("again: SEED={} cargo test -p sim --test hotplug_schedules", self.0);
        }
    }
}

/// Plays these schedules in the test with this number.
fn play(test: usize, seeds: std::ops::Range<u64>, crashes: bool) {
    OWN.set(test);
    let seeds = number("SEED").map_or(seeds, |seed| seed..seed + 1);
    for seed in seeds.filter(|seed| seed.is_multiple_of(SCHEDULES_A_WORLD) || number("SEED").is_some()) {
        // A failing schedule is one of those that its machine went through: all of them are done again.
        let seed = Seed(seed - seed % SCHEDULES_A_WORLD);
        let mut play = Play::new(seed.0);
        let mut random = Random::new(!seed.0);
        let mut live = 0;
        for schedule in 0..SCHEDULES_A_WORLD {
            if crashes {
                play.crash_somewhere(&mut random);
            }
            play.once();
            // Tables grow to the size that they need, and stay so.
            let now = LIVE[test].0.load(Relaxed);
            if schedule < SCHEDULES_A_WORLD / 2 {
                live = live.max(now);
            }
            assert!(now <= live + 64, "{now} allocations are live, at most {live} were before");
        }
    }
}

fn schedules() -> u64 {
    number("SCHEDULES").unwrap_or(SCHEDULES)
}

// Two tests, for two processors.

#[test]
fn whatever_happens_in_whatever_order_nothing_is_shared_stuck_or_left() {
    play(1, 0..schedules(), false);
}

#[test]
fn whatever_happens_in_any_other_order_nothing_is_shared_stuck_or_left() {
    play(2, schedules()..2 * schedules(), false);
}

#[test]
fn whatever_happens_around_a_crash_nothing_is_shared_stuck_or_left() {
    play(3, 0..(schedules() / FOR_A_CRASH).max(1), true);
}

#[test]
fn a_crash_at_any_step_of_a_schedule_leaves_nothing_shared_stuck_or_left() {
    OWN.set(4);
    for seed in 0..(schedules() / FOR_A_CRASH_AT_EACH_STEP).max(1) {
        let whole = Play::new(seed);
        let (first_turn, first_moment) = (whole.world.stub.turns(), whole.world.xen.moments(STUB));
        let mut whole = whole;
        whole.once();
        let turns = (first_turn..whole.world.stub.turns()).map(|turn| (Some(turn), None));
        let moments = (first_moment..whole.world.xen.moments(STUB)).map(|moment| (None, Some(moment)));
        for (turn, moment) in turns.chain(moments) {
            let mut play = Play::new(seed);
            println!("schedule {seed}, crash in turn {turn:?} or at moment {moment:?}");
            if let Some(turn) = turn {
                play.world.stub.crash_at(turn);
            }
            if let Some(moment) = moment {
                play.world.xen.crash_at_call(STUB, moment);
            }
            play.once();
        }
    }
}
