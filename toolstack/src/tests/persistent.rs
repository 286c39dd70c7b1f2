//! Devices that come back where they were told to be: guests that reboot, stubs that are started again.

use std::time::Duration;

use super::{TIMEOUT, add_all, detach_from_web};
use crate::fake::{DB, E1000, EDU, Machine, NVME, STUB, WEB, device};
use crate::ops::attach::{Following, Request, Until};
use crate::ops::recover::reclaim;
use pcidom_abi::paths;
use xen_types::DomId;

const UUID: &str = "0a5e2f3c-7f7b-4a55-8f4e-000000000005";
/// The guest and the stub after their restart.
const WEB_AGAIN: DomId = DomId(9);
const STUB_AGAIN: DomId = DomId(8);

fn boot(machine: &Machine, id: DomId) {
    machine.add_domain(id, "web");
    machine.with(|world| world.write(&format!("/local/domain/{id}/vm"), &format!("/vm/{UUID}")));
}

fn start_stub(machine: &Machine) {
    machine.add_domain(STUB_AGAIN, "pcidom");
    machine.with(|world| {
        world.write("/local/domain/8/data/pcidom/version", "0.1.0");
        world.write("/local/domain/8/data/pcidom/export", "vpci");
        world.stub.number = Some(STUB_AGAIN);
        world.stub.connected.clear();
    });
}

fn keep(machine: &Machine, devices: &[&str], following: Following) {
    let request = Request {
        guest: "web".to_owned(),
        backend: "pcidom".to_owned(),
        devices: devices.iter().map(|text| text.parse().unwrap()).collect(),
        timeout: TIMEOUT,
        export: None,
        following,
        until: Until::Used,
    };
    crate::ops::attach::attach(&machine.host, &request).unwrap();
}

/// "web" has a device that follows it, and one that does not; the third one is in the pool.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.with(|world| world.destroy(WEB));
    boot(&machine, WEB);
    add_all(&machine);
    keep(&machine, &["0000:00:05.0@4,power_mgmt=1,name=lan"], Following::Yes);
    keep(&machine, &[EDU], Following::No);
    machine
}

fn record(machine: &Machine, name: &str, node: &str) -> Option<String> {
    let dir = paths::device_dir(device(name));
    machine.with(|world| world.value(&format!("{dir}/{node}")).map(str::to_owned))
}

fn owner(machine: &Machine, name: &str) -> DomId {
    machine.with(|world| world.owners[&device(name)])
}

#[test]
fn a_persistent_assignment_is_recorded() {
    let machine = machine();
    assert_eq!(record(&machine, E1000, "persistent").as_deref(), Some(UUID));
    let spec = "0000:00:05.0@4,msitranslate=0,power_mgmt=1,permissive=0,rdm_policy=strict,name=lan";
    assert_eq!(record(&machine, E1000, "spec").as_deref(), Some(spec));
    assert_eq!(record(&machine, EDU, "persistent"), None);
}

#[test]
fn a_guest_that_reboots_gets_its_devices_again() {
    let machine = machine();
    machine.with(|world| world.destroy(WEB));
    reclaim(&machine.host).unwrap();
    assert_eq!(record(&machine, E1000, "phase").as_deref(), Some("pool"));
    boot(&machine, WEB_AGAIN);
    machine.with(|world| world.guest.silent = true); // it boots
    reclaim(&machine.host).unwrap();
    assert_eq!((owner(&machine, E1000), owner(&machine, EDU)), (WEB_AGAIN, DomId::IO));
    machine.with(|world| {
        let entry = |name: &str| world.value(&format!("/local/domain/3/backend/pci/9/0/{name}"));
        assert_eq!([entry("name-0"), entry("vdevfn-0"), entry("state-0")], [Some("lan"), Some("20"), Some("3")]);
        world.guest.silent = false;
    });
    machine.settle();
    machine.with(|world| assert_eq!(world.value("/local/domain/9/device/pci/0/state"), Some("4")));
    assert_eq!(reclaim(&machine.host).unwrap(), []);
    machine.assert_no_violations();
}

#[test]
fn a_detach_ends_a_persistent_assignment() {
    for gone in [false, true] {
        let machine = machine();
        if gone {
            machine.with(|world| world.destroy(WEB));
        }
        detach_from_web(&machine, &[E1000]).unwrap();
        assert_eq!(record(&machine, E1000, "persistent"), None);
        machine.with(|world| world.destroy(WEB));
        boot(&machine, WEB_AGAIN);
        reclaim(&machine.host).unwrap();
        assert_eq!(owner(&machine, E1000), DomId::IO);
        machine.assert_no_violations();
    }
}

#[test]
fn a_rebooted_guest_can_be_detached_from_with_the_same_words() {
    let machine = machine();
    machine.with(|world| world.destroy(WEB));
    boot(&machine, WEB_AGAIN);
    detach_from_web(&machine, &[E1000]).unwrap();
    assert_eq!((owner(&machine, E1000), record(&machine, E1000, "persistent")), (DomId::IO, None));
    machine.assert_no_violations();
}

#[test]
fn an_attach_to_another_guest_ends_a_persistent_assignment() {
    let machine = machine();
    machine.with(|world| world.destroy(WEB));
    reclaim(&machine.host).unwrap();
    crate::ops::attach::attach(&machine.host, &super::request("db", &[E1000])).unwrap();
    boot(&machine, WEB_AGAIN);
    reclaim(&machine.host).unwrap();
    assert_eq!((owner(&machine, E1000), record(&machine, E1000, "persistent")), (DB, None));
    machine.assert_no_violations();
}

#[test]
fn an_attach_that_fails_leaves_the_persistent_assignment() {
    let machine = machine();
    machine.with(|world| world.destroy(WEB));
    reclaim(&machine.host).unwrap();
    machine.with(|world| world.guest.silent = true);
    crate::ops::attach::attach(&machine.host, &super::request("db", &[E1000])).unwrap_err();
    assert_eq!(record(&machine, E1000, "persistent").as_deref(), Some(UUID));
    machine.assert_no_violations();
}

#[test]
fn a_stub_that_is_started_again_gets_its_pool_and_its_guests() {
    let machine = machine();
    machine.with(|world| world.destroy(STUB));
    reclaim(&machine.host).unwrap();
    // The guest goes on with what it has until somebody serves it again.
    assert_eq!((owner(&machine, E1000), owner(&machine, EDU)), (WEB, WEB));
    assert_eq!((record(&machine, NVME, "stub"), record(&machine, NVME, "backend").as_deref()), (None, Some("pcidom")));
    start_stub(&machine);
    reclaim(&machine.host).unwrap();
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/5/device/pci/0/backend-id"), Some("8"));
        assert_eq!(world.value("/local/domain/8/pool/0000-00-07-0/state"), Some("free"));
        assert_eq!(world.value("/local/domain/8/pool/0000-00-06-0/state"), Some("free"));
        assert!(!world.paths().any(|path| path.starts_with("/local/domain/3")), "the dead one's place is clean");
    });
    assert_eq!((owner(&machine, E1000), owner(&machine, EDU)), (WEB, DomId::IO));
    machine.settle();
    machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/state"), Some("4")));
    detach_from_web(&machine, &[E1000]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_guest_without_persistent_devices_keeps_its_devices_when_the_stub_comes_again() {
    let machine = Machine::new();
    add_all(&machine);
    keep(&machine, &[EDU], Following::No);
    machine.with(|world| world.destroy(STUB));
    start_stub(&machine);
    reclaim(&machine.host).unwrap();
    assert_eq!(owner(&machine, EDU), WEB);
    machine.with(|world| assert_eq!(world.value("/local/domain/8/pool/0000-00-07-0/state"), Some("free")));
    // Then it has to be told where they come from.
    detach_from_web(&machine, &[EDU]).unwrap();
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.value("/local/domain/8/pool/0000-00-06-0/state"), Some("free")));
    keep(&machine, &[EDU], Following::No);
    machine.assert_no_violations();
}

#[test]
fn an_orderly_stop_gives_the_devices_back_before_the_stub_comes_again() {
    let machine = machine();
    machine.with(|world| {
        world.write("/local/domain/5/device/pci/0/state", "6"); // the stub asked for it
        world.destroy(STUB);
    });
    reclaim(&machine.host).unwrap();
    assert_eq!((owner(&machine, E1000), owner(&machine, EDU)), (DomId::IO, DomId::IO));
    machine.with(|world| assert!(!world.has_node("/local/domain/5/device/pci/0")));
    start_stub(&machine);
    reclaim(&machine.host).unwrap();
    assert_eq!((owner(&machine, E1000), owner(&machine, EDU)), (WEB, DomId::IO));
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_does_not_close_waits_for_another_try() {
    let machine = machine();
    machine.with(|world| {
        world.destroy(STUB);
        world.guest.keeps = true;
    });
    start_stub(&machine);
    reclaim(&machine.host).unwrap();
    assert_eq!(owner(&machine, E1000), WEB);
    machine.with(|world| {
        assert!(world.notes.iter().any(|note| note.contains("was asked to close")), "{:?}", world.notes);
    });
    machine.with(|world| world.guest.keeps = false);
    machine.settle();
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/backend-id"), Some("8")));
    machine.assert_no_violations();
}

/// pcifront hears nothing but 8 there: it is brought to 4 first, and looks at no bus meanwhile, of which none would answer.
#[test]
fn a_guest_that_was_changing_its_devices_when_the_stub_died_closes_too() {
    let machine = machine();
    machine.with(|world| {
        world.write("/local/domain/5/device/pci/0/state", "7");
        world.destroy(STUB);
        world.incidents.push(Box::new(|world| {
            let is_asked = world.value("/local/domain/3/backend/pci/5/0/state") == Some("8");
            if is_asked {
                assert_eq!(world.value("/local/domain/3/backend/pci/5/0/root_num"), Some("0"));
            }
            is_asked
        }));
    });
    start_stub(&machine);
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/backend-id"), Some("8")));
    machine.settle();
    machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/state"), Some("4")));
    machine.assert_no_violations();
}

#[test]
fn devices_that_were_added_before_there_is_a_stub_wait_for_it() {
    let machine = Machine::new();
    machine.with(|world| world.destroy(STUB));
    add_all(&machine);
    machine.with(|world| assert!(world.notes.iter().any(|note| note.ends_with("it gets the devices when it is"))));
    start_stub(&machine);
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.value("/local/domain/8/pool/0000-00-07-0/state"), Some("free")));
    crate::ops::assignable::remove(&machine.host, &[E1000, EDU, NVME].map(device), false).unwrap();
    machine.with(|world| assert!(!world.paths().any(|path| path.starts_with("/tool/pcidom"))));
    machine.assert_no_violations();
}

#[test]
fn a_stub_that_refuses_a_device_is_asked_again() {
    let machine = machine();
    machine.with(|world| world.destroy(STUB));
    start_stub(&machine);
    machine.with(|world| world.stub.refuses = Some((device(NVME), "it is not quiesced")));
    reclaim(&machine.host).unwrap();
    assert_eq!(owner(&machine, E1000), WEB);
    assert_eq!((record(&machine, NVME, "stub"), record(&machine, NVME, "backend").as_deref()), (None, Some("pcidom")));
    machine.with(|world| world.stub.refuses = None);
    reclaim(&machine.host).unwrap();
    assert_eq!(record(&machine, NVME, "stub").as_deref(), Some("8"));
    machine.assert_no_violations();
}

/// How long `act` waits.
fn takes(machine: &Machine, act: impl FnOnce()) -> Duration {
    let before = machine.with(|world| world.clock);
    act();
    machine.with(|world| world.clock) - before
}

#[test]
fn a_guest_that_does_not_close_is_asked_once_and_costs_later_commands_nothing() {
    for is_paused in [false, true] {
        let machine = machine();
        machine.with(|world| {
            world.destroy(STUB);
            world.guest.keeps = !is_paused;
            world.domains.get_mut(&WEB).unwrap().paused = is_paused;
        });
        start_stub(&machine);
        let first = takes(&machine, || drop(reclaim(&machine.host).unwrap()));
        assert!(if is_paused { first.as_secs() < 1 } else { first.as_secs() >= 10 }, "{first:?}");
        let second = takes(&machine, || drop(reclaim(&machine.host).unwrap()));
        assert!(second.as_secs() < 1, "{second:?}");
        assert_eq!(owner(&machine, E1000), WEB);
        // It goes on, and finds the question.
        machine.with(|world| {
            world.guest.keeps = false;
            world.domains.get_mut(&WEB).unwrap().paused = false;
        });
        machine.settle();
        reclaim(&machine.host).unwrap();
        machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/backend-id"), Some("8")));
        machine.assert_no_violations();
    }
}

#[test]
fn a_guest_that_takes_no_persistent_device_is_asked_once_and_costs_later_commands_nothing() {
    for is_paused in [false, true] {
        let machine = Machine::new();
        machine.with(|world| world.destroy(WEB));
        boot(&machine, WEB);
        add_all(&machine);
        keep(&machine, &[EDU], Following::No);
        // It had this one as well, and follows it still.
        machine.with(|world| {
            let dir = format!("/tool/pcidom/device/{}", device(E1000).path_component());
            world.write(&format!("{dir}/persistent"), UUID);
            world.write(&format!("{dir}/spec"), E1000);
            world.guest.knows_no_hotplug = !is_paused;
            world.domains.get_mut(&WEB).unwrap().paused = is_paused;
        });
        let first = takes(&machine, || drop(reclaim(&machine.host).unwrap()));
        assert!(if is_paused { first.as_secs() < 1 } else { first.as_secs() >= 10 }, "{first:?}");
        let second = takes(&machine, || drop(reclaim(&machine.host).unwrap()));
        assert!(second.as_secs() < 1, "{second:?}");
        assert_eq!(owner(&machine, E1000), DomId::IO);
        // Another guest with its id, after a reboot, is asked.
        machine.with(|world| {
            world.guest.knows_no_hotplug = false;
            world.domains.get_mut(&WEB).unwrap().paused = false;
            if !is_paused {
                world.write("/tool/pcidom/device/0000-00-05-0/silent", "4 4");
            }
        });
        reclaim(&machine.host).unwrap();
        assert_eq!(owner(&machine, E1000), WEB);
        machine.assert_no_violations();
    }
}
