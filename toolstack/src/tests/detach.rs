//! Tests of detach.

use super::{add_all, attach_to_web, attached, detach_from_web, pause};
use crate::error::{Error, ExitCause, HostError};
use crate::fake::{DB, Dump, E1000, EDU, Machine, NVME, STUB, WEB, device};
use xenstore::path;

const ALL: [&str; 3] = [E1000, EDU, NVME];

/// A machine as `add_all` leaves it, for comparison.
fn with_pool() -> Dump {
    let machine = Machine::new();
    add_all(&machine);
    machine.dump()
}

#[test]
fn attach_and_detach_leave_no_trace() {
    let machine = attached();
    detach_from_web(&machine, &ALL).unwrap();
    machine.dump().assert_same(&with_pool(), "");
    machine.assert_no_violations();
}

#[test]
fn the_guest_is_told_before_anything_is_taken() {
    let machine = attached();
    machine.with(|world| {
        world.incidents.push(Box::new(|world| {
            let told = world.value("/local/domain/3/backend/pci/5/0/state") == Some("7");
            if told {
                let complete = world.owners[&device(E1000)] == WEB
                    && world.iomem.contains(&(WEB, 0xfeb40))
                    && world.irqs.contains(&(WEB, 21))
                    && world.value("/local/domain/3/backend/pci/5/0/state-0") == Some("5")
                    && world.value("/local/domain/3/backend/pci/5/0/online") == Some("1");
                if !complete {
                    world.violations.push("rights went first".to_owned());
                }
            }
            told
        }));
    });
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| assert!(world.incidents.is_empty(), "the guest was never told"));
    machine.assert_no_violations();
}

#[test]
fn a_paused_guest_that_never_booted_is_not_waited_for() {
    let machine = Machine::new();
    add_all(&machine);
    pause(&machine, WEB);
    attach_to_web(&machine, &ALL).unwrap();
    let before = machine.with(|world| world.clock);
    detach_from_web(&machine, &ALL).unwrap();
    assert!(machine.with(|world| world.clock) - before < std::time::Duration::from_secs(1));
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = false);
    machine.dump().assert_same(&with_pool(), "");
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_keeps_its_devices_goes_on_with_them() {
    let machine = attached();
    machine.with(|world| world.guest.keeps = true);
    let before = machine.dump();
    let error = detach_from_web(&machine, &ALL).unwrap_err();
    assert!(matches!(error, Error::GuestSilent { .. }), "{error}");
    assert_eq!(error.cause(), ExitCause::GuestSilent);
    machine.dump().assert_same(&before, "");
    machine.with(|world| world.guest.keeps = false);
    detach_from_web(&machine, &ALL).unwrap();
    machine.dump().assert_same(&with_pool(), "");
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_stops_half_way_can_be_finished_later() {
    let machine = attached();
    machine.with(|world| world.guest.stops_at_7 = true);
    machine.with(|world| world.stub.silent = true);
    let error = detach_from_web(&machine, &ALL).unwrap_err();
    assert!(matches!(error, Error::StubSilent { .. }), "{error}");
    machine.with(|world| world.stub.silent = false);
    machine.settle();
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/3/backend/pci/5/0/num_devs"), Some("0"));
        world.guest.stops_at_7 = false;
    });
    machine.settle();
    crate::ops::recover::reclaim(&machine.host).unwrap();
    machine.dump().assert_same(&with_pool(), "");
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_does_not_close_keeps_a_bus_without_devices() {
    let machine = attached();
    machine.with(|world| world.guest.half_closes = true);
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| {
        assert_eq!(world.owners[&device(E1000)], xen_types::DomId::IO);
        assert_eq!(world.value("/local/domain/3/backend/pci/5/0/num_devs"), Some("0"));
        world.guest.half_closes = false;
        world.write("/local/domain/5/device/pci/0/state", "6");
    });
    machine.settle();
    crate::ops::recover::reclaim(&machine.host).unwrap();
    machine.dump().assert_same(&with_pool(), "");
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_dies_while_it_is_asked_is_cleaned_up() {
    let machine = attached();
    machine.with(|world| {
        world.guest.keeps = true;
        world.incidents.push(Box::new(|world| {
            let told = world.value("/local/domain/3/backend/pci/5/0/state") == Some("7");
            if told {
                world.destroy(WEB);
            }
            told
        }));
    });
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| {
        assert!(world.owners.values().all(|owner| *owner != WEB));
        assert!(!world.paths().any(|path| path.contains("/pci/5")));
    });
    machine.assert_no_violations();
}

#[test]
fn what_the_guest_does_not_have_is_refused() {
    let machine = Machine::new();
    add_all(&machine);
    let error = detach_from_web(&machine, &[EDU]).unwrap_err();
    assert_eq!(error.to_string(), "0000:00:06.0 is not attached to web (domain 5)");
}

#[test]
fn another_backend_than_the_one_named_is_refused() {
    let machine = attached();
    let request = crate::ops::detach::Request {
        guest: "5".to_owned(),
        backend: Some("db".to_owned()),
        devices: ALL.map(device).to_vec(),
        timeout: super::TIMEOUT,
        force: false,
    };
    let error = crate::ops::detach::detach(&machine.host, &request, &[]).unwrap_err();
    assert!(matches!(error, Error::OtherPool { .. }), "{error}");
}

#[test]
fn a_guest_whose_stub_is_gone_gives_its_devices_back() {
    let machine = attached();
    machine.with(|world| world.destroy(STUB));
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| {
        assert_eq!((&world.iomem.len(), &world.ioports.len(), &world.irqs.len()), (&0, &0, &0));
        let forgotten = |path: &str| !path.contains("device/pci") && !path.starts_with("/local/domain/3");
        assert!(world.paths().all(forgotten));
        assert!(world.paths().all(|path| !path.ends_with("/frontend") && !path.ends_with("/stub")));
        assert!(!world.has_node(&path::libxl_pci_dir(device(EDU))));
    });
    machine.assert_no_violations();
}

#[test]
fn a_stub_that_does_not_let_go_is_told_and_finished_later() {
    let machine = attached();
    machine.with(|world| {
        world.incidents.push(Box::new(|world| {
            let moved = world.value("/local/domain/5/device/pci/0/state") == Some("7");
            world.stub.silent |= moved;
            moved
        }));
    });
    let error = detach_from_web(&machine, &ALL).unwrap_err();
    assert!(matches!(error, Error::StubSilent { .. }), "{error}");
    machine.with(|world| {
        world.stub.silent = false;
        world.uncertain = true;
    });
    detach_from_web(&machine, &ALL).unwrap();
    machine.dump().assert_same(&with_pool(), "");
}

#[test]
fn whatever_fails_once_the_next_command_finishes() {
    let changes = {
        let machine = attached();
        let start = machine.with(|world| world.changes);
        detach_from_web(&machine, &ALL).unwrap();
        machine.with(|world| world.changes) - start
    };
    for failing in 1..=changes {
        let machine = attached();
        machine.with(|world| {
            world.failing_change = Some(world.changes + failing);
            world.uncertain = true;
        });
        let Err(error) = detach_from_web(&machine, &ALL) else { continue };
        detach_from_web(&machine, &ALL).unwrap_or_else(|again| panic!("change {failing}: {error}; again: {again}"));
        machine.dump().assert_same(&with_pool(), format!("change {failing}: {error}"));
        machine.assert_no_violations();
    }
}

#[test]
fn two_guests_come_and_go_apart() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    crate::ops::attach::attach(&machine.host, &super::request("db", &[NVME])).unwrap();
    detach_from_web(&machine, &[EDU]).unwrap();
    machine.with(|world| {
        assert_eq!(world.owners[&device(NVME)], DB);
        assert_eq!(world.value("/local/domain/3/backend/pci/6/0/state"), Some("4"));
        assert!(world.iomem.contains(&(DB, 0x8c0000)));
    });
    machine.assert_no_violations();
}

#[test]
fn a_device_that_was_pulled_out_leaves_no_rights_behind() {
    let machine = attached();
    std::fs::remove_dir_all(machine.tree.path().join(format!("bus/pci/devices/{EDU}"))).unwrap();
    machine.with(|world| world.owners.remove(&device(EDU)));
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| {
        assert!(world.iomem.iter().all(|(domain, _)| *domain == STUB));
        assert_eq!((world.irqs.len(), world.pirqs.len()), (0, 0));
        assert!(world.notes.iter().any(|note| note.contains("refuses 0000:00:06.0")), "{:?}", world.notes);
    });
    machine.assert_no_violations();
}

#[test]
fn a_device_that_is_pulled_out_while_its_guest_lets_go_leaves_no_rights_behind() {
    let machine = attached();
    let files = machine.tree.path().join(format!("bus/pci/devices/{EDU}"));
    machine.with(|world| {
        world.incidents.push(Box::new(move |world| {
            let is_closing = world.value("/local/domain/3/backend/pci/5/0/state") == Some("5");
            if is_closing {
                std::fs::remove_dir_all(&files).unwrap();
                world.owners.remove(&device(EDU));
            }
            is_closing
        }));
    });
    detach_from_web(&machine, &ALL).unwrap();
    machine.with(|world| {
        assert!(world.incidents.is_empty(), "it was not pulled out");
        assert!(world.iomem.iter().all(|(domain, _)| *domain == STUB));
        assert_eq!((world.irqs.len(), world.pirqs.len()), (0, 0));
    });
    machine.assert_no_violations();
}

/// What its reset did to one device is no reason to leave the others half-way.
#[test]
fn a_device_that_its_reset_takes_away_keeps_no_other_from_coming_back() {
    let machine = attached();
    machine.with(|world| world.lost_by_reset.insert(NVME.to_owned()));
    let error = detach_from_web(&machine, &ALL).unwrap_err();
    assert!(error.to_string().contains(NVME), "{error}");
    let phase = |name: &str| {
        let node = format!("/tool/pcidom/device/{}/phase", device(name).path_component());
        machine.with(|world| world.value(&node).map(str::to_owned))
    };
    let phases = ALL.map(|name| (name, phase(name)));
    let expected = |name| if name == NVME { "detaching" } else { "pool" };
    assert!(phases.iter().all(|(name, phase)| phase.as_deref() == Some(expected(*name))), "{phases:?}");
}

#[test]
fn a_reset_that_does_not_end_holds_up_nobody_and_the_device_stays_out_of_the_pool() {
    let machine = attached();
    machine.with(|world| world.hanging_resets.insert(NVME.to_owned()));
    let error = detach_from_web(&machine, &ALL).unwrap_err();
    assert!(matches!(error, Error::Host(HostError::ResetHangs(hanging)) if hanging == device(NVME)), "{error}");
    let phase = |name: &str| {
        let node = format!("/tool/pcidom/device/{}/phase", device(name).path_component());
        machine.with(|world| world.value(&node).map(str::to_owned))
    };
    assert_eq!(phase(NVME).as_deref(), Some("detaching"));
    assert_eq!(phase(EDU).as_deref(), Some("pool"));
    // Everybody keeps away from its registers, and the others can be had. The rights are gone already.
    machine.with(|world| world.uncertain = true);
    crate::tests::attach_to_web(&machine, &[EDU]).unwrap();
    assert!(crate::tests::attach_to_web(&machine, &[NVME]).is_err());
    assert_eq!(phase(NVME).as_deref(), Some("detaching"));
    detach_from_web(&machine, &[EDU]).unwrap();
    // It has come to its end.
    machine.with(|world| world.resetting.clear());
    crate::ops::recover::reclaim(&machine.host).unwrap();
    assert_eq!(phase(NVME).as_deref(), Some("pool"));
    machine.dump().assert_same(&with_pool(), "");
    machine.assert_no_violations();
}
