//! Tests of attach and its rollback.

use std::time::Duration;

use super::{add_all, attach_to_web, attached, detach_from_web, pause};
use crate::error::{Error, ExitCause, HostError};
use crate::fake::{E1000, EDU, Machine, NVME, SATA, STUB, WEB, device};
use crate::ops::connect::Connection;
use crate::ops::recover::reclaim;
use pcidom_abi::paths;
use xenstore::path;

#[test]
fn a_running_guest_gets_registers_interrupts_dma_and_sees_the_devices() {
    let machine = Machine::new();
    add_all(&machine);
    assert_eq!(attach_to_web(&machine, &[E1000, EDU, NVME]).unwrap(), Connection::Connected);
    machine.with(|world| {
        for frame in [0xfeb40, 0xfeb5f, 0xfea00, 0xfeaff, 0x8c0000, 0x8c0003] {
            assert!(world.iomem.contains(&(WEB, frame)), "{frame:x}");
        }
        assert_eq!(world.iomem.iter().filter(|(domain, _)| *domain == WEB).count(), 0x20 + 0x100 + 4);
        assert_eq!(world.ioports.len(), 0x40);
        for gsi in [21, 22, 23] {
            assert!(world.pirqs.contains(&(WEB, gsi)) && world.irqs.contains(&(WEB, gsi)));
        }
        for name in [E1000, EDU, NVME] {
            assert_eq!(world.owners[&device(name)], WEB);
            let dir = paths::device_dir(device(name));
            assert_eq!(world.value(&format!("{dir}/phase")), Some("attached"));
            assert_eq!(world.value(&format!("{dir}/frontend")), Some("5"));
            assert_eq!(world.value(&format!("{}/domid", path::libxl_pci_dir(device(name)))), Some("5"));
        }
        assert_eq!(world.watches, [""; 0]);
    });
    machine.assert_no_violations();
}

#[test]
fn the_stub_gets_exactly_the_configuration_pages() {
    let machine = attached();
    machine.with(|world| {
        let frames: Vec<u64> =
            world.iomem.iter().filter(|(domain, _)| *domain == STUB).map(|(_, frame)| *frame).collect();
        assert_eq!(frames, [0xb0028, 0xb0030, 0xb0038]);
    });
}

#[test]
fn the_guest_finds_decoders_on_and_bus_mastering_off() {
    let machine = Machine::new();
    pause(&machine, WEB);
    attach_to_web(&machine, &[E1000, NVME]).unwrap();
    assert_eq!(machine.config(E1000).word(4), 0x0003);
    assert_eq!(machine.config(NVME).word(4) & 0x0406, 0x0002);
}

#[test]
fn devices_that_xl_made_assignable_are_handed_over_on_the_way() {
    let machine = Machine::new();
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/3/pool/0000-00-06-0/state"), Some("assigned 5"));
        assert_eq!(world.value("/local/domain/3/pool/0000-00-05-0/state"), None);
    });
    machine.assert_no_violations();
}

#[test]
fn a_seized_device_comes_from_its_driver() {
    let machine = Machine::new();
    attach_to_web(&machine, &[&format!("{SATA},seize=1")]).unwrap();
    assert_eq!(machine.host.sysfs.driver(device(SATA)).as_deref(), Some("pciback"));
    machine.with(|world| {
        assert_eq!(world.value("/libxl/pci/0000-00-1f-2/driver_path"), Some("/sys/bus/pci/drivers/ahci"));
        assert_eq!(world.owners[&device(SATA)], WEB);
    });
    machine.assert_no_violations();
}

#[test]
fn a_paused_guest_need_not_answer() {
    let machine = Machine::new();
    pause(&machine, WEB);
    assert_eq!(attach_to_web(&machine, &[E1000, EDU, NVME]).unwrap(), Connection::Waiting);
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/3/backend/pci/5/0/state"), Some("3"));
        world.domains.get_mut(&WEB).unwrap().paused = false;
    });
    machine.settle();
    machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/state"), Some("4")));
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_is_paused_while_we_wait_need_not_answer() {
    let machine = Machine::new();
    machine.with(|world| world.guest.silent = true);
    let mut waits = 0;
    machine.with(|world| {
        world.incidents.push(Box::new(move |world| {
            waits += 1;
            let paused = waits > 20;
            world.domains.get_mut(&WEB).unwrap().paused |= paused;
            paused
        }));
    });
    assert_eq!(attach_to_web(&machine, &[EDU]).unwrap(), Connection::Waiting);
}

#[test]
fn xenbus_transitions_are_shown_in_order() {
    let machine = attached();
    machine.with(|world| {
        let shown: Vec<&str> = world
            .traces
            .iter()
            .filter_map(|line| line.strip_prefix("/local/domain/3/backend/pci/5/0/state: "))
            .collect();
        assert_eq!(
            shown,
            [
                "1 Initialising",
                "1 Initialising -> 2 InitWait",
                "2 InitWait -> 3 Initialised",
                "3 Initialised -> 4 Connected"
            ]
        );
        assert!(world.traces.contains(&"/local/domain/5/device/pci/0/state: 3 Initialised -> 4 Connected".to_owned()));
    });
}

#[test]
fn a_device_without_reset_is_told() {
    let machine = Machine::new();
    attach_to_web(&machine, &[E1000, NVME]).unwrap();
    machine.with(|world| {
        let told = |name| world.notes.iter().any(|note| note.starts_with(&format!("{name} cannot be reset")));
        assert!(told(E1000) && !told(NVME));
    });
}

#[test]
fn a_device_is_reset_once_between_two_who_have_it() {
    let resets = |machine: &Machine| machine.with(|world| std::mem::take(&mut world.resets));
    let machine = Machine::new();
    add_all(&machine);
    assert_eq!(resets(&machine), [NVME], "from dom0");
    attach_to_web(&machine, &[NVME]).unwrap();
    assert_eq!(resets(&machine), [""; 0], "it is as its reset left it");
    detach_from_web(&machine, &[NVME]).unwrap();
    assert_eq!(resets(&machine), [NVME], "from a guest");
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.with(|world| world.destroy(WEB));
    reclaim(&machine.host).unwrap();
    assert_eq!(resets(&machine), [NVME], "from one that died");
    machine.assert_no_violations();
}

#[test]
fn a_device_that_is_not_as_its_reset_left_it_is_reset_again() {
    let note = format!("{}/reset", paths::device_dir(device(NVME)));
    // Each is a bit that is otherwise in a quiesced device.
    for (what, at, bit) in
        [("bus master", 4, 1 << 2), ("INTx", 4, 1 << 10), ("MSI-X", 0x52, 1 << 15), ("decoder", 4, 1 << 1)]
    {
        let machine = Machine::new();
        add_all(&machine);
        let mut config = machine.config(NVME);
        config.set_word(at, config.word(at) ^ bit);
        machine.tree.write(format!("bus/pci/devices/{NVME}/config"), config.bytes);
        attach_to_web(&machine, &[NVME]).unwrap();
        machine.with(|world| assert_eq!((world.resets.len(), world.value(&note)), (2, None), "{what}"));
    }
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| world.remove(&note));
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.with(|world| assert_eq!(world.resets.len(), 2, "it is not known"));
}

/// Runs an attach that must fail and leave no trace, on a machine made by `prepare`.
fn fails_without_trace(prepare: impl Fn(&Machine)) -> Error {
    let machine = Machine::new();
    add_all(&machine);
    prepare(&machine);
    let before = machine.dump();
    let error = attach_to_web(&machine, &[E1000, EDU, NVME]).unwrap_err();
    machine.settle();
    machine.dump().assert_same(&before, "");
    machine.assert_no_violations();
    error
}

#[test]
fn a_guest_that_never_answers_ends_with_its_own_exit_code() {
    let error = fails_without_trace(|machine| machine.with(|world| world.guest.silent = true));
    assert!(matches!(error, Error::GuestSilent { after: Duration { .. }, .. }), "{error}");
    assert_eq!(error.cause(), ExitCause::GuestSilent);
    assert_eq!(
        error.to_string(),
        "web (domain 5) did not answer within 31 s (backend Initialised, frontend Initialising)"
    );
    assert!(error.hint().unwrap().contains("xen-pcifront"));
}

#[test]
fn a_guest_that_closes_is_quoted() {
    let error = fails_without_trace(|machine| {
        machine.with(|world| world.guest.refuses = Some("22 no such root"));
        // The guest's own node stays until the guest is gone.
        machine.with(|world| world.write("/local/domain/5/error/device/pci/0/error", "22 no such root"));
    });
    assert_eq!(error.to_string(), "web (domain 5) closed the connection instead of using the devices: 22 no such root");
    assert_eq!(error.cause(), ExitCause::Failed);
}

#[test]
fn a_device_that_the_stub_cannot_export_is_named_with_its_reason() {
    let error = fails_without_trace(|machine| {
        machine.with(|world| world.stub.cannot_export = Some((device(EDU), "28 the virtual bus is full")));
    });
    assert_eq!(
        error.to_string(),
        "the backend pcidom (domain 3) could not export 0000:00:06.0: 28 the virtual bus is full"
    );
}

#[test]
fn a_stub_that_gives_up_is_quoted() {
    let error = fails_without_trace(|machine| machine.with(|world| world.stub.gives_up = Some("12 no memory")));
    assert_eq!(error.to_string(), "the backend pcidom (domain 3) gave up: 12 no memory");
}

#[test]
fn a_stub_that_hangs_is_not_blamed_on_the_guest() {
    let error = fails_without_trace(|machine| machine.with(|world| world.stub.silent = true));
    assert!(matches!(error, Error::StubSilent { .. }), "{error}");
}

#[test]
fn a_guest_that_dies_meanwhile_leaves_its_devices_in_the_pool() {
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| {
        world.incidents.push(Box::new(|world| {
            let connecting = world.value("/local/domain/3/backend/pci/5/0/state") == Some("3");
            if connecting {
                world.destroy(WEB);
            }
            connecting
        }));
    });
    let error = attach_to_web(&machine, &[E1000, EDU, NVME]).unwrap_err();
    assert!(matches!(error, Error::GuestWentAway(_)), "{error}");
    crate::ops::recover::reclaim(&machine.host).unwrap();
    machine.with(|world| {
        assert!(!world.paths().any(|path| path.contains("backend/pci/5") || path.contains("/domain/5")));
        for name in [E1000, EDU, NVME] {
            assert_eq!(world.owners[&device(name)], xen_types::DomId::IO);
            assert_eq!(world.value(&format!("{}/phase", paths::device_dir(device(name)))), Some("pool"));
        }
    });
}

#[test]
fn any_single_failure_leaves_everything_as_it_was() {
    for (name, devices) in [("pool", vec![E1000, EDU, NVME]), ("parked", vec![E1000, EDU]), ("seize", vec![])] {
        let seize = format!("{SATA},seize=1");
        let devices = if devices.is_empty() { vec![seize.as_str(), EDU] } else { devices };
        let prepared = || {
            let machine = Machine::new();
            if name == "pool" {
                add_all(&machine);
            }
            machine
        };
        let changes = {
            let machine = prepared();
            let start = machine.with(|world| world.changes);
            attach_to_web(&machine, &devices).unwrap();
            machine.with(|world| world.changes) - start
        };
        assert!(changes > 10, "{changes}");
        let mut failures = 0;
        for failing in 1..=changes {
            let machine = prepared();
            let before = machine.dump_but_config();
            machine.with(|world| world.failing_change = Some(world.changes + failing));
            if let Err(error) = attach_to_web(&machine, &devices) {
                failures += 1;
                machine.settle();
                machine.dump_but_config().assert_same(&before, format!("{name}: change {failing}: {error}"));
                machine.with(|world| {
                    let undone = world.notes.iter().all(|note| !note.starts_with("could not undo"));
                    assert!(undone, "{name}: change {failing}: {:?}", world.notes);
                });
                for device in [E1000, EDU, NVME] {
                    assert!(machine.config(device).word(4) & 4 == 0, "{name}: change {failing}: {device} masters");
                }
            }
            machine.assert_no_violations();
        }
        // Only a reset may fail without consequence, and the undoing of what failed at the very end.
        assert!(failures >= changes - 2, "{name}: {failures} of {changes}");
    }
}

#[test]
fn a_device_whose_reset_does_not_end_is_given_to_nobody() {
    let machine = Machine::new();
    machine.with(|world| assert!(world.hanging_resets.insert(NVME.to_owned())));
    let before = machine.dump_but_config();
    for _ in 0..2 {
        let error = attach_to_web(&machine, &[EDU, NVME]).unwrap_err();
        assert!(matches!(error, Error::Host(HostError::ResetHangs(_))), "{error}");
        assert!(error.hint().unwrap().contains("restarted"));
        machine.settle();
        machine.dump_but_config().assert_same(&before, "");
    }
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn what_a_guest_lacks_is_told_with_its_first_devices() {
    let said = |machine: &Machine, word: &str| {
        machine.with(|world| {
            let about = |note: &&String| note.starts_with("web (domain 5): ") && note.contains(word);
            world.notes.iter().filter(about).count()
        })
    };
    let attached_with = |build_info| {
        let machine = Machine::new();
        machine.with(|world| world.build_info = build_info);
        attach_to_web(&machine, &[EDU]).unwrap();
        machine
    };
    let machine = attached_with(Some(r#"{ "kernel": "/boot/vmlinuz", "cmdline": "root=/dev/xvda1 ro" }"#));
    assert_eq!((said(&machine, "e820_host=1"), said(&machine, "iommu=soft")), (1, 1));
    attach_to_web(&machine, &[NVME]).unwrap();
    assert_eq!((said(&machine, "e820_host=1"), said(&machine, "iommu=soft")), (1, 1));
    // Where the command line is inside of the guest nobody knows.
    let machine = attached_with(Some(r#"{ "bootloader": "pygrub", "type.pv": { "e820_host": "True" } }"#));
    assert_eq!((said(&machine, "e820_host=1"), said(&machine, "iommu=soft")), (0, 0));
    let machine = attached_with(None);
    assert_eq!(said(&machine, ""), 0);
}
