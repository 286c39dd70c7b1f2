//! `pcidom repair`: devices that dom0's kernel has recovered from an error.

use std::cell::RefCell;

use dom0::xen::{HypercallError, Physdev, Vector};
use fakes::{FakePhysdev, Memory};
use pcidom_abi::DeviceNode;
use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::{add_all, attach_to_web, attached, detach_from_web};
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, SATA, WEB, device};
use crate::ops::repair::{Repaired, repair};

/// MSI-X of the machine's devices, and their power management where a test adds it.
const MSIX: usize = 0x50;

/// Xen, which writes messages.
fn messages(machine: &Machine) -> FakePhysdev {
    FakePhysdev { world: machine.world.clone(), tree: machine.tree.clone(), restored: RefCell::default() }
}

fn put(machine: &Machine, name: &str, config: &Memory) {
    machine.tree.write(format!("bus/pci/devices/{name}/config"), &config.bytes);
}

/// What a reset of the bus leaves: ids and capabilities.
fn reset_by_the_bus(machine: &Machine, name: &str) {
    let mut config = machine.config(name);
    config.set_word(4, 0);
    config.bytes[0x0c] = 0;
    config.set(0x10, &[config.bytes[0x10] & 0xf, 0, 0, 0, 0, 0, 0, 0]);
    config.set_word(MSIX + 2, config.word(MSIX + 2) & 0x07ff);
    put(machine, name, &config);
}

fn note_vectors(machine: &Machine, name: &str, vectors: &str) {
    machine.with(|world| world.write(&DeviceNode::Vectors.of(device(name)), vectors));
}

#[test]
fn a_guests_device_has_addresses_decoding_and_messages_again() {
    let machine = Machine::new();
    let mut config = machine.config(NVME);
    config.bytes[0x0c] = 0x10;
    config.set(0x10, &[0x04, 0, 0, 0xc0, 8, 0, 0, 0]);
    put(&machine, NVME, &config);
    add_all(&machine);
    attach_to_web(&machine, &[NVME]).unwrap();
    note_vectors(&machine, NVME, "msix 0:55 1:54");
    let mut used = machine.config(NVME);
    used.set_word(4, 0x0406);
    used.set_word(MSIX + 2, 0x8001);
    put(&machine, NVME, &used);
    reset_by_the_bus(&machine, NVME);
    let xen = messages(&machine);
    assert_eq!(repair(&machine.host, &xen, device(NVME)).unwrap(), Repaired::Restored);
    assert_eq!(*xen.restored.borrow(), [device(NVME)]);
    let now = machine.config(NVME);
    assert_eq!(now.word(4), 0x0402, "decoding, and no INTx beside its messages; bus mastering is its driver's");
    assert_eq!(now.word(MSIX + 2), 0x8001);
    assert_eq!((now.bytes[0x0c], &now.bytes[0x10..0x18]), (0x10, &[0x04, 0, 0, 0xc0, 8, 0, 0, 0][..]));
    // It can be asked for again and again, and a detach is as ever.
    assert_eq!(repair(&machine.host, &xen, device(NVME)).unwrap(), Repaired::Sound);
    note_vectors(&machine, NVME, "none");
    detach_from_web(&machine, &[NVME]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_device_that_has_lost_nothing_is_left_alone() {
    let machine = attached();
    let mut used = machine.config(NVME);
    used.bytes[0x0c] = 0x20; // its guest's
    put(&machine, NVME, &used);
    let xen = messages(&machine);
    assert_eq!(repair(&machine.host, &xen, device(NVME)).unwrap(), Repaired::Sound);
    assert_eq!(machine.config(NVME).bytes, used.bytes);
    assert_eq!(*xen.restored.borrow(), []);
}

#[test]
fn a_guest_without_vectors_keeps_its_line_as_it_wants_it() {
    for (intx, expected) in [(None, 0x0002), (Some("off"), 0x0402)] {
        let machine = attached();
        if let Some(intx) = intx {
            machine.with(|world| world.write(&DeviceNode::Intx.of(device(NVME)), intx));
        }
        reset_by_the_bus(&machine, NVME);
        let xen = messages(&machine);
        assert_eq!(repair(&machine.host, &xen, device(NVME)).unwrap(), Repaired::Restored);
        assert_eq!(machine.config(NVME).word(4), expected, "{intx:?}");
        assert_eq!(*xen.restored.borrow(), []);
    }
}

#[test]
fn free_devices_are_made_ready_and_those_of_others_are_left_alone() {
    let machine = Machine::new();
    add_all(&machine);
    let xen = messages(&machine);
    reset_by_the_bus(&machine, EDU);
    assert_eq!(repair(&machine.host, &xen, device(EDU)).unwrap(), Repaired::Free);
    assert!(machine.config(EDU).is_quiesced());
    assert_eq!(machine.config(EDU).word(4) & 2, 2, "it decodes: a guest may have it mapped still");
    let before = machine.dump();
    assert_eq!(repair(&machine.host, &xen, device(SATA)).unwrap(), Repaired::NotOurs);
    for phase in ["attaching", "detaching", "leaked"] {
        machine.with(|world| world.write(&DeviceNode::Phase.of(device(E1000)), phase));
        assert_eq!(repair(&machine.host, &xen, device(E1000)).unwrap(), Repaired::NotOurs, "{phase}");
    }
    machine.with(|world| world.write(&DeviceNode::Phase.of(device(E1000)), "pool"));
    machine.dump().assert_same(&before, "nothing was changed");
}

#[test]
fn a_device_that_a_command_takes_back_meanwhile_is_quiesced_again() {
    let machine = attached();
    note_vectors(&machine, NVME, "msix 0:55");
    reset_by_the_bus(&machine, NVME);
    struct Takes<'a>(&'a Machine);
    impl Physdev for Takes<'_> {
        fn map(&self, _: DomId, _: Sbdf, _: Vector) -> Result<Pirq, HypercallError> {
            Err(HypercallError { call: "PHYSDEVOP_map_pirq", errno: Errno::EINVAL })
        }
        fn restore(&self, of: Sbdf) -> Result<(), HypercallError> {
            self.0.with(|world| {
                world.write(&DeviceNode::Phase.of(of), "detaching");
                world.write(&DeviceNode::Vectors.of(of), "none");
            });
            Ok(())
        }
    }
    assert_eq!(repair(&machine.host, &Takes(&machine), device(NVME)).unwrap(), Repaired::NotOurs);
    assert!(machine.config(NVME).is_quiesced());
}

#[test]
fn a_device_that_does_not_answer_is_told() {
    let machine = attached();
    put(&machine, NVME, &Memory::from_bytes(vec![0xff; 4096]));
    let error = repair(&machine.host, &messages(&machine), device(NVME)).unwrap_err();
    assert!(matches!(error, Error::Gone(gone) if gone == device(NVME)), "{error}");
    machine.with(|world| assert!(world.domains.contains_key(&WEB)));
}
