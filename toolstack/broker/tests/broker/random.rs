//! Random requests of both stubs, with brokers that are killed and restarted in between.

use std::collections::BTreeSet;

use super::*;
use fakes::Killed;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Ask {
        other_stub: bool,
        name: &'static str,
        what: What,
    },
    /// The broker is killed at one of its next changes, and another one started.
    Kill {
        at: usize,
    },
    Restart,
    Phase {
        name: &'static str,
        attached: bool,
    },
}

#[derive(Clone, Debug)]
enum What {
    Msi,
    MultiMsi(u32),
    Msix(Vec<u16>),
    Disable,
    Quiesce,
    Command(u32),
    Power(u32),
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        Just(What::Msi),
        (0u32..40).prop_map(What::MultiMsi),
        proptest::collection::vec(0u16..70, 0..40).prop_map(What::Msix),
        proptest::collection::vec(0u16..64, 1..5).prop_map(What::Msix),
        Just(What::Disable),
        Just(What::Quiesce),
        any::<u32>().prop_map(What::Command),
        (0u32..4).prop_map(What::Power),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let name = || prop_oneof![Just(NVME), Just(E1000), Just(EDU)];
    prop_oneof![
        8 => (any::<bool>(), name(), what()).prop_map(|(other_stub, name, what)| Event::Ask { other_stub, name, what }),
        2 => (1usize..30).prop_map(|at| Event::Kill { at }),
        1 => Just(Event::Restart),
        1 => (name(), any::<bool>()).prop_map(|(name, attached)| Event::Phase { name, attached }),
    ]
}

fn to_request(name: &str, what: &What) -> (Request, Vec<u16>) {
    let plain = |command| (request(command, name), Vec::new());
    match what {
        What::Msi => plain(BrokerCommand::EnableMsi),
        What::MultiMsi(count) => (Request { info: *count, ..plain(BrokerCommand::EnableMultiMsi).0 }, Vec::new()),
        What::Msix(entries) => (enable_msix(name, entries), entries.clone()),
        What::Disable => plain(BrokerCommand::DisableMsix),
        What::Quiesce => plain(BrokerCommand::Quiesce),
        What::Command(value) => (conf_write(name, 4, 2, *value, 0x0414), Vec::new()),
        What::Power(state) => (conf_write(name, PM + 4, 2, *state, 3), Vec::new()),
    }
}

/// No pirq is noted for two devices of one guest, and none is mapped that is noted for none.
fn assert_one_owner(bench: &Bench) {
    let mut seen = BTreeSet::new();
    for (name, guest) in [(NVME, WEB), (E1000, WEB), (EDU, DB)] {
        for pirq in bench.vectors(name).pirqs() {
            assert!(seen.insert((guest, pirq.0)), "pirq {pirq} of domain {guest} has two owners");
        }
    }
    let mapped: BTreeSet<(DomId, u32)> = bench.machine.with(|world| world.vectors.keys().copied().collect());
    assert_eq!(mapped, seen);
}

fn run(events: &[Event]) {
    let bench = Bench::new();
    let mut left = events.iter();
    loop {
        let process = bench.process();
        bench.machine.with(|world| world.killing_change = None);
        let mut broker = bench.start(&process);
        bench.assert_sound();
        assert_one_owner(&bench);
        let died = catch_unwind(AssertUnwindSafe(|| {
            for event in left.by_ref() {
                match event {
                    Event::Restart => return true,
                    Event::Kill { at } => bench.machine.with(|world| world.killing_change = Some(world.changes + at)),
                    Event::Phase { name, attached } => {
                        let phase = if *attached { Phase::Attached } else { Phase::Attaching };
                        bench.set_phase(name, phase);
                    }
                    Event::Ask { other_stub, name, what } => {
                        let stub = if *other_stub { OTHER } else { STUB };
                        let (request, entries) = to_request(name, what);
                        let heard = bench.ask(&mut broker, stub, &request, &entries);
                        let theirs = (*name == EDU) == *other_stub;
                        assert_eq!(heard.code == ErrorCode::DevNotFound, !theirs, "{event:?}");
                        bench.assert_sound();
                        assert_one_owner(&bench);
                    }
                }
            }
            false
        }));
        match died {
            Ok(true) => {}
            Ok(false) => return,
            Err(cause) if cause.is::<Killed>() => {}
            Err(cause) => std::panic::resume_unwind(cause),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_pirq_ever_has_two_owners_and_none_is_lost(events in proptest::collection::vec(event(), 1..40)) {
        run(&events);
    }
}
