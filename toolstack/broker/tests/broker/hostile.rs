//! Malicious stubs.

use super::*;
use pcidom_abi::paths;
use proptest::prelude::*;

#[test]
fn devices_of_others_are_not_there() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = (bench.config(EDU).bytes, bench.config(NVME).bytes);
    let nobody = refused(ErrorCode::DevNotFound);
    for command in BrokerCommand::ALL {
        let mut theirs = request(command, EDU);
        (theirs.offset, theirs.size, theirs.value, theirs.info) = (4, 2, 1, 4);
        let heard = bench.ask(&mut broker, STUB, &theirs, &[0]);
        assert_eq!(Heard { vectors: Vec::new(), ..heard }, nobody, "{command}");
        // dom0's own, and one that does not exist.
        for name in ["0000:00:1f.2", "0000:99:00.0"] {
            let heard = bench.ask(&mut broker, STUB, &request(command, name), &[0]);
            assert_eq!(Heard { vectors: Vec::new(), ..heard }, nobody, "{command} {name}");
        }
    }
    for (domain, bus, devfn) in [(0x1_0000, 0, 0x38), (0, 0x100, 0x38), (0, 0, 0x138), (u32::MAX, u32::MAX, u32::MAX)] {
        let odd = Request { domain, bus, devfn, ..request(BrokerCommand::Query, NVME) };
        assert_eq!(bench.ask(&mut broker, STUB, &odd, &[]), nobody);
    }
    assert_eq!((bench.config(EDU).bytes, bench.config(NVME).bytes), before);
    let said: Vec<String> = bench.notes().into_iter().filter(|note| note.contains("does not hold")).collect();
    assert_eq!(said, ["domain 3 asked for a device that it does not hold for a guest"], "once a minute");
}

#[test]
fn only_a_device_with_a_guest_is_served() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    for (phase, code) in [
        (Phase::Attaching, ErrorCode::Success),
        (Phase::Attached, ErrorCode::Success),
        (Phase::Detaching, ErrorCode::DevNotFound),
        (Phase::Pool, ErrorCode::DevNotFound),
    ] {
        bench.set_phase(NVME, phase);
        assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]).code, code, "{phase:?}");
    }
}

#[test]
fn a_domain_with_the_number_of_a_dead_stub_gets_nothing() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    // xl removes a dead domain's directory; the new domain can write its data only.
    bench.machine.with(|world| world.remove("/local/domain/3/pool"));
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]).code, ErrorCode::DevNotFound);
    let again = bench.process();
    drop(broker);
    drop(process);
    let _broker = bench.start(&again);
    assert!(bench.wires.borrow().bound.values().all(|(stub, _)| *stub != STUB));
}

#[test]
fn garbage_is_refused_and_told_once() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    for cmd in [0, 6, 7, 8, 9, 11, 0xff, 0x103, 0x8000_0001, u32::MAX] {
        assert_eq!(bench.ask(&mut broker, STUB, &raw(cmd, device(NVME)), &[]), refused(ErrorCode::NotImplemented));
    }
    assert_eq!(bench.notes().iter().filter(|note| note.contains("unknown command")).count(), 1);
    bench.machine.with(|world| world.clock += std::time::Duration::from_secs(61));
    bench.ask(&mut broker, STUB, &raw(77, device(NVME)), &[]);
    let notes = bench.notes();
    assert_eq!(notes.last().unwrap(), "domain 3 sent an unknown command (0000:00:07.0) (and 9 times before)");
}

#[test]
fn announcements_may_be_anything() {
    for (reference, port) in [
        ("", ""),
        ("x", "11"),
        ("8", "-1"),
        ("99999999999", "11"),
        ("9", "11"),
        ("8", "12"),
        ("\08", "11"),
        ("8", "0x11"),
    ] {
        let bench = Bench::new();
        bench.machine.with(|world| {
            world.write(&paths::ring_ref_node(STUB), reference);
            world.write(&paths::ring_port_node(STUB), port);
        });
        let process = bench.process();
        let mut broker = bench.start(&process);
        assert_eq!(bench.ask(&mut broker, OTHER, &request(BrokerCommand::Query, EDU), &[]).code, ErrorCode::Success);
        assert!(bench.wires.borrow().bound.values().all(|(stub, _)| *stub != STUB), "{reference:?} {port:?}");
    }
}

#[test]
fn a_ring_that_does_not_work_is_tried_less_and_less() {
    let bench = Bench::new();
    bench.wires.borrow_mut().granted.remove(&(STUB, GRANT));
    let process = bench.process();
    let mut broker = bench.start(&process);
    let mut turns = 0;
    let end = std::time::Duration::from_secs(3600);
    while bench.machine.with(|world| world.clock) < end {
        // The stub stirs whenever it can.
        process.watches.events.borrow_mut().push_back(paths::ring_ref_node(STUB));
        broker.turn().unwrap();
        let idle = broker.idle().expect("it tries again");
        bench.machine.with(|world| world.clock += idle.max(std::time::Duration::from_millis(1)));
        turns += 1;
    }
    assert!(turns < 40_000, "{turns} turns in an hour");
    assert!(bench.notes().iter().filter(|note| note.contains("does not work")).count() < 61);
    // A good one is taken then.
    bench.wires.borrow_mut().granted.insert((STUB, GRANT), Arc::default());
    bench.machine.with(|world| world.clock += std::time::Duration::from_secs(65));
    process.watches.events.borrow_mut().push_back(paths::ring_ref_node(STUB));
    broker.turn().unwrap();
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]).code, ErrorCode::Success);
}

#[test]
fn events_without_a_request_do_nothing() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.turn().unwrap();
    let before = bench.machine.dump();
    for _ in 0..1000 {
        bench.wires.borrow_mut().raise(STUB, PORT);
        broker.turn().unwrap();
        assert_eq!(broker.idle(), Some(std::time::Duration::from_millis(100)), "the look after the first watches");
    }
    bench.machine.dump().assert_same(&before, "");
}

#[test]
fn a_stub_that_never_stops_asking_does_not_keep_others_waiting() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    for _ in 0..10 {
        bench.publish(STUB, &request(BrokerCommand::Query, NVME), &[]);
        bench.publish(OTHER, &request(BrokerCommand::Query, EDU), &[]);
        broker.turn().unwrap();
        assert!(bench.answer(OTHER, 0).is_some() && bench.answer(STUB, 0).is_some());
    }
}

#[test]
fn pages_full_of_anything_harm_nobody() {
    let bench = Bench::new();
    let process = bench.process();
    let broker = RefCell::new(bench.start(&process));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(250));
    let words = proptest::collection::vec(
        prop_oneof![any::<u32>(), 0u32..0x110, Just(u32::MAX), Just(0x38), Just(0x28), Just(0x30)],
        143,
    );
    runner
        .run(&words, |words| {
            let page = bench.page(STUB);
            for (index, word) in words.iter().enumerate() {
                page.set_word(4 * index, *word);
            }
            page.set_word(0, words[0] | 1);
            let edu = bench.config(EDU).bytes;
            bench.wires.borrow_mut().raise(STUB, PORT);
            broker.borrow_mut().turn().unwrap();
            prop_assert_eq!(page.word(0).unwrap() & 1, 0, "answered");
            prop_assert_eq!(bench.config(EDU).bytes, edu);
            bench.assert_sound();
            Ok(())
        })
        .unwrap();
}
