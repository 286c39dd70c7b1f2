//! `pcidom repair`: devices that dom0's kernel has recovered from an error.

use std::cell::RefCell;
use std::time::Duration;

use dom0::lock::Lock;
use dom0::xen::{HypercallError, Physdev, Vector};
use fakes::{FakePhysdev, Memory};
use pcidom_abi::DeviceNode;
use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::{add_all, attach_to_web, attached, detach_from_web, request};
use crate::cli::list;
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, MachineWithStub, NVME, SATA, WEB, device};
use crate::ops::attach::attach;
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;
use crate::ops::relay::{Relayed, relay};
use crate::ops::repair::{Repaired, repair, words};
use crate::records::device_table::load_one;

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
    assert_eq!(
        repair(&machine.host, &xen, device(NVME)).unwrap(),
        Repaired::Restored(Relayed::Untold("its backend does not tell it"))
    );
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
        assert_eq!(
            repair(&machine.host, &xen, device(NVME)).unwrap(),
            Repaired::Restored(Relayed::Untold("its backend does not tell it"))
        );
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
fn a_free_device_that_a_command_gives_to_a_guest_meanwhile_is_left_alone() {
    let machine = attached();
    machine.with(|world| {
        world.write(&DeviceNode::Phase.of(device(NVME)), "pool");
        world.remove(&DeviceNode::Frontend.of(device(NVME)));
    });
    let mut used = machine.config(NVME);
    reset_by_the_bus(&machine, NVME);
    used.set_word(4, 0x0006);
    let (folder, tree) = (machine.host.lock_folder.clone(), machine.tree.clone());
    let take_lock = move || Lock::try_take_in(&folder, "pcidom.lock").unwrap();
    let phase = DeviceNode::Phase.of(device(NVME));
    let node = phase.clone();
    let command = move |world: &mut fakes::World| {
        assert!(take_lock().is_some(), "nobody is kept waiting for the first look");
        world.write(&DeviceNode::Frontend.of(device(NVME)), "5");
        world.write(&node, "attached");
        tree.write(format!("bus/pci/devices/{NVME}/config"), &used.bytes);
        let next = move |_: &mut fakes::World| assert!(take_lock().is_none(), "another command could come in between");
        world.after_read = Some((node, Box::new(next)));
    };
    machine.with(|world| world.after_read = Some((phase, Box::new(command))));
    assert_eq!(repair(&machine.host, &messages(&machine), device(NVME)).unwrap(), Repaired::NotOurs);
    machine.with(|world| assert!(world.after_read.is_none()));
    assert_eq!(machine.config(NVME).word(4), 0x0006);
}

#[test]
fn a_device_that_its_guest_resets_has_time_to_get_its_registers_back() {
    for (reset, expected) in [
        (" reset:48:2:8000:0", Repaired::Sound),
        ("", Repaired::Restored(Relayed::Untold("its backend does not tell it"))),
    ] {
        let machine = attached();
        let node = DeviceNode::PermittedWrites.of(device(NVME));
        let list = machine.host.read(&node).unwrap().unwrap();
        assert!(!list.contains("reset:"), "{list}");
        machine.with(|world| world.write(&node, &format!("{list}{reset}")));
        let used = machine.config(NVME);
        reset_by_the_bus(&machine, NVME);
        let tree = machine.tree.clone();
        let stub = move |_: &mut fakes::World| tree.write(format!("bus/pci/devices/{NVME}/config"), &used.bytes);
        machine.with(|world| world.during_pause = Some(Box::new(stub)));
        assert_eq!(repair(&machine.host, &messages(&machine), device(NVME)).unwrap(), expected);
    }
}

#[test]
fn a_device_that_does_not_answer_is_told() {
    let machine = attached();
    put(&machine, NVME, &Memory::from_bytes(vec![0xff; 4096]));
    let error = repair(&machine.host, &messages(&machine), device(NVME)).unwrap_err();
    assert!(matches!(error, Error::Gone(gone) if gone == device(NVME)), "{error}");
    machine.with(|world| assert!(world.domains.contains_key(&WEB)));
}

/// A machine with the real backend, whose guest answers so to what it is told of errors: results by commands. Its device was reset.
fn told(error_results: &[(u32, u32)]) -> MachineWithStub {
    let mut machine = MachineWithStub::new();
    machine.host.lock_folder = machine.machine.tree.path().to_owned();
    crate::ops::assignable::add(&machine.host, &[E1000, NVME].map(device), "pcidom").unwrap();
    attach(&machine.host, &request("web", &[E1000, NVME])).unwrap();
    machine.with_peers(|peers| {
        peers.guests.get_mut(&WEB).unwrap().error_results = error_results.iter().copied().collect();
    });
    reset_by_the_bus(&machine.machine, NVME);
    machine
}

fn repair_told(machine: &MachineWithStub) -> Repaired {
    let repaired = repair(&machine.host, &messages(&machine.machine), device(NVME)).unwrap();
    assert_eq!(aer(machine), None, "nothing is left of it");
    repaired
}

fn aer(machine: &MachineWithStub) -> Option<String> {
    machine.read("/local/domain/3/pool/0000-00-07-0/aer")
}

/// Commands, with the states of the channel, that the guest was told.
fn commands(machine: &MachineWithStub) -> Vec<(u32, u32)> {
    machine.with_peers(|peers| peers.guests[&WEB].told.iter().map(|[cmd, state, ..]| (*cmd, *state)).collect())
}

#[test]
fn a_driver_that_wants_a_reset_is_led_through_it() {
    let machine = told(&[(6, 3), (9, 5), (7, 1)]);
    assert_eq!(repair_told(&machine), Repaired::Restored(Relayed::Recovered));
    assert_eq!(commands(&machine), [(6, 2), (9, 1), (7, 1)]);
    assert_eq!(machine.machine.config(NVME).word(4) & 2, 2, "it decoded before its driver was told");
    assert_eq!(repair_told(&machine), Repaired::Sound);
    assert_eq!(commands(&machine).len(), 3);
}

#[test]
fn a_driver_is_told_no_more_than_it_handles() {
    for (results, expected, heard) in [
        (&[(6, 1)][..], Relayed::Unhandled, &[6][..]),
        (&[(6, 6)], Relayed::Unhandled, &[6]),
        (&[(6, 2)], Relayed::Unhandled, &[6]),
        (&[(6, 5), (7, 99)], Relayed::Recovered, &[6, 7]),
        // Its work on this may take longer than anybody waits.
        (&[(6, 3), (9, 5)], Relayed::Recovered, &[6, 9]),
    ] {
        let machine = told(results);
        assert_eq!(repair_told(&machine), Repaired::Restored(expected), "{results:?}");
        assert_eq!(commands(&machine).iter().map(|(cmd, _)| *cmd).collect::<Vec<_>>(), heard, "{results:?}");
        assert_eq!(machine.read(&DeviceNode::Isolated.of(device(NVME))), None);
    }
}

#[test]
fn a_device_whose_driver_gives_up_or_does_not_answer_is_isolated() {
    for results in [&[][..], &[(6, 4)], &[(6, 0)], &[(6, u32::MAX)], &[(6, 3)], &[(6, 3), (9, 4)], &[(6, 3), (9, 1)]] {
        let machine = told(results);
        let before = machine.machine.with(|world| world.clock);
        let Repaired::Restored(Relayed::Isolated(why)) = repair_told(&machine) else { panic!("{results:?}") };
        let took = machine.machine.with(|world| world.clock) - before;
        assert!(took.as_secs() < 4, "{results:?}: {took:?}");
        assert!(!commands(&machine).iter().any(|(cmd, _)| *cmd == 7), "{results:?}");
        assert!(machine.machine.config(NVME).is_quiesced(), "{results:?}");
        assert_eq!(machine.machine.config(NVME).word(4) & 2, 2, "its guest has it mapped");
        machine.with_peers(|peers| peers.settle());
        assert_eq!(machine.read("/local/domain/3/pool/0000-00-07-0/state").as_deref(), Some("absent 5"));
        let error = machine.read("/local/domain/3/error/backend/pci/5/0/error").unwrap_or_default();
        assert_eq!(error, "19 0000:00:07.0 was isolated after an error", "{results:?}");
        assert_eq!(machine.read(&DeviceNode::PermittedWrites.of(device(NVME))), None);
        let listed = list::table(&list::devices(&machine.host, None).unwrap());
        assert!(listed.contains(&format!("isolated: {why}")), "{listed}");
        // Nothing gives it back, not even another error, until it is detached.
        reset_by_the_bus(&machine.machine, NVME);
        let again = repair_told(&machine);
        assert_eq!(again, Repaired::Isolated, "{}", words(device(NVME), &again));
        assert!(machine.machine.config(NVME).is_quiesced());
        let request = detach::Request {
            guest: "web".to_owned(),
            backend: None,
            devices: vec![device(NVME)],
            timeout: super::TIMEOUT,
            force: false,
        };
        detach(&machine.host, &request, &reclaim(&machine.host).unwrap()).unwrap();
        assert_eq!(machine.read("/local/domain/3/pool/0000-00-07-0/state").as_deref(), Some("free"));
        assert_eq!(machine.read(&DeviceNode::Isolated.of(device(NVME))), None);
        attach(&machine.host, &super::request("web", &[NVME])).unwrap();
    }
}

#[test]
fn a_guest_without_a_driver_is_told_nothing() {
    let machine = told(&[]);
    machine.with_peers(|peers| {
        peers.guests.get_mut(&WEB).unwrap().unload();
        peers.settle();
    });
    assert_eq!(repair_told(&machine), Repaired::Restored(Relayed::Untold("it does not use its devices")));
    machine.with_peers(|peers| assert_eq!(peers.tool.error(WEB), None));
}

#[test]
fn a_device_that_a_command_takes_meanwhile_is_neither_told_nor_isolated() {
    let machine = told(&[]);
    let record = load_one(&machine.host, device(NVME)).unwrap().unwrap();
    for (node, value) in [(DeviceNode::Phase, "detaching"), (DeviceNode::Frontend, "6"), (DeviceNode::Stub, "4")] {
        let node = node.of(device(NVME));
        let before = machine.read(&node).unwrap();
        machine.with_peers(|peers| peers.tool.write(&node, value));
        assert_eq!(relay(&machine.host, &record, WEB).unwrap(), Relayed::Taken, "{node}");
        assert_eq!((aer(&machine), commands(&machine)), (None, vec![]));
        machine.with_peers(|peers| peers.tool.write(&node, &before));
    }
    assert_eq!(machine.read(&DeviceNode::Isolated.of(device(NVME))), None);
}

#[test]
fn two_at_a_time_tell_a_guest_once() {
    let machine = told(&[(6, 3), (9, 5), (7, 1)]);
    let folder = machine.host.lock_folder.clone();
    let lock = Lock::try_take_in(&folder, "pcidom-repair-0000:00:07.0.lock").unwrap();
    let before = machine.machine.with(|world| world.clock);
    assert_eq!(repair_told(&machine), Repaired::Busy);
    let waited = machine.machine.with(|world| world.clock) - before;
    assert!(waited >= Duration::from_secs(36), "three notifications may take that long: {waited:?}");
    assert_eq!(commands(&machine), []);
    drop(lock);
    assert_eq!(repair_told(&machine), Repaired::Restored(Relayed::Recovered));
}
