//! The books on interrupts under random sequences of everything that guests and the broker can do, stopped and killed at any of its calls: no
//! pirq is mapped over another (the simulated Xen fails the test), none is left when its device is at rest, and every request is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciback::Options;
use pciif::{Command, Request};
use proptest::prelude::*;
use sim::broker::Fault;
use sim::process::{Moment, Signal};
use sim::tool::ecam;
use sim::world::World;
use sim::{SimXen, logs};
use xen_types::{DomId, Sbdf};

/// The devices of guests 5, 6 and 7.
const DEVICES: [&[Sbdf]; 3] = [
    &[Sbdf::from_devfn(0, 3, 0), Sbdf::from_devfn(0, 4, 0)],
    &[Sbdf::from_devfn(0, 5, 0)],
    &[Sbdf::from_devfn(0, 6, 0)],
];

fn all() -> impl Iterator<Item = Sbdf> {
    DEVICES.into_iter().flatten().copied()
}

#[derive(Clone, Debug)]
enum Step {
    /// A guest's request for its first or second device, if it waits for none.
    Publish { guest: usize, slot: u8, request: usize },
    /// The guest waits no longer.
    GiveUp(usize),
    /// Stub and broker go on.
    Work,
    /// One second passes.
    Expire,
    /// What goes wrong next.
    Fault(Fault),
    /// How many pirqs a guest can have from now on.
    Pirqs(usize),
    /// SIGSTOP, SIGCONT, SIGKILL, start.
    Broker(u8),
    /// The guest unloads its driver and loads it again.
    Reload(usize),
    /// The guest dies and is created again, with the same devices.
    Reboot(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        Just(Fault::Lie { err: 0, value: 0, info: 0 }),
        Just(Fault::Lie { err: -5, value: 7, info: 9 }),
        Just(Fault::STOP_BEFORE),
        Just(Fault::STOP_AFTER),
        Just(Fault::DIE_BEFORE),
        Just(Fault::DIE_AFTER),
        (1..60u32).prop_map(|call| Fault::Signal(Signal::Stop, Moment::Call(call))),
        (1..60u32).prop_map(|call| Fault::Signal(Signal::Kill, Moment::Call(call))),
    ];
    prop_oneof![
        8 => (0..3usize, 0..2u8, 0..8usize).prop_map(|(guest, slot, request)| Step::Publish { guest, slot, request }),
        1 => (0..3usize).prop_map(Step::GiveUp),
        6 => Just(Step::Work),
        1 => Just(Step::Expire),
        2 => fault.prop_map(Step::Fault),
        1 => (0..6usize).prop_map(Step::Pirqs),
        3 => (0..4u8).prop_map(Step::Broker),
        1 => (0..3usize).prop_map(Step::Reload),
        1 => (0..3usize).prop_map(Step::Reboot),
    ]
}

/// What a guest knows.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    /// Its request that is not answered yet: the device, and how many vectors it turns on, if it is about vectors at all.
    waits_for: Option<(u8, Option<usize>)>,
    /// Vectors of each device by the answers; `None` where it gave up, or was refused while some were on.
    vectors: [Option<usize>; 2],
}

impl View {
    const NEW: Self = Self { waits_for: None, vectors: [Some(0), Some(0)] };

    fn answered(&mut self, err: i32) {
        let Some((slot, Some(count))) = self.waits_for.take() else { return };
        let now = &mut self.vectors[usize::from(slot)];
        *now = if err == 0 { Some(count) } else { now.filter(|before| *before == 0) };
    }
}

/// Guests, the number that each has at the moment, and what it knows.
struct Play {
    world: World,
    domids: [DomId; 3],
    views: [View; 3],
    next: u16,
}

impl Play {
    fn new() -> Self {
        let devices = all().collect::<Vec<_>>();
        let mut world =
            World::with(SimXen::new(), &devices, Options::default(), |function| function.with_interrupts(8));
        world.broker.start();
        let domids = [5, 6, 7].map(DomId);
        for (domid, devices) in domids.into_iter().zip(DEVICES) {
            world.connect(domid.0, devices);
        }
        Self { world, domids, views: [View::NEW; 3], next: 8 }
    }

    /// The guests take their answers.
    fn take_answers(&mut self) {
        for (domid, view) in self.domids.into_iter().zip(&mut self.views) {
            if let Some(response) = self.world.guest(domid).response() {
                view.answered(response.err);
            }
        }
    }

    /// What is mapped is what the guests were told.
    fn check_views(&self) -> Result<(), TestCaseError> {
        let pirqs = self.world.xen.pirqs();
        for (devices, view) in DEVICES.into_iter().zip(self.views) {
            for (device, want) in devices.iter().zip(view.vectors) {
                let mapped = pirqs.iter().filter(|(.., owner)| owner == device).count();
                prop_assert!(want.is_none_or(|want| want == mapped), "{device}: {mapped} mapped, {want:?} known");
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) {
        let Self { world, views, .. } = self;
        match *step {
            Step::Publish { guest, slot, request } => {
                let address = Sbdf::from_devfn(0, 0, slot * 8);
                let entries = [[0, 1], [7, 3]];
                let with = |command, value, info| Request { value, info, ..Request::new(command, address) };
                let requests = [
                    (with(Command::EnableMsi, 0, 0), &[][..]),
                    (with(Command::EnableMultiMsi, 0, 4), &[]),
                    (with(Command::EnableMsix, 2, 0), &entries[0]),
                    (with(Command::EnableMsix, 2, 1), &entries[1]),
                    (with(Command::DisableMsi, 0, 0), &[]),
                    (with(Command::DisableMsix, 0, 0), &[]),
                    (Request::conf_write(address, 4, 2, 0x0007), &[]),
                    (Request::conf_write(address, 4, 2, 0x0003), &[]),
                ];
                let count = [Some(1), Some(4), Some(2), Some(2), Some(0), Some(0), None, None][request];
                let (request, entries) = requests[request];
                let view = &mut views[guest];
                let guest = world.guest(self.domids[guest]);
                // A frontend publishes nothing while it waits.
                if guest.response().is_some() {
                    view.waits_for = Some((slot, count));
                    let list = entries.iter().map(|entry| pciif::layout::MsixEntry { vector: 0xffff, entry: *entry });
                    guest.publish_with_entries(&request, &list.collect::<Vec<_>>());
                }
            }
            Step::GiveUp(guest) => {
                world.guest(self.domids[guest]).give_up();
                if let Some((slot, Some(_))) = views[guest].waits_for.take() {
                    views[guest].vectors[usize::from(slot)] = None;
                }
            }
            Step::Work => world.work(),
            Step::Expire => world.run_out_of_time(),
            Step::Fault(fault) => world.broker.faults.push_back(fault),
            Step::Pirqs(count) => world.xen.limit_pirqs(count),
            Step::Broker(0) => world.broker.stop(),
            Step::Broker(1) => world.broker.go_on(),
            Step::Broker(2) => world.broker.kill(),
            Step::Broker(_) => {
                world.broker.kill();
                world.broker.start();
            }
            Step::Reload(guest) => {
                world.guest(self.domids[guest]).unload();
                world.settle();
                world.guest(self.domids[guest]).set_state(1);
                world.settle();
                views[guest] = View::NEW;
            }
            Step::Reboot(guest) => {
                self.end(guest);
                let world = &mut self.world;
                let domid = world.create_guest(self.next);
                world.tool.attach(domid, DEVICES[guest]);
                world.settle();
                self.domids[guest] = domid;
                self.views[guest] = View::NEW;
                self.next += 1;
            }
        }
    }

    /// A guest dies. What the stub could not have quiesced the tool does, as `pcidom serve` or the next command.
    fn end(&mut self, guest: usize) {
        let world = &mut self.world;
        let domid = self.domids[guest];
        world.destroy(domid);
        world.settle();
        world.tool.remove_dirs(domid);
        world.settle();
        world.run_out_of_time(); // a broker that is stopped has its second
        world.settle();
        for device in DEVICES[guest] {
            let state = world.tool.pool_state(*device).expect("in the pool");
            assert!(!state.starts_with("assigned"), "waits for ever: {device} {state}");
            world.quiesce(domid, *device);
            world.tool.set_online(*device, true);
        }
        world.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_pirq_is_lost_or_shared(steps in prop::collection::vec(step(), 1..60)) {
        logs::collect(log::LevelFilter::Warn);
        let mut play = Play::new();
        for step in &steps {
            play.step(step);
            play.take_answers();
            for (owner, _, device) in play.world.xen.pirqs() {
                prop_assert!(DEVICES.iter().zip(play.domids).any(|(list, domid)| domid == owner && list.contains(&device)));
            }
        }
        // Everybody comes to rest: a broker that works, and guests that let go.
        let world = &mut play.world;
        world.broker.faults.clear();
        world.broker.go_on();
        world.work();
        if !world.broker.is_running() {
            world.broker.start();
        }
        world.settle();
        play.take_answers();
        play.check_views()?;
        let world = &mut play.world;
        for domid in play.domids {
            prop_assert!(world.guest(domid).page().is_none() || world.guest(domid).response().is_some(), "no answer");
            world.guest(domid).unload();
        }
        world.settle();
        prop_assert_eq!(world.xen.pirqs(), vec![], "leaked");
        let is_quiesced = |device| world.xen.with_function(ecam(device), |function| function.is_quiesced());
        prop_assert!(all().all(|device| is_quiesced(device) == Some(true)));
        for guest in 0..3 {
            play.end(guest);
        }
        prop_assert!(play.world.pool_states().values().all(|state| state == "free"));
        play.world.assert_clean();
    }
}
