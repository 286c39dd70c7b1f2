//! The inventory agrees with the view: what it shows is what reads and writes do.

use pcidom_abi::PermittedWrites;
use proptest::prelude::*;

use super::{assign, carried_out};
use crate::fakes::{Memory, network_card, network_card_known, server_card};
use crate::{Answerer, Entry, Policy, Reason, VirtualConfig, Width, permitted_writes};

fn inventory(hw: &Memory, policy: &str) -> Vec<Entry> {
    let policy_itself: Policy = policy.parse().expect("a policy");
    assign(&network_card_known().with_policy(policy), hw).inventory(hw, &policy_itself)
}

#[track_caller]
fn find<'a>(entries: &'a [Entry], block: &str, name: &str) -> &'a Entry {
    let entry = entries.iter().find(|entry| entry.block == block && entry.name == name);
    entry.unwrap_or_else(|| panic!("no {block} {name}: {entries:#x?}"))
}

#[test]
fn every_byte_is_in_one_register_and_none_crosses_a_dword() {
    for policy in ["permissive=0", "permissive=1", "permissive=0,hide=5,hide=10,hide=x1,hide=x10"] {
        for hw in [network_card(), server_card()] {
            let mut end = 0;
            for entry in inventory(&hw, policy) {
                assert_eq!(entry.offset, end, "{entry:x?}");
                assert!(entry.bytes > 0 && entry.offset % 4 + u16::from(entry.bytes) <= 4, "{entry:x?}");
                end = entry.offset + u16::from(entry.bytes);
            }
            assert!([256, 4096].contains(&end));
        }
    }
}

#[test]
fn registers_have_their_names_and_their_reasons() {
    let entries = inventory(&server_card(), "permissive=0,quirk=e4:2:ff0f,hide=11,hide=x10");
    let command = find(&entries, "header", "Command");
    assert_eq!((command.offset, command.bytes, command.answer), (4, 2, Answerer::Both));
    assert_eq!((command.device_bits, command.virtual_bits, command.openable_bits), (0x414, 0xfd43, 0x2a8));
    assert_eq!(command.source, "PCI 3.0 §6.2.2");
    let bar = find(&entries, "header", "Base Address 0");
    assert_eq!((bar.value, bar.device_bits, bar.virtual_bits), (0xfeb0_0000, 0, 0x014e_0000));
    assert_eq!(find(&entries, "header", "Base Address 1").reason, Reason::NoResource);
    assert_eq!(find(&entries, "pm", "PMCSR").device_bits, 0x9e03);
    assert_eq!(find(&entries, "header", "Subsystem ID").reason, Reason::Locked);
    let control = find(&entries, "pcie", "Device Control");
    assert_eq!(
        (control.reason.clone(), control.openable_bits, control.answer),
        (Reason::Closed, 0x7010, Answerer::Device)
    );
    let quirk = entries.iter().find(|entry| entry.offset == 0xe4).expect("a dword");
    assert_eq!((quirk.block.as_str(), quirk.device_bits), ("", 0xff0f), "a vendor's own has no length");
    assert_eq!(quirk.reason.to_string(), "open by quirk=e4:2:ff0f");
    for (block, offset) in [("msix", 0xa0), ("sriov", 0x160)] {
        let hidden = find(&entries, block, "hidden");
        assert_eq!((hidden.offset, hidden.value, hidden.answer, hidden.device_bits), (offset, 0, Answerer::Hidden, 0));
    }
    // Of what the table does not know there are the numbers that `hide=` takes.
    assert_eq!(find(&entries, "d", "id, next").offset, 0xf0);
    assert_eq!(find(&entries, "x7e", "id, version, next").offset, 0x300);
    assert_eq!(find(&inventory(&server_card(), "permissive=1"), "", "").openable_bits, 0);
}

/// What a write of one byte does: bits of the byte that reach the device, and bits that a guest then reads otherwise.
fn effect(hw: &Memory, view: &VirtualConfig, list: &PermittedWrites, offset: u16, value: u8) -> (u8, u8) {
    let mut config = view.clone();
    let read = |config: &VirtualConfig| config.read(hw, offset.into(), 1).expect("a byte").to_le_bytes()[0];
    let before = read(&config);
    let Ok(outcome) = config.write(hw, offset.into(), 1, value.into()) else { return (0, 0) };
    let mut reached = 0;
    let mut add = |place: u16, mask: u32| {
        let byte = offset.checked_sub(place).filter(|byte| *byte < 4);
        reached |= byte.map_or(0, |byte| mask.to_le_bytes()[usize::from(byte)]);
    };
    for write in outcome.hardware() {
        carried_out(write, list).into_iter().for_each(|(place, _, mask, _)| add(place, mask));
    }
    (reached, before ^ read(&config))
}

/// A byte of a mask of a register.
fn byte_of(entry: &Entry, offset: u16, mask: u32) -> u8 {
    mask.to_le_bytes()[usize::from(offset - entry.offset)]
}

/// All bits of every byte are tried alone, on a card whose bits that a one clears are set.
fn assert_honest(hw: &Memory, policy: &str) {
    let view = assign(&network_card_known().with_policy(policy), hw);
    let list = permitted_writes(hw, &policy.parse().expect("a policy"));
    for entry in inventory(hw, policy).into_iter().filter(|entry| entry.offset < 0x310) {
        for offset in entry.offset..entry.offset + u16::from(entry.bytes) {
            let [device, virt] = [entry.device_bits, entry.virtual_bits].map(|mask| byte_of(&entry, offset, mask));
            let (mut reached, mut changed) = (0, 0);
            let now = hw.bytes[usize::from(offset)];
            let guest = view.read(hw, offset.into(), 1).expect("a byte").to_le_bytes()[0];
            for bit in (0..8).map(|bit| 1u8 << bit) {
                for value in [guest ^ bit, guest | bit, guest & !bit, bit] {
                    let effect = effect(hw, &view, &list, offset, value);
                    reached |= effect.0;
                    changed |= effect.1;
                }
            }
            // Completion of a read of VPD is cleared by asking for the next one.
            let extra = if entry.name == "VPD Address" { byte_of(&entry, offset, 0x8000) } else { 0 };
            assert_eq!(reached & !device & !extra, 0, "{policy}: {offset:#x} {now:#x} {entry:x?}");
            assert_eq!(device & !reached, 0, "{policy}: nothing reaches {offset:#x} {now:#x} {entry:x?}");
            assert_eq!(changed & !virt, 0, "{policy}: {offset:#x} {entry:x?}");
        }
    }
}

#[test]
fn what_is_shown_is_what_a_write_does() {
    let mut card = server_card();
    card.set(0x04, &[0, 0, 0x10, 0]);
    card.set(0x44, &[0x08, 0x80]);
    card.set(0x0f, &[0x80]);
    card.set(0xb2, &[0, 0]); // where a read is done, a byte alone would ask for a write
    for policy in [
        "permissive=0",
        "permissive=1",
        "permissive=0,quirk=e4:2:ff0f,quirk=e6:1:f0,quirk=68:2:ffff,quirk=104:4:ffff",
        "permissive=1,hide=1,hide=11,hide=x1",
    ] {
        assert_honest(&card, policy);
    }
}

#[test]
fn a_self_test_that_the_device_does_not_have_is_told() {
    let entries = inventory(&server_card(), "permissive=1");
    let bist = entries.iter().find(|entry| entry.name == "BIST").expect("BIST");
    assert_eq!((bist.device_bits, bist.reason.to_string().as_str()), (0, "the device has no self-test"));
}

#[test]
fn a_base_address_register_changes_by_what_is_shown() {
    let hw = network_card();
    let known = network_card_known();
    for entry in inventory(&hw, "permissive=0").iter().filter(|entry| entry.name.contains("Base Address")) {
        let mut config = assign(&known, &hw);
        config.write(&hw, entry.offset.into(), 4, u32::MAX).expect("sizing");
        let after = config.read(&hw, entry.offset.into(), 4).expect("a register");
        assert_eq!(after ^ entry.value, entry.virtual_bits, "{entry:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_have_registers(seed in prop::collection::vec(any::<u8>(), 4096), has_list in any::<bool>(), is_permissive in any::<bool>()) {
        let hw = Memory::of(&seed, has_list);
        let entries = inventory(&hw, if is_permissive { "permissive=1" } else { "permissive=0" });
        let bytes: usize = entries.iter().map(|entry| usize::from(entry.bytes)).sum();
        prop_assert!([256, 4096].contains(&bytes));
        for entry in entries {
            let bits = Width::from_bytes(entry.bytes.into()).map_or(0x00ff_ffff, Width::bits);
            prop_assert_eq!((entry.value | entry.device_bits | entry.virtual_bits | entry.openable_bits) & !bits, 0);
        }
    }
}
