//! Stubs and guests that come and go.

use super::*;
use pcidom_abi::{DeviceNode, paths};
use std::time::Duration;

#[test]
fn a_stub_learns_that_somebody_is_there() {
    let bench = Bench::new();
    let process = bench.process();
    let _broker = bench.start(&process);
    let wires = bench.wires.borrow();
    assert_eq!((wires.raised[&(STUB, PORT)], wires.raised[&(OTHER, PORT)]), (1, 1));
}

#[test]
fn a_stub_that_comes_later_is_met() {
    let bench = Bench::new();
    bench.machine.with(|world| world.remove(&paths::ring_port_node(STUB)));
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.turn().unwrap();
    bench.publish(STUB, &request(BrokerCommand::Query, NVME), &[]);
    bench.pass(Duration::from_secs(1));
    broker.turn().unwrap();
    assert_eq!(bench.answer(STUB, 0), None);
    bench.announce(STUB);
    bench.publish(STUB, &request(BrokerCommand::Query, NVME), &[]);
    process.changed(&paths::ring_port_node(STUB));
    bench.turn_and_look(&mut broker);
    assert_eq!(broker.idle(), Some(Duration::ZERO), "it has not looked at the page yet");
    broker.turn().unwrap();
    assert_eq!(bench.answer(STUB, 0).unwrap().code, ErrorCode::Success);
}

#[test]
fn a_stub_that_is_gone_is_let_go() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| world.destroy(STUB));
    process.changed(path::RELEASE_DOMAIN);
    broker.turn().unwrap();
    bench.pass(Duration::from_secs(1));
    broker.turn().unwrap();
    let granted = bench.wires.borrow().granted[&(STUB, GRANT)].clone();
    assert_eq!(Arc::strong_count(&granted), 2, "the page is not mapped any more");
    assert_eq!(bench.wires.borrow().bound.len(), 1);
    assert!(!process.watches.paths.borrow().contains(&paths::announcements_dir(STUB)));
    assert_eq!(bench.ask(&mut broker, OTHER, &request(BrokerCommand::Query, EDU), &[]).code, ErrorCode::Success);
}

#[test]
fn a_broker_that_is_told_to_stop_leaves_devices_alone() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1]), &[0, 1]);
    let before = bench.machine.dump();
    broker.stop();
    bench.machine.dump().assert_same(&before, "");
    assert!(bench.wires.borrow().bound.is_empty());
    assert!(bench.wires.borrow().granted.values().all(|page| Arc::strong_count(page) == 1));
}

#[test]
fn the_next_broker_answers_what_the_last_one_left() {
    let bench = Bench::new();
    bench.publish(STUB, &enable_msix(NVME, &[3]), &[3]);
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.turn().unwrap();
    assert_eq!(bench.answer(STUB, 1).unwrap().vectors, [55]);
    drop(broker);
    drop(process);
    bench.publish(STUB, &request(BrokerCommand::DisableMsix, NVME), &[]);
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.turn().unwrap();
    assert_eq!(bench.answer(STUB, 0), Some(success(0)));
    bench.assert_sound();
}

#[test]
fn an_answer_that_nobody_waits_for_is_not_given_to_the_next_question() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let page = bench.page(STUB);
    // While the vector is mapped the stub gives up and asks something else.
    bench.machine.with(|world| {
        let page = page.clone();
        world.during_map = Some(Box::new(move || {
            let front = FrontendPage::new(page.clone());
            assert!(front.cancel());
            front.publish(&request(BrokerCommand::Query, NVME));
        }));
    });
    bench.publish(STUB, &request(BrokerCommand::EnableMsi, NVME), &[]);
    broker.turn().unwrap();
    assert_eq!(bench.answer(STUB, 0), None, "the first answer is dropped");
    assert_eq!(broker.idle(), Some(Duration::ZERO));
    bench.turn_and_look(&mut broker);
    let heard = bench.answer(STUB, 0).unwrap();
    assert_eq!((heard.code, heard.value, heard.info), (ErrorCode::Success, 3, 1));
    bench.assert_sound();
}

#[test]
fn a_host_that_is_slow_is_told_of() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| world.map_takes = Duration::from_millis(700));
    bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, NVME), &[]);
    assert!(
        bench
            .notes()
            .iter()
            .any(|note| note.starts_with("domain 3 had to wait: enable_msi") && note.ends_with("700 ms"))
    );
}

#[test]
fn an_idle_broker_sleeps() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let mut turns = 0;
    while let Some(idle) = broker.idle() {
        bench.pass(idle);
        broker.turn().unwrap();
        turns += 1;
        assert!(turns < 5, "it does not come to rest");
    }
    // Its own notes do not wake it.
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
    for name in ["vectors", "intx", "phase", "frontend"] {
        process.changed(&path::child(&paths::device_dir(device(NVME)), name));
    }
    broker.turn().unwrap();
    assert_eq!(broker.idle(), None);
}

#[test]
fn a_table_that_makes_no_sense_for_a_moment_stops_nobody() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    // Between two reads of ours somebody removed the device.
    let phase = DeviceNode::Phase.of(device(E1000));
    bench.machine.with(|world| world.remove(&phase));
    process.changed(&paths::device_dir(device(E1000)));
    broker.turn().unwrap();
    bench.pass(Duration::from_millis(100));
    broker.turn().unwrap();
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]).code, ErrorCode::Success);
    bench.machine.with(|world| world.destroy(OTHER));
    bench.set_phase(E1000, Phase::Attached);
    bench.pass(broker.idle().unwrap());
    broker.turn().unwrap();
    assert_eq!(bench.wires.borrow().bound.len(), 1, "it has looked again");
}

#[test]
fn a_stub_that_was_started_again_is_waited_for() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| {
        world.write("/tool/pcidom/device/0000-00-1f-2/backend", "pcidom-3");
        std::fs::remove_file(bench.machine.tree.path().join("bus/pci/devices/0000:00:1f.2/driver")).unwrap();
    });
    bench.machine.tree.link("bus/pci/devices/0000:00:1f.2/driver", "../../drivers/pciback");
    bench.machine.add_domain(DomId(10), "pcidom-3");
    process.changed(path::INTRODUCE_DOMAIN);
    bench.turn_and_look(&mut broker);
    // Events may have come while it waited for its new watch: it looks for them before it sleeps.
    assert_eq!(broker.idle(), Some(Duration::ZERO));
    bench.turn_and_look(&mut broker);
    assert_eq!((bench.reclaimer.started.get(), broker.idle()), (0, None), "it is not ready");
    bench.machine.with(|world| world.write("/local/domain/10/data/pcidom/version", "0.1.0"));
    process.changed("/local/domain/10/data/pcidom/version");
    bench.turn_and_look(&mut broker);
    assert_eq!(bench.reclaimer.started.get(), 1);
}

#[test]
fn a_stub_that_was_started_again_is_waited_for_while_a_guest_still_has_its_devices() {
    let bench = Bench::new();
    bench.machine.with(|world| {
        let dir = paths::device_dir(device(NVME));
        world.write(&format!("{dir}/backend"), "pcidom");
        world.write("/local/domain/5/device/pci/0/state", "4");
        world.write(&format!("{dir}/persistent"), "0a5e2f3c-7f7b-4a55-8f4e-000000000005");
        world.write(&format!("{dir}/spec"), NVME);
    });
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| world.destroy(STUB));
    process.changed(path::RELEASE_DOMAIN);
    bench.turn_and_look(&mut broker);
    bench.machine.add_domain(DomId(10), "pcidom");
    process.changed(path::INTRODUCE_DOMAIN);
    bench.turn_and_look(&mut broker);
    // Events may have come while it waited for its new watch: it looks for them before it sleeps.
    assert_eq!(broker.idle(), Some(Duration::ZERO));
    bench.turn_and_look(&mut broker);
    assert_eq!((bench.reclaimer.started.get(), broker.idle()), (0, None), "it is not ready");
    bench.machine.with(|world| world.write("/local/domain/10/data/pcidom/version", "0.1.0"));
    process.changed("/local/domain/10/data/pcidom/version");
    bench.turn_and_look(&mut broker);
    assert_eq!(bench.reclaimer.started.get(), 1);
}

#[test]
fn the_broker_says_of_what_release_and_contract_it_is() {
    let bench = Bench::new();
    let process = bench.process();
    let _broker = bench.start(&process);
    bench.machine.with(|world| assert_eq!(world.value(paths::BROKER), Some(pcidom_abi::ANNOUNCEMENT)));
}

#[test]
fn a_stub_is_served_that_has_the_brokers_contract_and_no_other() {
    for (version, is_served) in [
        (pcidom_abi::ANNOUNCEMENT, true),
        ("7.0.0 contract 1", true),
        // A release that named none had the first.
        ("0.0.9", true),
        ("0.0.1 contract 0", false),
        ("7.0.0 contract 2", false),
        ("7.0.0 contract new", false),
    ] {
        let bench = Bench::new();
        bench.machine.with(|world| world.write(&paths::version_node(STUB), version));
        bench.publish(STUB, &request(BrokerCommand::Query, NVME), &[]);
        let process = bench.process();
        let mut broker = bench.start(&process);
        broker.turn().unwrap();
        assert_eq!(bench.answer(STUB, 0).is_some(), is_served, "{version}");
        let said = bench.notes().join("\n");
        let release = version.split(' ').next().unwrap();
        assert_eq!(
            said.contains(&format!("domain 3 is not served: it is of {release} (contract ")),
            !is_served,
            "{said}"
        );
        assert_eq!(bench.ask(&mut broker, OTHER, &request(BrokerCommand::Query, EDU), &[]).code, ErrorCode::Success);
        // It may have been a slip of the one who wrote it.
        bench.machine.with(|world| world.write(&paths::version_node(STUB), pcidom_abi::ANNOUNCEMENT));
        process.changed(&paths::version_node(STUB));
        bench.pass(Duration::from_secs(1));
        (0..3).for_each(|_| broker.turn().unwrap());
        assert!(is_served || bench.answer(STUB, 0).is_some(), "{version}");
        bench.assert_sound();
    }
}

#[test]
fn a_stub_is_met_when_it_has_said_its_version() {
    let bench = Bench::new();
    bench.machine.with(|world| world.remove(&paths::version_node(STUB)));
    bench.publish(STUB, &request(BrokerCommand::Query, NVME), &[]);
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.turn().unwrap();
    assert_eq!(bench.answer(STUB, 0), None);
    bench.machine.with(|world| world.write(&paths::version_node(STUB), pcidom_abi::ANNOUNCEMENT));
    process.changed(&paths::version_node(STUB));
    bench.pass(Duration::from_secs(1));
    (0..3).for_each(|_| broker.turn().unwrap());
    assert_eq!(bench.answer(STUB, 0).unwrap().code, ErrorCode::Success);
}
