//! Two judges, one table: what the stub passes on the broker carries out, and nothing else that a stub could ask for. Both apply the table for
//! themselves, the stub in its view of the device, the broker by the list that the command has made of it.

use std::collections::BTreeSet;

use pci_config::fakes::{
    Known, Memory, network_card, network_card_known, server_card, virtual_function, virtual_function_known,
};
use pci_config::{HardwareWrite, Policy, Register, VirtualConfig, WritableMask, WriteError, permitted_writes};
use pci_registers::power;
use pcidom_abi::{PermittedWrites, WriteKind};

use super::*;

const POLICIES: [&str; 8] = [
    "permissive=0",
    "permissive=1",
    "permissive=0,hide=1,hide=3,hide=5,hide=x1",
    "permissive=1,hide=1,hide=9,hide=11,hide=xb,show=x10",
    "permissive=0,quirk=e4:2:ff0f,quirk=e6:1:f0,quirk=68:2:ffff,quirk=104:4:ffff,quirk=9c:1:81",
    "permissive=0,interrupt-control=1",
    "permissive=1,interrupt-control=1,hide=11",
    "permissive=0,hide=3,quirk=6:2:f900,quirk=44:2:ffff,quirk=ffc:4:80000001",
];

/// Devices with different capabilities: with all that guests write, with BIST, a virtual function, a server's card, one with a header alone.
fn devices() -> Vec<(&'static str, Memory, Known)> {
    let mut tested = network_card();
    tested.set(0x0f, &[0x80]);
    let mut bare = Memory::default();
    bare.set(0, &[0x86, 0x80, 0xd3, 0x10, 0x02, 0x00]);
    vec![
        ("card", network_card(), network_card_known()),
        ("self-test", tested, network_card_known()),
        ("virtual function", virtual_function(), virtual_function_known()),
        ("server", server_card(), network_card_known()),
        ("bare", bare, Known::new(&[], 0)),
    ]
}

/// The broker's list, as it comes out of the node.
fn list(hw: &Memory, policy: &Policy) -> PermittedWrites {
    permitted_writes(hw, policy).to_node().expect("short enough").parse().expect("what was written")
}

fn for_all(judge: impl Fn(&str, &Memory, &Known, &Policy)) {
    for (name, hw, known) in devices() {
        for text in POLICIES {
            for resets in [false, true] {
                let policy = text.parse::<Policy>().expect("a policy").with_resets(resets, resets);
                let known = Known { policy, ..known.clone() };
                judge(&format!("{name}, {text}, resets {resets}"), &hw, &known, &policy);
            }
        }
    }
}

/// Every access that there is below `end`: offset and size.
fn accesses(end: u16) -> impl Iterator<Item = (u16, u16)> {
    let sizes = |offset: u16| [1, 2, 4].into_iter().filter(move |size| offset.is_multiple_of(*size));
    (0..end).flat_map(move |offset| sizes(offset).map(move |size| (offset, size)))
}

fn asked(write: &HardwareWrite) -> Asked {
    let HardwareWrite { offset, width, mask, value, .. } = *write;
    Asked { offset: offset.into(), size: width as i32, value, mask }
}

/// Bits by their place in the space, and their new values.
fn bits(offset: u16, mask: u32, value: u32) -> impl Iterator<Item = (u32, bool)> {
    (0..32).filter(move |bit| mask >> bit & 1 != 0).map(move |bit| (u32::from(offset) * 8 + bit, value >> bit & 1 != 0))
}

/// What an admin's policy opens of a write that the stub would drop: bit by bit, without the list.
fn opened(writable: &WritableMask, policy: &Policy, write: &HardwareWrite) -> BTreeSet<(u32, bool)> {
    let is_open = |(place, _): &(u32, bool)| {
        let (dword, bit) = (place / 32, place % 32);
        let is_quirk = |quirk: &pci_config::Quirk| bits(quirk.offset(), quirk.mask(), 0).any(|(at, _)| at == *place);
        let is_wanted = policy.permissive || policy.quirks().any(is_quirk);
        is_wanted && writable.open(usize::try_from(dword).expect("small")).bits >> bit & 1 != 0
    };
    bits(write.offset, write.mask, write.value).filter(is_open).collect()
}

fn reached(allowed: &[Allowed]) -> BTreeSet<(u32, bool)> {
    allowed.iter().flat_map(|allowed| bits(allowed.offset, allowed.mask, allowed.value)).collect()
}

#[test]
fn what_the_stub_passes_on_the_broker_carries_out() {
    for_all(|place, hw, known, policy| {
        let (list, writable) = (list(hw, policy), WritableMask::new(hw, policy));
        let fresh = VirtualConfig::new(&known.description(), hw);
        let mut config = fresh.clone();
        for (offset, size) in accesses(4096) {
            for value in [0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa, 0x4000_4040, 0x0010_0008] {
                let outcome = match config.write(hw, offset.into(), size.into(), value) {
                    Ok(outcome) => outcome,
                    Err(WriteError::Access(_)) => {
                        assert!(offset >= fresh.size(), "{place}: {offset:#x}");
                        continue;
                    }
                    Err(WriteError::Denied(_)) => continue,
                };
                for write in outcome.hardware() {
                    let judged = check(&asked(write), &list);
                    if write.register == Register::Open {
                        let opened = opened(&writable, policy, write);
                        let judged = judged.map(|allowed| reached(&allowed)).unwrap_or_default();
                        assert_eq!(judged, opened, "{place}: {write:x?}");
                        continue;
                    }
                    let [allowed] = judged.expect("on the list")[..] else { panic!("{place}: {write:x?}") };
                    let is_same = (allowed.offset, allowed.width, allowed.mask, allowed.value)
                        == (write.offset, write.width, write.mask, write.value);
                    assert!(is_same && allowed.kind != WriteKind::Open, "{place}: {write:x?} became {allowed:x?}");
                }
                if offset < 0x40 {
                    config = fresh.clone(); // some registers of the header are ours
                }
            }
        }
    });
}

/// Every bit and value that some write of a guest has the stub pass on, whatever the registers hold.
fn reachable(hw: &Memory, known: &Known, policy: &Policy, list: &PermittedWrites) -> BTreeSet<(u32, bool)> {
    let writable = WritableMask::new(hw, policy);
    let mut all = BTreeSet::new();
    let controls: Vec<u16> = list
        .registers
        .iter()
        .filter(|register| register.kind == WriteKind::InterruptControl)
        .map(|register| register.offset / 4)
        .collect();
    // The line is turned on only where neither MSI nor MSI-X is on.
    let passes = [(false, false), (true, true), (true, false)];
    for (ones, are_controls_ones) in passes.into_iter().take(if controls.is_empty() { 2 } else { 3 }) {
        let mut hw = hw.clone();
        for register in &list.registers {
            let ones = if register.kind == WriteKind::InterruptControl { are_controls_ones } else { ones };
            for (place, _) in bits(register.offset, register.mask, 0) {
                let (byte, bit) = (usize::try_from(place / 8).expect("small"), 1 << (place % 8));
                hw.bytes[byte] = if ones { hw.bytes[byte] | bit } else { hw.bytes[byte] & !bit };
            }
        }
        let fresh = VirtualConfig::new(&known.description(), &hw);
        let mut config = fresh.clone();
        for (offset, size) in accesses(fresh.size()) {
            let single = (0..8 * u32::from(size)).map(|bit| 1 << bit);
            // Beside bits of these that may change are others that must stay.
            let is_control = controls.contains(&(offset / 4));
            let now = is_control.then(|| fresh.read(&hw, offset.into(), size.into()).expect("an access"));
            let values = |value: u32| [Some(value), Some(!value), now.map(|now| now ^ value)].into_iter().flatten();
            for value in single.flat_map(values).chain([0, u32::MAX]) {
                if offset < 0x40 {
                    config = fresh.clone(); // some registers of the header are ours
                }
                let Ok(outcome) = config.write(&hw, offset.into(), size.into(), value) else { continue };
                for write in outcome.hardware() {
                    match write.register {
                        Register::Open => all.extend(opened(&writable, policy, write)),
                        _ => all.extend(bits(write.offset, write.mask, write.value)),
                    }
                }
            }
        }
    }
    all
}

#[test]
fn what_no_write_of_a_guest_comes_to_the_broker_refuses() {
    for_all(|place, hw, known, policy| {
        let list = list(hw, policy);
        let reachable = reachable(hw, known, policy, &list);
        // A zero leaves PME status as it is.
        let changes_nothing = |bit: &(u32, bool)| {
            let is_status = |at: u16| bits(at + power::PMCSR, power::PME_STATUS.into(), 0).any(|status| status == *bit);
            list.capabilities.power.is_some_and(is_status)
        };
        for (offset, size) in accesses(4096) {
            let full = u32::MAX >> (32 - 8 * u32::from(size));
            let single = (0..8 * u32::from(size)).map(|bit| 1u32 << bit);
            for mask in single.chain([0, full, full & 0x00ff_ff00, full & 0x5555_5555, full & 0x0000_bfff]) {
                for value in [0, u32::MAX, 0x4040_4040] {
                    let asked = Asked { offset: offset.into(), size: size.into(), value, mask };
                    match check(&asked, &list) {
                        Ok(allowed) => {
                            let reached = reached(&allowed);
                            let is_unknown = |bit: &&(u32, bool)| !reachable.contains(bit) && !changes_nothing(bit);
                            assert_eq!(reached.iter().find(is_unknown), None, "{place}: {asked:x?}");
                            assert!(reached.is_subset(&bits(offset, mask, value).collect()), "{place}: {asked:x?}");
                        }
                        Err(_) if mask.count_ones() == 1 => {
                            let is_refused = bits(offset, mask, value).all(|bit| !reachable.contains(&bit));
                            assert!(is_refused, "{place}: {asked:x?}");
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    });
}
