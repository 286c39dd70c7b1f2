//! Recovery: what earlier commands and dead guests left is put right.

use super::{add_all, attach_to_web, attached, detach_from_web};
use crate::fake::{E1000, EDU, Machine, NVME, STUB, WEB, device};
use crate::ops::recover::reclaim;
use pcidom_abi::{DeviceNode, paths};
use xen_types::DomId;

const ALL: [&str; 3] = [E1000, EDU, NVME];

fn phase(machine: &Machine, name: &str) -> Option<String> {
    machine.with(|world| world.value(&format!("{}/phase", paths::device_dir(device(name)))).map(str::to_owned))
}

#[test]
fn a_destroyed_guests_devices_return_to_the_pool() {
    let expected = {
        let machine = Machine::new();
        add_all(&machine);
        machine.with(|world| world.destroy(WEB));
        machine.dump()
    };
    let machine = attached();
    machine.with(|world| world.destroy(WEB));
    let reclaimed = reclaim(&machine.host).unwrap();
    assert_eq!(reclaimed[0].guest.to_string(), "web (domain 5)");
    machine.dump().assert_same(&expected, "");
    machine.with(|world| {
        let said = "took 0000:00:05.0, 0000:00:06.0, 0000:00:07.0 back from web (domain 5): the guest is gone";
        assert_eq!(world.notes.iter().filter(|note| *note == said).count(), 1);
    });
    machine.assert_no_violations();
}

#[test]
fn detaching_from_a_destroyed_guest_succeeds() {
    let machine = attached();
    machine.with(|world| world.destroy(WEB));
    detach_from_web(&machine, &ALL).unwrap();
    assert_eq!(phase(&machine, E1000).as_deref(), Some("pool"));
}

#[test]
fn a_device_that_xen_gave_back_to_dom0_goes_into_quarantine() {
    let machine = attached();
    machine.with(|world| {
        world.destroy(WEB);
        world.owners.insert(device(EDU), DomId::DOM0);
    });
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.owners[&device(EDU)], DomId::IO));
}

#[test]
fn a_dying_guest_is_gone_but_its_devices_may_need_another_try() {
    let machine = attached();
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().dying = true);
    assert_eq!(reclaim(&machine.host).unwrap(), []);
    assert_eq!(phase(&machine, E1000).as_deref(), Some("detaching"));
    machine.with(|world| world.destroy(WEB));
    assert_eq!(reclaim(&machine.host).unwrap().len(), 1);
    assert_eq!(phase(&machine, E1000).as_deref(), Some("pool"));
    machine.assert_no_violations();
}

#[test]
fn free_devices_of_a_dead_stub_are_parked_ones() {
    let before = Machine::new();
    before.with(|world| world.destroy(STUB));
    add_all(&before);
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| world.destroy(STUB));
    reclaim(&machine.host).unwrap();
    // It is known of them that they were reset, and need not be again for the next stub.
    let note = |name| DeviceNode::Reset.of(device(name));
    machine.with(|world| {
        assert_eq!(world.value(&note(NVME)), Some("done"));
        for name in [E1000, EDU, NVME] {
            world.remove(&note(name));
        }
    });
    // So is what they were like before any guest.
    std::fs::remove_dir_all(machine.tree.path().join("pristine")).unwrap();
    machine.dump_but_config().assert_same(&before.dump_but_config(), "");
    machine.assert_no_violations();
}

#[test]
fn a_domain_that_got_the_dead_stubs_number_holds_nothing() {
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| world.destroy(STUB));
    machine.add_domain(STUB, "somebody");
    reclaim(&machine.host).unwrap();
    assert_eq!(phase(&machine, E1000), None);
}

#[test]
fn a_guest_goes_on_with_its_devices_when_the_stub_dies() {
    let machine = attached();
    machine.with(|world| world.destroy(STUB));
    let before = machine.dump();
    assert_eq!(reclaim(&machine.host).unwrap(), []);
    machine.dump().assert_same(&before, "");
}

#[test]
fn a_stub_and_a_guest_that_died_leave_plain_assignable_devices() {
    let machine = attached();
    machine.with(|world| {
        world.destroy(STUB);
        world.destroy(WEB);
    });
    reclaim(&machine.host).unwrap();
    machine.with(|world| {
        let gone =
            |path: &str| !path.starts_with("/libxl/") && !path.ends_with("/frontend") && !path.ends_with("/stub");
        assert!(world.paths().all(gone));
        assert!(world.owners.iter().filter(|(device, _)| device.device() < 8).all(|(_, owner)| *owner != WEB));
    });
    machine.assert_no_violations();
}

/// Runs an attach that is killed right after its change number `dies`: what comes after, and all undoing, does not happen.
fn killed_attach(dies: usize) -> Option<Machine> {
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| world.guest.silent = true);
    let prefix = machine.with(|world| world.changes);
    // Everything after the change fails, the undoing too.
    machine.with(|world| world.failing_after = Some(prefix + dies));
    let failed = attach_to_web(&machine, &ALL).is_err();
    machine.with(|world| {
        world.failing_after = None;
        world.uncertain = true;
        world.guest.silent = false;
        world.notes.clear();
    });
    let reached = machine.with(|world| world.changes) > prefix + dies;
    (failed && reached).then_some(machine)
}

#[test]
fn an_attach_that_was_killed_anywhere_is_undone() {
    let expected = {
        let machine = Machine::new();
        add_all(&machine);
        machine.dump_but_config()
    };
    let mut tried = 0;
    for dies in 0.. {
        let Some(machine) = killed_attach(dies) else { break };
        // The guest may have connected meanwhile, if both directories were there already.
        machine.with(|world| world.guest.silent = true);
        reclaim(&machine.host).unwrap();
        machine.dump_but_config().assert_same(&expected, format!("killed after change {dies}"));
        machine.assert_no_violations();
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn an_attach_that_was_killed_after_the_guest_connected_stands() {
    let machine = attached();
    for name in ALL {
        machine.with(|world| world.write(&format!("{}/phase", paths::device_dir(device(name))), "attaching"));
    }
    assert_eq!(reclaim(&machine.host).unwrap(), []);
    assert_eq!(phase(&machine, NVME).as_deref(), Some("attached"));
    machine.with(|world| assert_eq!(world.owners[&device(NVME)], WEB));
}

#[test]
fn a_detach_that_was_killed_before_the_guest_moved_did_not_happen() {
    let machine = attached();
    machine.with(|world| {
        world.guest.keeps = true;
        for name in ALL {
            world.write(&format!("{}/phase", paths::device_dir(device(name))), "detaching");
        }
        for index in 0..3 {
            world.write(&format!("/local/domain/3/backend/pci/5/0/state-{index}"), "5");
        }
        world.write("/local/domain/3/backend/pci/5/0/state", "7");
    });
    reclaim(&machine.host).unwrap();
    assert_eq!(phase(&machine, NVME).as_deref(), Some("attached"));
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/3/backend/pci/5/0/state-1"), Some("3"));
        assert_eq!(world.value("/local/domain/3/backend/pci/5/0/state"), Some("4"));
    });
}
