//! Tests of `assignable`.

use xen_types::DomId;

use super::{add_all, attached};
use crate::cli::list;
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, SATA, STUB, device};
use crate::ops::assignable::{add, add_named, remove};
use crate::ops::named_devices;
use crate::records::device_words::{parse_assignable, parse_place};

#[test]
fn adding_takes_the_device_from_its_driver_into_the_pool() {
    let machine = Machine::new();
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    assert_eq!(machine.host.sysfs.driver(device(SATA)).as_deref(), Some("pciback"));
    assert!(machine.config(SATA).is_quiesced());
    machine.with(|world| {
        assert_eq!(world.owners[&device(SATA)], DomId::IO);
        assert_eq!(world.value("/libxl/pci/0000-00-1f-2/driver_path"), Some("/sys/bus/pci/drivers/ahci"));
        assert_eq!(world.value("/local/domain/3/pool/0000-00-1f-2/state"), Some("free"));
        assert!(world.iomem.contains(&(STUB, 0xb00fa)));
    });
    machine.assert_no_violations();
}

#[test]
fn removing_with_rebind_is_the_opposite_of_adding() {
    let machine = Machine::new();
    let before = machine.dump_but_config();
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    remove(&machine.host, &[device(SATA)], true).unwrap();
    machine.dump_but_config().assert_same(&before, "");
    machine.assert_no_violations();
}

#[test]
fn removing_without_rebind_leaves_the_driver_to_xl() {
    let machine = Machine::new();
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    remove(&machine.host, &[device(SATA)], false).unwrap();
    assert_eq!(machine.host.sysfs.driver(device(SATA)), None);
    machine.with(|world| assert!(world.value("/libxl/pci/0000-00-1f-2/driver_path").is_some()));
    // A device that xl would rebind is known to us too.
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    remove(&machine.host, &[device(SATA)], true).unwrap();
    assert_eq!(machine.host.sysfs.driver(device(SATA)).as_deref(), Some("ahci"));
    machine.assert_no_violations();
}

#[test]
fn a_device_without_a_stub_is_parked_until_there_is_one() {
    let machine = Machine::new();
    machine.with(|world| world.destroy(STUB));
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    machine.with(|world| {
        assert_eq!(world.owners[&device(SATA)], DomId::IO);
        assert!(world.notes.iter().any(|note| note.ends_with("it gets the devices when it is")));
        assert_eq!(world.value("/tool/pcidom/device/0000-00-1f-2/backend"), Some("pcidom"));
    });
    remove(&machine.host, &[device(SATA)], true).unwrap();
    machine.with(|world| assert!(!world.paths().any(|path| path.starts_with("/tool/pcidom"))));
    machine.assert_no_violations();
}

#[test]
fn adding_twice_changes_nothing() {
    let machine = Machine::new();
    add_all(&machine);
    let before = machine.dump();
    add_all(&machine);
    machine.dump().assert_same(&before, "");
}

#[test]
fn a_device_that_is_named_twice_is_moved_once() {
    let machine = Machine::new();
    let before = machine.dump_but_config();
    add(&machine.host, &[device(SATA), device(SATA)], "pcidom").unwrap();
    remove(&machine.host, &[device(SATA), device(SATA)], true).unwrap();
    machine.dump_but_config().assert_same(&before, "added and removed");
    machine.assert_no_violations();
}

#[test]
fn a_name_is_xls_too_and_ends_with_the_assignability() {
    const NAME: &str = "/libxl/pci/0000-00-1f-2/name";
    let machine = Machine::new();
    let before = machine.dump_but_config();
    add_named(&machine.host, &[device(SATA)], "pcidom", Some("disk")).unwrap();
    machine.with(|world| assert_eq!(world.value(NAME), Some("disk")));
    // The same again, and without it, leaves it there.
    add_named(&machine.host, &[device(SATA)], "pcidom", Some("disk")).unwrap();
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    machine.with(|world| assert_eq!(world.value(NAME), Some("disk")));
    let shown = list::table_with_names(&list::assignable(&machine.host).unwrap());
    let line = shown.lines().find(|line| line.starts_with(SATA)).unwrap();
    assert!(line.contains(" disk ") && shown.contains("NAME"), "{shown}");
    let taken = add_named(&machine.host, &[device(EDU)], "pcidom", Some("disk")).unwrap_err();
    assert_eq!(taken.to_string(), format!("another device is called disk, {SATA}"));
    let several = add_named(&machine.host, &[device(EDU), device(NVME)], "pcidom", Some("both")).unwrap_err();
    assert!(matches!(several, Error::Usage(_)), "{several}");
    let named = named_devices::to_remove(&machine.host, &[parse_assignable("disk").unwrap()]).unwrap();
    remove(&machine.host, &named, true).unwrap();
    machine.dump_but_config().assert_same(&before, "");
    machine.assert_no_violations();
}

#[test]
fn a_star_is_every_function_to_add_and_the_assignable_ones_to_remove() {
    let machine = Machine::new();
    machine.add_function("0000:00:1f.3", "0x0c0500", "i801_smbus", 16, &[]);
    machine.add_function("0000:00:1f.4", "0x00ff00", "", 16, &[]);
    let slot = || [parse_place("00:1f.*").unwrap()];
    let all = named_devices::to_add(&machine.host, &slot()).unwrap();
    assert_eq!(all, [SATA, "0000:00:1f.3", "0000:00:1f.4"].map(device));
    assert_eq!(named_devices::to_remove(&machine.host, &slot()).unwrap(), [device(SATA)], "none is assignable");
    add(&machine.host, &[device("0000:00:1f.3")], "pcidom").unwrap();
    assert_eq!(named_devices::to_remove(&machine.host, &slot()).unwrap(), [device("0000:00:1f.3")]);
}

#[test]
fn a_device_parked_at_boot_was_never_in_quarantine() {
    let machine = Machine::new();
    machine.with(|world| world.owners.insert(device(EDU), DomId::DOM0));
    remove(&machine.host, &[device(EDU)], false).unwrap();
    assert_eq!(machine.host.sysfs.driver(device(EDU)), None);
}

#[test]
fn an_assigned_device_stays() {
    let machine = attached();
    let before = machine.dump();
    let error = remove(&machine.host, &[device(EDU)], true).unwrap_err();
    assert_eq!(error.to_string(), "0000:00:06.0 is already assigned to web (domain 5)");
    machine.dump().assert_same(&before, "");
}

#[test]
fn only_parked_devices_can_be_removed() {
    let machine = Machine::new();
    assert!(matches!(remove(&machine.host, &[device(SATA)], true), Err(Error::NotAssignable { .. })));
}

#[test]
fn a_stub_that_does_not_let_go_keeps_the_device() {
    let machine = Machine::new();
    add_all(&machine);
    let before = machine.dump();
    machine.with(|world| world.stub.silent = true);
    let error = remove(&machine.host, &[device(EDU)], true).unwrap_err();
    assert!(matches!(error, Error::StubSilent { .. }), "{error}");
    machine.dump().assert_same(&before, "");
}

#[test]
fn a_device_that_the_stub_refuses_goes_back_to_its_driver() {
    let machine = Machine::new();
    machine.with(|world| world.stub.refuses = Some((device(SATA), "header type 1")));
    let before = machine.dump_but_config();
    let error = add(&machine.host, &[device(EDU), device(SATA)], "pcidom").unwrap_err();
    assert!(matches!(error, Error::StubRefuses { .. }), "{error}");
    machine.dump_but_config().assert_same(&before, "");
    machine.assert_no_violations();
}

#[test]
fn any_single_failure_of_add_or_remove_leaves_everything_as_it_was() {
    type Command = fn(&Machine) -> Result<(), Error>;
    let adding: Command = |machine| add(&machine.host, &[device(SATA), device(E1000)], "pcidom");
    let removing: Command = |machine| remove(&machine.host, &[device(SATA), device(NVME)], true);
    for (prepare, command) in [(None, adding), (Some(adding), removing)] {
        let prepared = || {
            let machine = Machine::new();
            if let Some(prepare) = prepare {
                prepare(&machine).unwrap();
            }
            machine
        };
        let machine = prepared();
        let start = machine.with(|world| world.changes);
        command(&machine).unwrap();
        let changes = machine.with(|world| world.changes) - start;
        for failing in 1..=changes {
            let machine = prepared();
            let before = machine.dump_but_config();
            machine.with(|world| world.failing_change = Some(world.changes + failing));
            let error = command(&machine).unwrap_err();
            machine.dump_but_config().assert_same(&before, format!("change {failing}: {error}"));
            machine.assert_no_violations();
        }
    }
}
