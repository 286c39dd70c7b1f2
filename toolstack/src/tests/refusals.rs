//! Refusals: their messages, and that nothing was changed.

use super::{TIMEOUT, add_all, attach_to_web, attached, request};
use crate::error::{Error, ExitCause};
use crate::fake::{DB, E1000, EDU, Machine, NVME, SATA, STUB, WEB, device};
use crate::ops::attach::attach;

/// The error of an attach of `devices` to `guest`; the machine must be as before.
fn refused(machine: &Machine, guest: &str, devices: &[&str]) -> Error {
    let before = machine.dump();
    let error = attach(&machine.host, &request(guest, devices)).unwrap_err();
    machine.dump().assert_same(&before, format!("{error}"));
    machine.assert_no_violations();
    error
}

fn says(error: &Error, text: &str) {
    assert_eq!(error.to_string(), text);
    assert_eq!(error.cause(), ExitCause::Failed, "{error}");
    assert!(error.hint().is_none_or(|hint| !hint.is_empty() && !hint.contains('\n')));
}

#[test]
fn no_such_guest() {
    let machine = Machine::new();
    says(&refused(&machine, "nobody", &[E1000]), "there is no guest nobody");
    says(&refused(&machine, "99", &[E1000]), "there is no guest 99");
}

#[test]
fn guests_that_cannot_have_devices() {
    let machine = Machine::new();
    says(
        &refused(&machine, "windows", &[E1000]),
        "windows (domain 7) is not a PV guest and has no stub domain with its device model: PCI devices of a driver domain do not reach it",
    );
    says(
        &refused(&machine, "0", &[E1000]),
        "Domain-0 (domain 0) cannot get devices: it is dom0, which has the devices by itself",
    );
    says(&refused(&machine, "pcidom", &[E1000]), "pcidom (domain 3) cannot get devices: it is the backend");
    machine.with(|world| world.domains.get_mut(&DB).unwrap().shutdown = true);
    says(&refused(&machine, "db", &[E1000]), "db (domain 6) cannot get devices: it has shut down");
}

#[test]
fn no_such_device() {
    let error = refused(&Machine::new(), "web", &["0000:00:09.0"]);
    says(&error, "there is no PCI device 0000:00:09.0");
}

#[test]
fn bridges() {
    says(
        &refused(&Machine::new(), "web", &["0000:00:00.0"]),
        "0000:00:00.0 is a bridge, and only endpoints can be given to a guest",
    );
}

#[test]
fn devices_of_dom0() {
    let error = refused(&Machine::new(), "web", &[SATA]);
    says(&error, "0000:00:1f.2 is not assignable: dom0's driver ahci has it");
    assert!(error.hint().unwrap().contains("pcidom assignable add 0000:00:1f.2"));
}

#[test]
fn the_same_device_twice() {
    let error = refused(&Machine::new(), "web", &[EDU, "00:06.0"]);
    assert_eq!(error.to_string(), "0000:00:06.0 is named twice");
    assert_eq!(error.cause(), ExitCause::Usage);
}

#[test]
fn devices_that_another_guest_has() {
    let machine = attached();
    says(&refused(&machine, "db", &[EDU]), "0000:00:06.0 is already assigned to web (domain 5)");
}

#[test]
fn devices_that_xl_gave_away() {
    let machine = Machine::new();
    machine.with(|world| world.write("/libxl/pci/0000-00-06-0/domid", "6"));
    says(&refused(&machine, "web", &[EDU]), "0000:00:06.0 is already assigned to db (domain 6)");
}

#[test]
fn devices_that_xen_says_another_domain_has() {
    let machine = Machine::new();
    machine.with(|world| world.owners.insert(device(EDU), DB));
    says(
        &refused(&machine, "web", &[EDU]),
        "Xen says that another domain has 0000:00:06.0, or that there is no such device",
    );
}

#[test]
fn guests_without_passthrough() {
    let machine = Machine::new();
    machine.with(|world| world.passthrough.remove(&WEB));
    let error = refused(&machine, "web", &[EDU]);
    assert_eq!(
        error.to_string(),
        "web (domain 5) was created without passthrough, so Xen refuses to give it 0000:00:06.0"
    );
    assert_eq!(error.cause(), ExitCause::NotPermitted);
    let hint = error.hint().unwrap();
    assert!(hint.contains("passthrough=\"enabled\"") && hint.contains("e820_host=1"), "{hint}");
}

#[test]
fn hosts_without_iommu() {
    let machine = Machine::new();
    machine.with(|world| world.iommu = false);
    for error in [
        refused(&machine, "web", &[EDU]),
        crate::ops::assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "Xen uses no IOMMU on this host, so no device can be given to a guest");
        assert_eq!(error.cause(), ExitCause::NotPermitted);
    }
}

#[test]
fn hosts_without_pciback() {
    let machine = Machine::new();
    std::fs::remove_dir_all(machine.tree.path().join("bus/pci/drivers/pciback")).unwrap();
    let error = refused(&machine, "web", &[EDU]);
    assert_eq!(error.hint().as_deref(), Some("modprobe xen-pciback"));
}

#[test]
fn stubs_that_do_not_run_or_are_not_ready() {
    let machine = Machine::new();
    machine.with(|world| world.remove("/local/domain/3/data/pcidom"));
    says(
        &refused(&machine, "web", &[EDU]),
        "the backend pcidom (domain 3) is running but has not announced that it is ready",
    );
    machine.with(|world| world.destroy(STUB));
    says(&refused(&machine, "web", &[EDU]), "the backend pcidom is not running");
}

#[test]
fn devices_that_the_stub_finds_unfit() {
    let machine = Machine::new();
    machine.with(|world| world.stub.refuses = Some((device(EDU), "bus mastering is on")));
    let before = machine.dump_but_config();
    let error = attach_to_web(&machine, &[EDU]).unwrap_err();
    says(&error, "the backend pcidom (domain 3) refuses 0000:00:06.0: bus mastering is on");
    machine.dump_but_config().assert_same(&before, "");

    add_all_but_edu_then_refuse(&machine);
    says(&refused(&machine, "web", &[EDU]), "the backend pcidom (domain 3) refuses 0000:00:06.0: it is gone");
}

/// A device that the stub took and later finds broken.
fn add_all_but_edu_then_refuse(machine: &Machine) {
    machine.with(|world| world.stub.refuses = None);
    add_all(machine);
    machine.with(|world| world.write("/local/domain/3/pool/0000-00-06-0/state", "refused it is gone"));
}

#[test]
fn devices_in_another_pool() {
    let machine = Machine::new();
    add_all(&machine);
    machine.add_domain(xen_types::DomId(8), "pcidom2");
    machine.with(|world| world.write("/local/domain/8/data/pcidom/version", "0.1.0"));
    let mut wanted = request("web", &[EDU]);
    wanted.backend = "pcidom2".to_owned();
    let error = attach(&machine.host, &wanted).unwrap_err();
    says(&error, "0000:00:06.0 is in the pool of another backend, pcidom (domain 3)");
}

#[test]
fn guests_that_have_closed_their_frontend() {
    let machine = Machine::new();
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.with(|world| world.write("/local/domain/5/device/pci/0/state", "6"));
    machine.settle();
    let error = refused(&machine, "web", &[NVME]);
    says(&error, "web (domain 5) has closed its PCI frontend, so nothing can be added to it");
    assert!(error.hint().unwrap().contains("load its xen-pcifront driver again"));
}

#[test]
fn guests_that_have_devices_of_dom0() {
    let machine = Machine::new();
    machine.with(|world| world.write("/local/domain/5/device/pci/0/backend-id", "0"));
    says(
        &refused(&machine, "web", &[EDU]),
        "web (domain 5) has PCI devices from dom0's xen-pciback, and a guest has one PCI backend only",
    );
}

#[test]
fn guests_that_have_devices_of_another_or_a_dead_stub() {
    let machine = Machine::new();
    machine.with(|world| world.write("/local/domain/5/device/pci/0/backend-id", "6"));
    says(&refused(&machine, "web", &[EDU]), "web (domain 5) has PCI devices from another backend, db (domain 6)");
    machine.with(|world| world.write("/local/domain/5/device/pci/0/backend-id", "9"));
    says(&refused(&machine, "web", &[EDU]), "web (domain 5) has PCI devices of a backend that is gone");
}

#[test]
fn devices_that_share_a_page_with_one_that_stays() {
    let machine = Machine::new();
    machine.add_function("0000:00:08.0", "0x00ff00", "pciback", 16, &[(0xfe80_0000, 0x100, 0x200)]);
    machine.add_function("0000:00:09.0", "0x00ff00", "", 16, &[(0xfe80_0100, 0x100, 0x200)]);
    let error = refused(&machine, "web", &["00:08.0"]);
    says(&error, "0000:00:08.0 shares the memory page 0xfe800000 with 0000:00:09.0");
}

#[test]
fn devices_that_share_a_page_may_go_to_one_guest() {
    let machine = Machine::new();
    machine.add_function("0000:00:08.0", "0x00ff00", "pciback", 16, &[(0xfe80_0000, 0x100, 0x200)]);
    machine.add_function("0000:00:09.0", "0x00ff00", "pciback", 16, &[(0xfe80_0100, 0x100, 0x200)]);
    attach_to_web(&machine, &["00:08.0", "00:09.0"]).unwrap();
    super::detach_from_web(&machine, &["00:08.0", "00:09.0"]).unwrap();
    machine.with(|world| assert!(world.iomem.iter().all(|(domain, _)| *domain == STUB)));
    machine.assert_no_violations();
}

#[test]
fn devices_outside_of_every_ecam_window() {
    let machine = Machine::new();
    machine.add_function("0000:40:00.0", "0x00ff00", "pciback", 16, &[]);
    let error = refused(&machine, "web", &["40:00.0"]);
    assert!(matches!(error, Error::NoEcam(_)), "{error}");
    std::fs::remove_file(machine.tree.path().join("firmware/acpi/tables/MCFG")).unwrap();
    assert!(matches!(refused(&machine, "web", &[EDU]), Error::NoEcam(_)));
}

#[test]
fn a_timeout_of_zero_is_no_reason_to_look_away() {
    let machine = Machine::new();
    let mut wanted = request("web", &[EDU]);
    wanted.timeout = TIMEOUT - TIMEOUT;
    let before = machine.dump_but_config();
    // The stub has its own time; the guest has none.
    assert!(matches!(attach(&machine.host, &wanted), Err(Error::GuestSilent { .. })));
    machine.settle();
    machine.dump_but_config().assert_same(&before, "");
}
