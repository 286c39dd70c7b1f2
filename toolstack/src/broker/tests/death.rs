//! Brokers that are killed at any step, and commands that find what they left.

use super::*;
use crate::broker::quiesce::{let_go, make_quiet};
use crate::device::resources::DeviceResources;
use crate::fake::Killed;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `act` in a broker that is killed at its change number `at`. False when it got through.
fn killed(bench: &Bench, at: usize, act: &dyn Fn(&mut Broker<'_, FakeRings>)) -> bool {
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| world.killing_change = Some(world.changes + at));
    let outcome = catch_unwind(AssertUnwindSafe(|| act(&mut broker)));
    bench.machine.with(|world| world.killing_change = None);
    match outcome {
        Ok(()) => false,
        Err(cause) => {
            assert!(cause.is::<Killed>(), "it died of itself");
            true
        }
    }
}

/// Everything that changes vectors, from a state in which something is on.
fn requests() -> Vec<(Request, Vec<u16>)> {
    vec![
        (enable_msix(NVME, &[0, 1, 2]), vec![0, 1, 2]),
        (request(BrokerCommand::EnableMsi, NVME), vec![]),
        (Request { info: 4, ..request(BrokerCommand::EnableMultiMsi, NVME) }, vec![]),
        (request(BrokerCommand::DisableMsix, NVME), vec![]),
        (request(BrokerCommand::Quiesce, NVME), vec![]),
    ]
}

/// A bench where both devices of the guest have vectors.
fn busy_bench() -> Bench {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[8, 9]), &[8, 9]);
    let block = Request { info: 2, ..request(BrokerCommand::EnableMultiMsi, E1000) };
    bench.ask(&mut broker, STUB, &block, &[]);
    drop(broker);
    drop(process);
    bench
}

#[test]
fn the_next_broker_finishes_what_a_killed_one_began() {
    let mut deaths = 0;
    for (request, entries) in requests() {
        for at in 1.. {
            let bench = busy_bench();
            bench.publish(STUB, &request, &entries);
            if !killed(&bench, at, &|broker| broker.turn().unwrap()) {
                break;
            }
            deaths += 1;
            assert_eq!(bench.answer(STUB, 0), None, "the request is still there");
            assert!(bench.wires.borrow().bound.is_empty());
            let process = bench.process();
            let mut broker = bench.start(&process);
            bench.assert_sound();
            assert_eq!(bench.mapped(E1000).len(), 2, "the other device keeps its vectors");
            assert!(bench.machine.with(|world| world.pirqs.contains(&(WEB, 23))), "and INTx is nobody's leak");
            broker.turn().unwrap();
            assert_eq!(bench.answer(STUB, 0).unwrap().code, ErrorCode::Success, "{request} killed at {at}");
            bench.assert_sound();
        }
    }
    assert!(deaths > 20, "{deaths}");
}

#[test]
fn a_command_cleans_up_after_a_killed_broker() {
    let mut deaths = 0;
    for (request, entries) in requests() {
        for at in 1.. {
            let bench = busy_bench();
            bench.publish(STUB, &request, &entries);
            if !killed(&bench, at, &|broker| broker.turn().unwrap()) {
                break;
            }
            deaths += 1;
            for name in [NVME, E1000] {
                let facts = DeviceResources::gather(&bench.machine.host, device(name)).unwrap();
                make_quiet(&bench.machine.host, WEB, &facts).unwrap();
                assert!(bench.config(name).is_quiet());
            }
            assert!(bench.machine.with(|world| world.vectors.is_empty()), "{request} killed at {at}");
            bench.assert_sound();
        }
    }
    assert!(deaths > 20, "{deaths}");
}

#[test]
fn a_command_that_dies_cleaning_up_is_followed_by_another() {
    for at in 1.. {
        let bench = busy_bench();
        let host = &bench.machine.host;
        let quiet = || make_quiet(host, WEB, &DeviceResources::gather(host, device(NVME)).unwrap()).unwrap();
        bench.machine.with(|world| world.killing_change = Some(world.changes + at));
        let died = catch_unwind(AssertUnwindSafe(quiet)).is_err();
        bench.machine.with(|world| world.killing_change = None);
        quiet();
        assert_eq!(bench.mapped(NVME).len(), 0);
        assert_eq!(bench.mapped(E1000).len(), 2);
        bench.assert_sound();
        if !died {
            assert!(at > 4, "{at}");
            break;
        }
    }
}

#[test]
fn steps_that_fail_leave_nothing_behind() {
    let mut failures = 0;
    for (request, entries) in requests() {
        for at in 1.. {
            let bench = busy_bench();
            let process = bench.process();
            let mut broker = bench.start(&process);
            let reached = bench.machine.with(|world| {
                world.failing_change = Some(world.changes + at);
                world.changes + at
            });
            let heard = bench.ask(&mut broker, STUB, &request, &entries);
            bench.machine.with(|world| world.failing_change = None);
            if bench.machine.with(|world| world.changes) < reached {
                break;
            }
            failures += 1;
            assert_eq!((heard.code, heard.info), (ErrorCode::OpFailed, 5), "{request} failed at {at}");
            bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
            bench.assert_sound();
        }
    }
    assert!(failures > 20, "{failures}");
}

#[test]
fn a_guest_that_died_meanwhile_is_no_trouble() {
    let bench = busy_bench();
    bench.machine.with(|world| world.destroy(WEB));
    let facts = DeviceResources::gather(&bench.machine.host, device(NVME)).unwrap();
    make_quiet(&bench.machine.host, WEB, &facts).unwrap();
    assert!(bench.config(NVME).is_quiet());
    assert_eq!(bench.vectors(NVME), Vectors::None);
}

#[test]
fn a_device_that_was_pulled_out_leaves_no_vectors() {
    for noted in ["", "busy"] {
        let bench = busy_bench();
        if !noted.is_empty() {
            let node = path::child(&path::tool_device_dir(device(NVME)), "vectors");
            bench.machine.with(|world| world.write(&node, noted));
        }
        std::fs::remove_dir_all(bench.machine.tree.path().join(format!("bus/pci/devices/{NVME}"))).unwrap();
        let process = bench.process();
        let mut broker = bench.start(&process);
        let heard = bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]);
        assert_eq!(heard.code, ErrorCode::DevNotFound);
        let_go(&bench.machine.host, WEB, &[device(NVME)], &[]).unwrap();
        assert_eq!((bench.mapped(NVME).len(), bench.mapped(E1000).len()), (0, 2));
        assert_eq!(bench.vectors(NVME), Vectors::None);
    }
}

#[test]
fn a_sweep_waits_for_what_the_broker_maps_for_another_device() {
    let bench = busy_bench();
    let node = |name| path::child(&path::tool_device_dir(device(name)), "vectors");
    let (mine, theirs) = (node(NVME), node(E1000));
    let vectors = bench.machine.with(|world| {
        let vectors = world.value(&theirs).unwrap().to_owned();
        world.write(&mine, "busy");
        world.write(&theirs, "busy"); // it is just at the e1000
        let (theirs, done) = (theirs.clone(), vectors.clone());
        world.incidents.push(Box::new(move |world| {
            let swept = world.nodes.contains_key("/tool/pcidom/sweep/5");
            if swept {
                world.write(&theirs, &done);
            }
            swept
        }));
        vectors
    });
    let facts = DeviceResources::gather(&bench.machine.host, device(NVME)).unwrap();
    let_go(&bench.machine.host, WEB, &[device(NVME)], &[facts]).unwrap();
    assert_eq!((bench.mapped(NVME).len(), bench.mapped(E1000).len()), (0, 2));
    bench.machine.with(|world| {
        assert_eq!(world.value(&theirs), Some(vectors.as_str()));
        assert!(!world.nodes.contains_key("/tool/pcidom/sweep"));
    });
    bench.assert_sound();
}

#[test]
fn nothing_is_mapped_while_a_command_sweeps() {
    let bench = busy_bench();
    bench.machine.with(|world| world.write("/tool/pcidom/sweep/5", ""));
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.vectors(E1000);
    let heard = bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, E1000), &[]);
    assert_eq!((heard.code, heard.info), (ErrorCode::OpFailed, 16));
    assert_eq!((bench.vectors(E1000), bench.mapped(E1000).len()), (before, 2));
    // A command that was killed at it does not keep it so.
    crate::ops::recover::reclaim(&bench.machine.host).unwrap();
    let heard = bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, E1000), &[]);
    assert_eq!(heard.code, ErrorCode::Success);
    bench.assert_sound();
}
