//! `pcidom backend` and `pcidom autostart`.

use std::path::PathBuf;

use super::{add_all, attach_to_web};
use crate::cli::resident::autostart;
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, SATA, STUB, device};
use crate::ops::driver_domain::{
    DriverDomain, UNTIL_READY, await_backend, guests_to_start, keep_from_xl, let_unnamed_go, release,
};
use crate::ops::recover::reclaim;
use crate::records::configured_devices::ConfiguredDevice;
use crate::records::device_spec::DeviceSpec;

fn driver_domain(machine: &Machine) -> DriverDomain {
    let config = machine.tree.path().join("pcidom.cfg");
    std::fs::write(&config, "name = 'pcidom'\n").unwrap();
    DriverDomain { config, name: "pcidom".to_owned() }
}

fn configured(text: &str) -> ConfiguredDevice {
    ConfiguredDevice::parse(text).unwrap()
}

fn identify(machine: &Machine, name: &str) {
    machine.tree.write(format!("bus/pci/devices/{name}/vendor"), "0x8086\n");
    machine.tree.write(format!("bus/pci/devices/{name}/device"), "0x2922\n");
}

#[test]
fn a_driver_domain_that_runs_is_adopted_and_one_that_has_crashed_is_replaced() {
    let machine = Machine::new();
    let domain = driver_domain(&machine);
    domain.create(&machine.host).unwrap();
    assert_eq!(domain.await_ready(&machine.host).unwrap().id, STUB);
    machine.with(|world| world.domains.get_mut(&STUB).unwrap().shutdown = true);
    assert!(matches!(domain.await_ready(&machine.host), Err(Error::StubWentAway(_))));
    domain.create(&machine.host).unwrap();
    let next = domain.await_ready(&machine.host).unwrap();
    assert_ne!(next.id, STUB);
    machine.with(|world| {
        assert!(!world.domains.contains_key(&STUB));
        world.destroy(next.id);
    });
    // Who watches it ends, and systemd starts it again.
    assert!(matches!(domain.watch(&machine.host, &next), Err(Error::StubWentAway(gone)) if gone == next));
    assert!(matches!(domain.await_ready(&machine.host), Err(Error::StubNotRunning(_))));
}

#[test]
fn a_driver_domain_that_was_shut_down_is_taken_away_by_who_watches_it() {
    let machine = Machine::new();
    let domain = driver_domain(&machine);
    let stub = domain.await_ready(&machine.host).unwrap();
    machine.with(|world| world.domains.get_mut(&STUB).unwrap().shutdown = true);
    assert!(matches!(domain.watch(&machine.host, &stub), Err(Error::StubWentAway(gone)) if gone == stub));
    machine.with(|world| assert!(!world.domains.contains_key(&STUB)));
}

#[test]
fn devices_of_the_settings_enter_the_pool_with_their_names_if_they_are_those_that_are_meant() {
    let machine = Machine::new();
    let domain = driver_domain(&machine);
    identify(&machine, SATA);
    let before = machine.dump();
    let other = configured(&format!("{SATA},vendor=8086,device=2923"));
    let error = domain.add(&machine.host, &other).unwrap_err();
    assert_eq!(
        error.to_string(),
        "another device is at 0000:00:1f.2 than the settings name: vendor=8086,device=2922 is there, and vendor=8086,device=2923 is wanted"
    );
    // xl shall not give it to anybody either.
    machine.with(|world| {
        assert_eq!(world.value("/libxl/pci/0000-00-1f-2/domid"), Some("0"));
        assert_eq!(world.value("/tool/pcidom/held/0000-00-1f-2"), Some(error.to_string().as_str()));
    });
    let_unnamed_go(&machine.host, std::slice::from_ref(&other)).unwrap();
    machine.with(|world| assert_eq!(world.value("/libxl/pci/0000-00-1f-2/domid"), Some("0")));
    let_unnamed_go(&machine.host, &[]).unwrap();
    machine.dump().assert_same(&before, "a device that is another one");
    domain.add(&machine.host, &other).unwrap_err();
    let ours = configured(&format!("{SATA},vendor=8086,device=2922,name=disks"));
    for _ in 0..2 {
        domain.add(&machine.host, &ours).unwrap();
        machine.with(|world| {
            assert_eq!(world.value("/local/domain/3/pool/0000-00-1f-2/state"), Some("free"));
            assert_eq!(world.value("/libxl/pci/0000-00-1f-2/name"), Some("disks"));
            assert_eq!(world.value("/libxl/pci/0000-00-1f-2/domid"), Some("3"));
            assert!(!world.has_node("/tool/pcidom/held"));
        });
    }
    assert!(matches!(domain.add(&machine.host, &configured("0000:77:00.0")), Err(Error::NoSuchDevice(_))));
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_cannot_be_created_keeps_its_named_devices_from_xl() {
    let machine = Machine::new();
    let named = [configured(SATA), configured(EDU)];
    crate::ops::assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap();
    let devices = [SATA, EDU, NVME].map(|name| DeviceSpec::plain(device(name)));
    let why = Error::StubNotRunning("pcidom".to_owned());
    keep_from_xl(&machine.host, &devices, &named, &why).unwrap();
    let guard = |name: &str| {
        let node = crate::records::guard::node(device(name));
        machine.with(|world| world.value(&node).map(str::to_owned))
    };
    assert_eq!(guard(SATA).as_deref(), Some("0"));
    assert_eq!(guard(EDU).as_deref(), Some("3"), "its pool has it");
    assert_eq!(guard(NVME), None, "it is not named");
    // One that xl has given away stays where it is.
    let_unnamed_go(&machine.host, &[]).unwrap();
    machine.with(|world| world.write("/libxl/pci/0000-00-1f-2/domid", "5"));
    keep_from_xl(&machine.host, &devices, &named, &why).unwrap();
    assert_eq!(guard(SATA).as_deref(), Some("5"));
    let_unnamed_go(&machine.host, &[]).unwrap();
    assert_eq!(guard(SATA).as_deref(), Some("5"));
}

#[test]
fn a_held_device_is_for_our_own_commands() {
    let machine = Machine::new();
    identify(&machine, SATA);
    let domain = driver_domain(&machine);
    domain.add(&machine.host, &configured(&format!("{SATA},vendor=8086,device=2923"))).unwrap_err();
    crate::ops::assignable::add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    machine.with(|world| {
        assert_eq!(world.value("/libxl/pci/0000-00-1f-2/domid"), Some("3"));
        assert!(!world.has_node("/tool/pcidom/held"));
    });
    machine.assert_no_violations();
}

#[test]
fn a_device_that_a_guest_has_is_left_with_it() {
    let machine = Machine::new();
    let domain = driver_domain(&machine);
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    let before = machine.dump();
    domain.add(&machine.host, &configured(EDU)).unwrap();
    machine.dump().assert_same(&before, "it was added again");
}

#[test]
fn a_driver_domain_with_guests_is_neither_ended_nor_emptied() {
    let machine = Machine::new();
    let domain = driver_domain(&machine);
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    let before = machine.dump();
    assert!(!domain.stop(&machine.host).unwrap());
    let error = release(&machine.host).unwrap_err();
    assert!(error.to_string().contains("0000:00:06.0") && error.to_string().contains("web (domain 5)"), "{error}");
    machine.dump().assert_same(&before, "nothing happened");
    // Also where the driver domain has died: the guest may still do DMA.
    machine.with(|world| world.destroy(STUB));
    release(&machine.host).unwrap_err();
}

#[test]
fn released_devices_are_dom0s_again_and_then_the_domain_ends() {
    let machine = Machine::new();
    let domain = driver_domain(&machine);
    crate::ops::assignable::add(&machine.host, &[SATA, EDU].map(device), "pcidom").unwrap();
    release(&machine.host).unwrap();
    assert_eq!(machine.host.sysfs.driver(device(SATA)).as_deref(), Some("ahci"));
    machine.with(|world| assert_eq!(world.children("/tool/pcidom/device"), [""; 0]));
    assert!(domain.stop(&machine.host).unwrap());
    machine.with(|world| assert!(!world.domains.contains_key(&STUB)));
    // One that has ended left its devices parked.
    let machine = Machine::new();
    crate::ops::assignable::add(&machine.host, &[SATA, E1000, NVME].map(device), "pcidom").unwrap();
    machine.with(|world| world.destroy(STUB));
    reclaim(&machine.host).unwrap();
    release(&machine.host).unwrap();
    assert_eq!(machine.host.sysfs.driver(device(SATA)).as_deref(), Some("ahci"));
    machine.with(|world| assert_eq!(world.children("/tool/pcidom/device"), [""; 0]));
    machine.assert_no_violations();
}

#[test]
fn guests_start_in_the_order_of_their_names_without_what_editors_leave() {
    let machine = Machine::new();
    let folder = machine.tree.path().join("auto");
    assert_eq!(guests_to_start(&folder).unwrap(), Vec::<PathBuf>::new());
    for name in ["20-web", "10-db", "web~", ".swp", "x.dpkg-old"] {
        machine.tree.write(format!("auto/{name}"), "");
    }
    assert_eq!(guests_to_start(&folder).unwrap(), ["10-db", "20-web"].map(|name| folder.join(name)));
}

#[test]
fn guests_wait_for_a_driver_domain_that_is_created_anew() {
    let machine = Machine::new();
    await_backend(&machine.host, "pcidom", UNTIL_READY).unwrap();
    machine.with(|world| world.destroy(STUB));
    let error = await_backend(&machine.host, "pcidom", UNTIL_READY).unwrap_err();
    assert!(error.to_string().contains("the backend pcidom is not ready"), "{error}");
}

fn guest(machine: &Machine, name: &str, device: &str) {
    machine.tree.write(format!("auto/{name}"), format!("name = '{name}'\ntype = 'pv'\npci = [ '{device}' ]\n"));
}

fn is_there(machine: &Machine, guest: &str) -> bool {
    crate::host::domain::find(&machine.host, guest).unwrap().is_some()
}

#[test]
fn guests_with_devices_of_ours_are_created_and_others_left_to_xl() {
    let machine = Machine::new();
    machine.tree.write("pcidom.conf", format!("device = {SATA},vendor=8086,device=2923\n"));
    identify(&machine, SATA);
    crate::ops::assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap();
    for (name, device) in [("10-disk", SATA), ("20-edu", EDU), ("30-net", E1000)] {
        guest(&machine, name, device);
    }
    let error = autostart(&machine.host, "pcidom", &machine.tree.path().join("auto")).unwrap_err();
    assert!(matches!(error, Error::OtherDevice { .. }), "{error}");
    assert_eq!(["10-disk", "20-edu", "30-net"].map(|name| is_there(&machine, name)), [false, true, false]);
    // What xendomains would hand out is what is not ours, and nothing else.
    let guard = |name: &str| {
        let node = crate::records::guard::node(device(name));
        machine.with(|world| world.value(&node).map(str::to_owned))
    };
    assert_eq!((guard(SATA).as_deref(), guard(E1000)), (Some("0"), None));
    machine.assert_no_violations();
}

#[test]
fn a_driver_domain_that_does_not_come_is_waited_for_once() {
    let machine = Machine::new();
    machine.tree.write("pcidom.conf", format!("device = {SATA}\ndevice = {EDU}\n"));
    [SATA, EDU].iter().for_each(|name| identify(&machine, name));
    machine.with(|world| world.destroy(STUB));
    guest(&machine, "10-disk", SATA);
    guest(&machine, "20-edu", EDU);
    let before = machine.host.elapsed();
    let error = autostart(&machine.host, "pcidom", &machine.tree.path().join("auto")).unwrap_err();
    assert!(matches!(error, Error::NotInTime { .. }), "{error}");
    let waited = machine.host.elapsed() - before;
    assert!((UNTIL_READY..UNTIL_READY * 3 / 2).contains(&waited), "{waited:?}");
    machine.with(|world| {
        for node in ["/libxl/pci/0000-00-1f-2/domid", "/libxl/pci/0000-00-06-0/domid"] {
            assert_eq!(world.value(node), Some("0"), "{node}");
        }
    });
}
