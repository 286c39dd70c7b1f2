//! The broker beside the commands that it has do their work, and that do some of its own.

use std::time::Duration;

use dom0::xen::Vector;
use fakes::bench::*;
use fakes::{E1000, EDU, Mapped, NVME, STUB, WEB, device};
use pcidom_abi::{BrokerCommand, DeviceNode, paths};
use pcidom_broker::{DeviceResources, Vectors};
use pciif::ErrorCode;
use xen_types::DomId;
use xenstore::path;

use crate::device::quiesce::release;
use crate::fake::Machine;
use crate::host::Host;

/// What a command has of the bench's machine.
fn host(bench: &Bench) -> Host {
    Machine::host_of(&bench.machine)
}

#[test]
fn what_a_killed_command_left_is_put_right_though_no_other_command_comes() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.turn().unwrap();
    bench.pass(broker.idle().unwrap_or_default());
    broker.turn().unwrap();
    assert_eq!(broker.idle(), None, "nobody is at work");
    bench.machine.with(|world| {
        world.write("/tool/pcidom/command/4711", "1");
        world.living.insert(4711);
    });
    process.changed("/tool/pcidom/command/4711");
    // Nobody says when it ends: the broker looks as long as it is there.
    for _ in 0..5 {
        broker.turn().unwrap();
        bench.pass(broker.idle().expect("it is watched"));
    }
    assert_eq!(bench.reclaimer.started.get(), 0);
    bench.machine.with(|world| world.living.clear());
    let died = bench.machine.host.elapsed();
    while bench.reclaimer.started.get() == 0 {
        broker.turn().unwrap();
        if bench.reclaimer.started.get() == 0 {
            bench.pass(broker.idle().unwrap());
        }
    }
    assert!(bench.machine.host.elapsed() - died < Duration::from_secs(1));
    // As `pcidom reclaim` does it.
    let host = &host(&bench);
    crate::records::running_commands::run(host, || {
        crate::ops::recover::reclaim(host)?;
        crate::records::running_commands::forget_dead(host)
    })
    .unwrap();
    bench.reclaimer.busy.set(false);
    broker.child_ended();
    broker.turn().unwrap();
    while let Some(idle) = broker.idle() {
        bench.pass(idle);
        broker.turn().unwrap();
    }
    assert_eq!(bench.reclaimer.started.get(), 1);
    assert_eq!(bench.machine.with(|world| world.children("/tool/pcidom/command").len()), 0);
}

#[test]
fn devices_of_a_dead_guest_are_taken_back_at_once_and_beside_the_loop() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1]), &[0, 1]);
    assert_eq!(bench.reclaimer.started.get(), 0);
    bench.machine.with(|world| world.destroy(WEB));
    process.changed(path::RELEASE_DOMAIN);
    bench.turn_and_look(&mut broker);
    assert_eq!(bench.reclaimer.started.get(), 1);
    assert_eq!(broker.idle(), None, "its end is an event");
    // It does its work; stubs are served all the while.
    assert_eq!(bench.ask(&mut broker, OTHER, &request(BrokerCommand::Query, EDU), &[]).code, ErrorCode::Success);
    bench.machine.with(|world| world.stub.silent = true);
    crate::ops::recover::reclaim(&host(&bench)).unwrap();
    bench.reclaimer.busy.set(false);
    broker.child_ended();
    // The stub was silent: not settled, so it is tried again, but not at once and not for ever.
    let mut tries = 0;
    for _ in 0..200 {
        let Some(idle) = broker.idle() else { break };
        bench.pass(idle);
        broker.turn().unwrap();
        if bench.reclaimer.busy.get() {
            tries += 1;
            bench.reclaimer.busy.set(false);
            if tries == 3 {
                bench.machine.with(|world| world.stub.silent = false);
                crate::ops::recover::reclaim(&host(&bench)).unwrap();
            }
            broker.child_ended();
        }
    }
    assert_eq!(tries, 3);
    assert_eq!(broker.idle(), None);
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]).code, ErrorCode::DevNotFound);
    assert!(bench.machine.with(|world| world.vectors.is_empty()));
}

#[test]
fn an_attach_that_fails_after_the_guest_got_vectors_leaves_none() {
    let machine = Machine::new();
    crate::ops::assignable::add(&machine.host, &[device(NVME)], "pcidom").unwrap();
    let expected = machine.dump_but_config();
    machine.with(|world| {
        world.guest.refuses = Some("driver trouble");
        // The guest's driver gets its vectors, the broker writes down which, and then the guest closes.
        world.incidents.push(Box::new(move |world| {
            let connected = world.value("/local/domain/3/backend/pci/5/0/state") == Some("4");
            if connected {
                world.pirqs.insert((WEB, 55));
                let vector = Vector::Msi { count: 1 };
                world.vectors.insert((WEB, 55), Mapped { device: device(NVME), vector, first: 55 });
                world.write(&DeviceNode::Vectors.of(device(NVME)), "msi 55");
            }
            connected
        }));
    });
    let request = crate::ops::attach::Request {
        guest: "web".to_owned(),
        backend: "pcidom".to_owned(),
        devices: vec![NVME.parse().unwrap()],
        export: None,
        timeout: Duration::from_secs(1),
        following: crate::ops::attach::Following::No,
        until: crate::ops::attach::Until::Used,
    };
    crate::ops::attach::attach(&machine.host, &request).unwrap_err();
    machine.with(|world| {
        assert!(world.incidents.is_empty(), "it never connected");
        world.remove("/local/domain/5/error/device"); // the guest's own words
    });
    machine.dump_but_config().assert_same(&expected, "");
    machine.assert_no_violations();
}

/// How often devices were taken back or brought to their guest when it has rebooted.
fn runs_after_a_reboot(has_options: bool) -> u32 {
    let bench = Bench::new();
    bench.machine.with(|world| {
        let dir = paths::device_dir(device(NVME));
        world.write(&format!("{dir}/persistent"), "0a5e2f3c-7f7b-4a55-8f4e-000000000005");
        if has_options {
            world.write(&format!("{dir}/spec"), NVME);
        }
    });
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| world.destroy(WEB));
    process.changed(path::RELEASE_DOMAIN);
    bench.turn_and_look(&mut broker);
    assert_eq!(bench.reclaimer.started.get(), 1);
    crate::ops::recover::reclaim(&host(&bench)).unwrap();
    bench.reclaimer.busy.set(false);
    broker.child_ended();
    bench.pass(broker.idle().unwrap());
    broker.turn().unwrap();
    assert_eq!((bench.reclaimer.started.get(), broker.idle()), (1, None), "nobody is there to follow");
    bench.machine.add_domain(DomId(9), "web");
    bench.machine.with(|world| {
        world.write("/local/domain/9/vm", "/vm/0a5e2f3c-7f7b-4a55-8f4e-000000000005");
    });
    process.changed(path::INTRODUCE_DOMAIN);
    bench.turn_and_look(&mut broker);
    bench.reclaimer.started.get()
}

#[test]
fn a_guest_that_reboots_gets_its_devices_at_once() {
    assert_eq!(runs_after_a_reboot(true), 2);
}

/// No command could attach it, so none is started for it, again and again.
#[test]
fn a_device_whose_options_are_lost_is_not_persistent_any_more() {
    assert_eq!(runs_after_a_reboot(false), 1);
}

#[test]
fn a_device_that_was_pulled_out_leaves_no_vectors() {
    for noted in ["", "busy"] {
        let bench = Bench::busy();
        if !noted.is_empty() {
            let node = DeviceNode::Vectors.of(device(NVME));
            bench.machine.with(|world| world.write(&node, noted));
        }
        std::fs::remove_dir_all(bench.machine.tree.path().join(format!("bus/pci/devices/{NVME}"))).unwrap();
        let process = bench.process();
        let mut broker = bench.start(&process);
        let heard = bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]);
        assert_eq!(heard.code, ErrorCode::DevNotFound);
        release(&host(&bench), WEB, &[device(NVME)], &[]).unwrap();
        assert_eq!((bench.mapped(NVME).len(), bench.mapped(E1000).len()), (0, 2));
        assert_eq!(bench.vectors(NVME), Vectors::None);
    }
}

#[test]
fn a_vector_cleanup_waits_for_what_the_broker_maps_for_another_device() {
    let bench = Bench::busy();
    let node = |name| DeviceNode::Vectors.of(device(name));
    let (mine, theirs) = (node(NVME), node(E1000));
    let vectors = bench.machine.with(|world| {
        let vectors = world.value(&theirs).unwrap().to_owned();
        world.write(&mine, "busy");
        world.write(&theirs, "busy"); // it is just at the e1000
        let (theirs, done) = (theirs.clone(), vectors.clone());
        world.incidents.push(Box::new(move |world| {
            let cleanup = world.has_node("/tool/pcidom/vector-cleanup/5");
            if cleanup {
                world.write(&theirs, &done);
            }
            cleanup
        }));
        vectors
    });
    let resources = DeviceResources::gather(&bench.machine.host, device(NVME)).unwrap();
    release(&host(&bench), WEB, &[device(NVME)], &[resources]).unwrap();
    assert_eq!((bench.mapped(NVME).len(), bench.mapped(E1000).len()), (0, 2));
    bench.machine.with(|world| {
        assert_eq!(world.value(&theirs), Some(vectors.as_str()));
        assert!(!world.has_node("/tool/pcidom/vector-cleanup"));
    });
    bench.assert_sound();
}

#[test]
fn nothing_is_mapped_while_a_command_cleans_up_vectors() {
    let bench = Bench::busy();
    bench.machine.with(|world| world.write("/tool/pcidom/vector-cleanup/5", ""));
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.vectors(E1000);
    let heard = bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, E1000), &[]);
    assert_eq!((heard.code, heard.info), (ErrorCode::OpFailed, 16));
    assert_eq!((bench.vectors(E1000), bench.mapped(E1000).len()), (before, 2));
    // A command that was killed at it does not keep it so.
    crate::ops::recover::reclaim(&host(&bench)).unwrap();
    let heard = bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, E1000), &[]);
    assert_eq!(heard.code, ErrorCode::Success);
    bench.assert_sound();
}
