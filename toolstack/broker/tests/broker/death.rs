//! Brokers killed at each step, and the recovery by commands.

use super::*;
use dom0::{Dom0, Error};
use fakes::Killed;
use pcidom_broker::{DeviceResources, records};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// As a command quiesces, where no broker is at the other devices.
fn quiesce_device(host: &Dom0, guest: DomId, resources: &DeviceResources) -> Result<(), Error> {
    let capabilities = records::permitted_writes(host, resources.device)?.capabilities;
    pcidom_broker::quiesce_device(host, guest, resources, &capabilities, &|device| {
        pcidom_broker::vectors::load(host, device)
    })
}

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

/// Kills a broker at each change that a request has it make, and has `check` look at what is left: the bench, the request and the number of the
/// change.
fn after_each_death(check: impl Fn(&Bench, &Request, usize)) {
    let mut deaths = 0;
    for (request, entries) in requests() {
        for at in 1.. {
            let bench = Bench::busy();
            bench.publish(STUB, &request, &entries);
            if !killed(&bench, at, &|broker| broker.turn().unwrap()) {
                break;
            }
            deaths += 1;
            check(&bench, &request, at);
        }
    }
    assert!(deaths > 20, "{deaths}");
}

#[test]
fn the_next_broker_finishes_what_a_killed_one_began() {
    after_each_death(|bench, request, at| {
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
    });
}

#[test]
fn another_card_in_the_slot_is_left_alone_by_the_next_broker() {
    let bench = Bench::busy();
    bench.publish(STUB, &enable_msix(NVME, &[0]), &[0]);
    assert!(killed(&bench, 2, &|broker| broker.turn().unwrap()));
    bench.set_config(NVME, |config| config.set_word(2, 0x1533));
    let before = bench.config(NVME).bytes;
    let process = bench.process();
    drop(bench.start(&process));
    assert_eq!(bench.config(NVME).bytes, before);
    let told =
        "the vectors of 0000:00:07.0 are not cleared: 0000:00:07.0 is another device than the one that was attached";
    assert!(bench.notes().iter().any(|note| note == told), "{:?}", bench.notes());
}

#[test]
fn a_command_cleans_up_after_a_killed_broker() {
    after_each_death(|bench, request, at| {
        for name in [NVME, E1000] {
            let resources = DeviceResources::gather(&bench.machine.host, device(name)).unwrap();
            quiesce_device(&bench.machine.host, WEB, &resources).unwrap();
            assert!(bench.config(name).is_quiesced());
        }
        assert!(bench.machine.with(|world| world.vectors.is_empty()), "{request} killed at {at}");
        bench.assert_sound();
    });
}

#[test]
fn a_command_killed_while_it_cleans_up_leaves_the_rest_to_the_next() {
    for at in 1.. {
        let bench = Bench::busy();
        let host = &bench.machine.host;
        let quiet = || quiesce_device(host, WEB, &DeviceResources::gather(host, device(NVME)).unwrap()).unwrap();
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
            let bench = Bench::busy();
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
    let bench = Bench::busy();
    bench.machine.with(|world| world.destroy(WEB));
    let resources = DeviceResources::gather(&bench.machine.host, device(NVME)).unwrap();
    quiesce_device(&bench.machine.host, WEB, &resources).unwrap();
    assert!(bench.config(NVME).is_quiesced());
    assert_eq!(bench.vectors(NVME), Vectors::None);
}
