//! Hosts that have more on them than the bench: what another device's files say stops no command, and what is odd about a device itself
//! is told.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::Parser as _;
use xen_types::DomId;

use super::{add_all, attach_to_web, attached, detach_from_web, request};
use crate::cli::arguments::Cli;
use crate::cli::list;
use crate::device::quiesce::release;
use crate::device::resources::DeviceResources;
use crate::doctor::{Opened, examine};
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, SATA, STUB, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::attach;
use crate::ops::recover::reclaim;

const IDE: &str = "0000:00:01.1";
const VGA: &str = "0000:00:02.0";

/// QEMU's piix3-ide as Linux shows it, and VGA.
const IDE_RESOURCE: &str = "0x00000000000001f0 0x00000000000001f7 0x0000000000000110\n\
                            0x00000000000003f6 0x00000000000003f6 0x0000000000000110\n\
                            0x0000000000000170 0x0000000000000177 0x0000000000000110\n\
                            0x0000000000000376 0x0000000000000376 0x0000000000000110\n\
                            0x000000000000c0a0 0x000000000000c0af 0x0000000000040101\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
const VGA_RESOURCE: &str = "0x00000000fc000000 0x00000000fcffffff 0x0000000000042208\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                            0x00000000febd0000 0x00000000febd0fff 0x0000000000040200\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                            0x00000000000c0000 0x00000000000dffff 0x0000000000000212\n";

fn set(machine: &Machine, name: &str, file: &str, text: &str) {
    machine.tree.write(format!("bus/pci/devices/{name}/{file}"), text);
}

fn notes(machine: &Machine) -> Vec<String> {
    machine.with(|world| std::mem::take(&mut world.notes))
}

#[track_caller]
fn assert_noted(machine: &Machine, words: &[&str]) {
    let notes = notes(machine);
    assert!(notes.iter().any(|note| words.iter().all(|word| note.contains(word))), "{words:?}: {notes:?}");
}

/// A machine with legacy IDE and a VGA, which dom0 has.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.add_function(IDE, "0x010180", "ata_piix", 0, &[]);
    set(&machine, IDE, "resource", IDE_RESOURCE);
    machine.add_function(VGA, "0x030000", "bochs-drm", 0, &[]);
    set(&machine, VGA, "resource", VGA_RESOURCE);
    machine
}

/// All commands about devices of "web" and of the pool, and nothing but this is noted.
fn works_beside(machine: &Machine, noted: &[&str]) {
    let before = machine.dump_but_config();
    add_all(machine);
    attach_to_web(machine, &[EDU]).unwrap();
    attach_to_web(machine, &[E1000]).unwrap();
    detach_from_web(machine, &[EDU]).unwrap();
    detach_from_web(machine, &[E1000]).unwrap();
    list::assignable(&machine.host).unwrap();
    list::devices(&machine.host, None).unwrap();
    for note in notes(machine) {
        let is_expected = noted.iter().any(|words| note.contains(words)) || note.contains("cannot be reset");
        assert!(is_expected, "{note}");
    }
    assignable::remove(&machine.host, &[E1000, EDU, NVME].map(device), false).unwrap();
    for device in [E1000, EDU, NVME] {
        let driver = format!("bus/pci/devices/{device}/driver");
        machine.tree.link(&driver, "../../drivers/pciback");
        machine.with(|world| world.owners.insert(device.parse().unwrap(), DomId::IO));
    }
    machine.tree.write("bus/pci/drivers/pciback/slots", format!("{E1000}\n{EDU}\n{NVME}\n"));
    machine.dump_but_config().assert_same(&before, "all is as it was");
    machine.assert_no_violations();
}

#[test]
fn legacy_ide_and_a_vga_are_nobodys_trouble() {
    works_beside(&machine(), &[]);
}

#[test]
fn what_the_files_of_another_device_say_stops_no_command() {
    let other = "0000:00:09.0";
    for (file, text) in [
        ("resource", "nonsense\n"),
        ("resource", "0x1000 0xfff 0x200\n"),
        ("resource", ""),
        ("irq", "what?\n"),
        ("irq", ""),
        ("class", "bridge\n"),
        ("config", ""),
        ("vendor", ""),
    ] {
        let machine = Machine::new();
        machine.add_function(other, "0x020000", "r8169", 22, &[(0xfe00_0000, 0x1000, 0x200)]);
        set(&machine, other, file, text);
        works_beside(&machine, &[other]);
        let report = examine(&Opened::of(machine.host), "pcidom", &[EDU.to_owned()]);
        assert!(!report.text().contains("failed   0000:"), "{file} {text:?}: {}", report.text());
    }
    let machine = Machine::new();
    machine.add_function(other, "0x020000", "r8169", 22, &[]);
    std::fs::remove_file(machine.tree.path().join(format!("bus/pci/devices/{other}/resource"))).unwrap();
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_noted(&machine, &[other, "is left out where pages are compared"]);
}

#[test]
fn what_the_files_of_the_guests_other_devices_say_stops_no_command() {
    for (file, text) in [("resource", "nonsense\n"), ("irq", "what?\n")] {
        let machine = attached();
        set(&machine, E1000, file, text);
        detach_from_web(&machine, &[EDU]).unwrap();
        assert_noted(&machine, &[E1000, "makes no sense", "what the pool says of it counts"]);
        attach_to_web(&machine, &[EDU]).unwrap();
        // It keeps all it has.
        machine.with(|world| {
            assert!(world.iomem.contains(&(WEB, 0xfeb40)) && world.ioports.contains(&(WEB, 0xc03f)));
            assert!(world.pirqs.contains(&(WEB, 21)) && world.iomem.contains(&(WEB, 0xfea00)));
        });
        machine.assert_no_violations();

        // Neither does it stop one that a broker died at, nor what nothing is known of any more.
        machine.with(|world| {
            world.write("/tool/pcidom/device/0000-00-06-0/vectors", "busy");
            world.write("/local/domain/3/pool/0000-00-05-0/resource-0", "what?");
        });
        let resources = DeviceResources::gather(&machine.host, device(EDU)).unwrap();
        release(&machine.host, WEB, &[device(EDU)], &[resources]).unwrap();
        assert_noted(&machine, &[E1000, "is left out"]);
    }
}

#[test]
fn a_page_of_odd_ranges_is_a_page() {
    let machine = Machine::new();
    machine.add_function("0000:00:08.0", "0x00ff00", "pciback", 16, &[(0xfe80_0000, 0x100, 0x200)]);
    machine.add_function("0000:00:09.0", "0x00ff00", "", 16, &[]);
    set(&machine, "0000:00:09.0", "resource", "0x3f6 0x3f6 0x110\n0xfe800100 0xfe8003ff 0x200\n");
    let error = attach_to_web(&machine, &["00:08.0"]).unwrap_err();
    assert_eq!(error.to_string(), "0000:00:08.0 shares the memory page 0xfe800000 with 0000:00:09.0");
}

#[test]
fn a_guest_gets_the_registers_of_a_vga_and_nothing_of_its_rom_in_memory() {
    let machine = machine();
    assignable::add(&machine.host, &[device(VGA)], "pcidom").unwrap();
    attach_to_web(&machine, &[VGA]).unwrap();
    assert_noted(&machine, &[VGA, "memory 0xc0000-0xdffff"]);
    machine.with(|world| {
        let frames = world.iomem.iter().filter(|(domain, _)| *domain == WEB).map(|(_, frame)| *frame);
        assert_eq!(frames.collect::<Vec<_>>(), (0xfc000..0xfd000).chain([0xfebd0]).collect::<Vec<_>>());
        assert_eq!(world.value("/local/domain/3/pool/0000-00-02-0/resource-6"), None);
        assert_eq!(world.value("/local/domain/3/pool/0000-00-02-0/resource-2"), Some("0xfebd0000 0x1000 mem32"));
    });
    detach_from_web(&machine, &[VGA]).unwrap();
    machine.with(|world| assert!(world.iomem.iter().all(|(domain, _)| *domain == STUB)));
    machine.assert_no_violations();
}

#[test]
fn a_guest_gets_none_of_the_ports_that_legacy_ide_has_by_tradition() {
    let machine = machine();
    assignable::add(&machine.host, &[device(IDE)], "pcidom").unwrap();
    attach_to_web(&machine, &[IDE]).unwrap();
    assert_noted(&machine, &[IDE, "ports 0x1f0-0x1f7, ports 0x3f6-0x3f6"]);
    machine.with(|world| {
        let ports = world.ioports.iter().map(|(_, port)| *port);
        assert_eq!(ports.collect::<Vec<_>>(), (0xc0a0..0xc0b0).collect::<Vec<_>>());
    });
    detach_from_web(&machine, &[IDE]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_line_that_no_guest_can_have_is_told_and_no_reason_to_stop() {
    for irq in ["255", "-2147483648", "2147483648", "312", "4294967295", "0"] {
        let machine = Machine::new();
        let mut config = machine.config(EDU);
        config.set_word(0x3c, 0x01ff); // INTA#
        machine.tree.write(format!("bus/pci/devices/{EDU}/config"), config.bytes);
        set(&machine, EDU, "irq", &format!("{irq}\n"));
        attach_to_web(&machine, &[EDU]).unwrap();
        assert_noted(&machine, &[EDU, "its driver must use MSI"]);
        machine.with(|world| {
            assert!(world.pirqs.is_empty() && world.irqs.is_empty(), "{irq}");
            assert_eq!(world.value("/local/domain/3/pool/0000-00-06-0/irq"), Some("0"), "{irq}");
        });
        detach_from_web(&machine, &[EDU]).unwrap();
        machine.assert_no_violations();
        let text = examine(&Opened::of(machine.host), "pcidom", &[EDU.to_owned()]).text();
        assert!(text.contains(&format!("warning  {EDU}: interrupt line: its pin leads to no line")), "{text}");
    }
    let machine = Machine::new();
    set(&machine, EDU, "irq", "0\n");
    attach_to_web(&machine, &[EDU]).unwrap();
    assert!(notes(&machine).iter().all(|note| !note.contains("MSI")), "it has no pin, so nothing is missing");
}

#[test]
fn segments_that_xen_cannot_name_are_left_out_and_told() {
    let machine = Machine::new();
    let vmd = "10000:e1:00.0";
    set(&machine, vmd, "class", "0x010802\n");
    works_beside(&machine, &[vmd]);
    list::assignable(&machine.host).unwrap();
    assert_noted(&machine, &[vmd, "segments up to ffff"]);
    let text = examine(&Opened::of(machine.host), "pcidom", &[vmd.to_owned()]).text();
    assert!(text.contains(&format!("failed   {vmd}: device: segment 10000 cannot be passed through")), "{text}");
    for command in [&["show", vmd][..], &["assignable", "add", vmd], &["attach", "web", vmd]] {
        let line = ["pcidom"].iter().chain(command);
        let error = Cli::try_parse_from(line).err().unwrap().to_string();
        assert!(error.contains("segment 10000 cannot be passed through"), "{error}");
    }
}

#[test]
fn the_header_says_what_a_bridge_is() {
    let machine = Machine::new();
    let attach_one = |class: &str, header_type: u16| {
        machine.add_function("0000:00:08.0", class, "pciback", 0, &[]);
        let mut config = machine.config("0000:00:08.0");
        config.set_word(0x0e, header_type);
        machine.tree.write("bus/pci/devices/0000:00:08.0/config", config.bytes);
        let attached = attach(&machine.host, &request("web", &["00:08.0"]));
        if attached.is_ok() {
            detach_from_web(&machine, &["00:08.0"]).unwrap();
            assignable::remove(&machine.host, &[device("00:08.0")], false).unwrap();
        }
        std::fs::remove_dir_all(machine.tree.path().join("bus/pci/devices/0000:00:08.0")).unwrap();
        machine.tree.write("bus/pci/drivers/pciback/slots", format!("{E1000}\n{EDU}\n{NVME}\n"));
        attached
    };
    // PLX boards and NVSwitch; an InfiniBand host bridge; one of several functions.
    for (class, header_type) in [("0x068000", 0), ("0x060a00", 0), ("0x068000", 0x80)] {
        attach_one(class, header_type).unwrap();
    }
    // A bridge of any class; what is no bridge by its header, and belongs to the machine all the same.
    for (class, header_type) in [("0x060400", 1), ("0x060400", 0x81), ("0x060700", 2), ("0x068000", 1), ("0x020000", 1)]
    {
        assert!(matches!(attach_one(class, header_type), Err(Error::Bridge(_))), "{class} {header_type}");
    }
    for class in ["0x060000", "0x060100"] {
        assert!(matches!(attach_one(class, 0), Err(Error::Bridge(_))), "{class}");
    }
    machine.assert_no_violations();
}

#[test]
fn what_was_hidden_at_boot_is_quarantined_like_all() {
    for attached in [false, true] {
        let machine = Machine::new();
        machine.with(|world| world.owners.insert(device(EDU), DomId::DOM0)); // xen-pciback.hide=
        if attached {
            attach_to_web(&machine, &[EDU]).unwrap();
            detach_from_web(&machine, &[EDU]).unwrap();
        } else {
            assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap();
        }
        machine.with(|world| assert_eq!(world.owners[&device(EDU)], DomId::IO));
        machine.assert_no_violations();
    }
    // Without a stub as well.
    let machine = Machine::new();
    machine.with(|world| {
        world.owners.insert(device(EDU), DomId::DOM0);
        world.destroy(STUB);
    });
    assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap();
    machine.with(|world| assert_eq!(world.owners[&device(EDU)], DomId::IO));
}

#[test]
fn the_strict_rule_about_reserved_memory_is_for_guests() {
    let machine = Machine::new();
    machine.with(|world| world.shared_reserved.insert(device(SATA)));
    assignable::add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    let error = attach_to_web(&machine, &[SATA]).unwrap_err();
    assert!(error.to_string().contains("Xen refused"), "{error}");
    assert!(error.hint().unwrap().contains("rdm_policy=relaxed"));
    attach_to_web(&machine, &[&format!("{SATA},rdm_policy=relaxed")]).unwrap();
    machine.with(|world| world.destroy(WEB));
    reclaim(&machine.host).unwrap();
    machine.with(|world| {
        assert_eq!(world.owners[&device(SATA)], DomId::IO);
        assert_eq!(world.value("/local/domain/3/pool/0000-00-1f-2/state"), Some("free"));
    });
    machine.assert_no_violations();
}

const OVERRIDE: &str = "bus/pci/devices/0000:00:1f.2/driver_override";

#[test]
fn what_an_admin_has_in_driver_override_stays_and_stops_nothing() {
    for wanted in ["(null)", "vfio-pci", "ahci", "pciback"] {
        let machine = Machine::new();
        machine.tree.write(OVERRIDE, format!("{wanted}\n"));
        let before = machine.dump_but_config();
        assignable::add(&machine.host, &[device(SATA)], "pcidom").unwrap();
        let read = || std::fs::read_to_string(machine.tree.path().join(OVERRIDE)).unwrap();
        assert_eq!(read(), format!("{wanted}\n"));
        attach_to_web(&machine, &[SATA]).unwrap();
        detach_from_web(&machine, &[SATA]).unwrap();
        assignable::remove(&machine.host, &[device(SATA)], true).unwrap();
        machine.dump_but_config().assert_same(&before, wanted);
        machine.assert_no_violations();
    }
}

#[test]
fn a_failure_or_a_kill_leaves_driver_override_as_it_was() {
    let prepared = || {
        let machine = Machine::new();
        machine.tree.write(OVERRIDE, "vfio-pci\n");
        machine
    };
    let add = |machine: &Machine| assignable::add(&machine.host, &[device(SATA)], "pcidom");
    let remove = |machine: &Machine| assignable::remove(&machine.host, &[device(SATA)], true);
    let steps = |prepare: &dyn Fn() -> Machine, act: &dyn Fn(&Machine) -> Result<(), Error>| {
        for step in 1.. {
            let machine = prepare();
            let before = machine.dump_but_config();
            machine.with(|world| world.failing_change = Some(world.changes + step));
            if act(&machine).is_ok() {
                break;
            }
            machine.dump_but_config().assert_same(&before, format!("change {step} fails"));
            let machine = prepare();
            machine.with(|world| world.killing_change = Some(world.changes + step));
            assert!(catch_unwind(AssertUnwindSafe(|| act(&machine))).is_err());
            machine.with(|world| {
                world.killing_change = None;
                world.uncertain = true;
                world.watches.clear();
            });
            reclaim(&machine.host).unwrap();
            let now = std::fs::read_to_string(machine.tree.path().join(OVERRIDE)).unwrap();
            assert_eq!(now, "vfio-pci\n", "killed before change {step}");
            let driver = machine.host.sysfs.driver(device(SATA));
            assert!(matches!(driver.as_deref(), Some("ahci" | "pciback")), "killed before change {step}: {driver:?}");
        }
    };
    steps(&prepared, &add);
    let added = || {
        let machine = prepared();
        add(&machine).unwrap();
        machine
    };
    steps(&added, &remove);
}

#[test]
fn a_policy_that_the_stub_refuses_is_not_for_the_next_guest() {
    let machine = Machine::new();
    add_all(&machine);
    let before = machine.dump();
    // It refuses the device as long as there is a policy.
    machine.with(|world| world.stub.refuses_policy = true);
    let error = attach_to_web(&machine, &[&format!("{EDU},permissive=1")]).unwrap_err();
    assert!(matches!(error, Error::StubRefuses { .. }), "{error}");
    machine.dump().assert_same(&before, "nothing of it is left");
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.assert_no_violations();
}

/// A line of `/proc/bus/pci/devices` with one range of memory.
fn legacy_line(place: &str, start: u64, size: u64) -> String {
    format!(
        "{place}\t8086100e\t15\t{start:16x}{none}\t{size:16x}{none}\te1000\n",
        none = "\t               0".repeat(6)
    )
}

#[test]
fn files_of_others_are_read_only_where_the_list_of_all_functions_does_not_show_enough() {
    let other = "0000:00:09.0";
    let own = legacy_line("0030", 0xfea0_0000, 0x10_0000);
    let is_read = |list: &str| {
        let machine = Machine::new();
        machine.add_function(other, "0x020000", "r8169", 22, &[]);
        set(&machine, other, "resource", "nonsense\n");
        machine.tree.write("root/proc/bus/pci/devices", list);
        attach_to_web(&machine, &[EDU]).unwrap();
        notes(&machine).iter().any(|note| note.contains("is left out where pages are compared"))
    };
    let apart = legacy_line("0048", 0xfe00_0000, 0x1000);
    assert!(!is_read(&format!("{own}{apart}")));
    // It does not have the device, or another segment has one at the same place.
    assert!(is_read(&apart));
    assert!(is_read(&format!("{own}{own}{apart}")));
    assert!(is_read(&format!("{own}{apart}what?\n")));
    // The list has the same page, for which sysfs may have another reason.
    assert!(is_read(&format!("{own}{}", legacy_line("0048", 0xfea0_0800, 0x100))));
}

#[test]
fn a_page_of_two_in_the_list_of_all_functions_is_looked_for_in_sysfs() {
    let machine = Machine::new();
    machine.add_function("0000:00:08.0", "0x00ff00", "pciback", 16, &[(0xfe80_0000, 0x100, 0x200)]);
    machine.add_function("0000:00:09.0", "0x00ff00", "", 16, &[(0xfe80_0100, 0x100, 0x200)]);
    let list = legacy_line("0040", 0xfe80_0000, 0x100) + &legacy_line("0048", 0xfe80_0100, 0x100);
    machine.tree.write("root/proc/bus/pci/devices", list);
    let error = attach_to_web(&machine, &["00:08.0"]).unwrap_err();
    assert_eq!(error.to_string(), "0000:00:08.0 shares the memory page 0xfe800000 with 0000:00:09.0");
}
