//! What is saved of a function's configuration.

use pci_registers::{ConfigSpace as _, Width, express, id};
use pcidom_abi::SavedKind;

use crate::fakes::{Memory, server_card, virtual_function};
use crate::register::Place;
use crate::save_pristine;
use crate::table::blocks;

/// A server's card with latencies, a Resizable BAR, masks and sizes that are none of a reset's.
fn card() -> Memory {
    let mut card = server_card();
    card.set_word(0x04, 0x0146); // parity and SERR#, and what drivers set
    card.set_word(0x44, 0x8108); // PME pending and enabled
    card.set_word(0x4a, 0x00a1); // MSI on, 4 vectors in use
    card.set_word(0x68, 0x2950);
    card.set_word(0x70, 0x0040);
    card.set_word(0xa2, 0xc004); // MSI-X on and masked
    card.set(0x1f0 + 8, &0x0000_0b22_u32.to_le_bytes()); // BAR 2, of one
    card
}

fn saved(hw: &Memory, kind: SavedKind) -> Vec<(u16, u8, u32, u32)> {
    let all = save_pristine(hw).registers;
    let of_kind = all.into_iter().filter(|saved| saved.kind == kind);
    of_kind.map(|saved| (saved.offset, saved.width as u8, saved.mask, saved.value)).collect()
}

#[test]
fn registers_are_saved_as_the_host_has_them_and_nothing_is_on() {
    let plain = saved(&card(), SavedKind::Plain);
    for register in [
        (0x44, 2, 0x9f00, 0x0100),
        (0x4a, 2, 0x0071, 0x0020),
        (0xa2, 2, 0xc000, 0),
        (0x68, 2, 0x7fff, 0x2950),
        (0x70, 2, 0x03cb, 0x0040),
        (0x04, 2, 0x03f8, 0x0140),
    ] {
        assert!(plain.contains(&register), "{register:x?} is not in {plain:x?}");
    }
    assert_eq!(saved(&card(), SavedKind::Size), [(0x1f8, 4, 0x3f00, 0x0b00)]);
}

#[test]
fn each_register_comes_behind_what_it_relies_on() {
    let all = save_pristine(&card()).registers;
    let place = |offset| all.iter().position(|saved| saved.offset == offset).unwrap();
    let order = [
        (0x1f8, 0x24, "sizes before all else"),
        (0x108, 0x68, "error masks before reporting"),
        (0x10c, 0x68, "severities before reporting"),
        (0x1ec, 0x88, "latencies before their messages"),
        (0x23c, 0x238, "thresholds before substates"),
        (0x238, 0x70, "substates before L1"),
        (0x184, 0x168, "a virtual function's addresses before what it is made of"),
    ];
    for (first, second, why) in order.into_iter().filter(|(_, second, _)| *second != 0x24) {
        assert!(place(first) < place(second), "{why}");
    }
    assert_eq!(place(0x1f8), 0, "sizes before all else");
    assert_eq!(all.last().unwrap().offset, 4, "Command last");
    assert!(all.iter().rposition(|saved| saved.kind == SavedKind::Open).unwrap() < all.len() - 1);
}

#[test]
fn no_bit_is_saved_twice_and_none_starts_anything() {
    for card in [card(), crate::fakes::network_card(), virtual_function()] {
        let mut seen = vec![0_u32; 1024];
        for saved in save_pristine(&card).registers {
            let bits = saved.mask << (8 * (saved.offset % 4));
            assert_eq!(seen[usize::from(saved.offset / 4)] & bits, 0, "{saved:x?}");
            seen[usize::from(saved.offset / 4)] |= bits;
        }
        let express = card.capability(id::PCI_EXPRESS).unwrap();
        let device_control = (express + usize::from(express::DEVICE_CONTROL)) / 4;
        assert_eq!(seen[device_control] & 0xffff_8000, 0, "function level reset and status");
        assert_eq!(seen[1] & 0xffff_0407, 0, "what Command is to be and status");
        assert_eq!(seen[3] & 0xff00_0000, 0, "BIST");
        assert!(seen[4..10].iter().all(|bits| *bits == 0), "addresses");
    }
}

/// Control registers of the policy's table that are in no saved configuration, and why.
const LEFT_OUT: [(&str, &str); 14] = [
    ("Slot Control", "ports"),
    ("Slot Control 2", "ports"),
    ("Root Control", "event collectors, below"),
    ("Root Error Command", "ports"),
    ("ATS Control", "Xen's"),
    ("Page Request Control", "Xen's"),
    ("PASID Control", "Xen's"),
    ("DPC Control", "ports"),
    ("AF Control", "starts a reset"),
    ("VPD Address", "starts a transfer"),
    ("VPD Data", "starts a transfer"),
    ("Message Control", "above"),
    ("Bridge Control", "bridges"),
    ("Supported Page Sizes", "read-only"),
];

#[test]
fn every_control_register_of_the_table_is_saved_or_left_out_for_a_reason() {
    let words = ["Control", "Mask", "Severity", "Latency", "Select", "Size", "VF Base Address", "NumVFs", "Command"];
    for block in blocks() {
        let mut card = Memory::default();
        let at = match block.place {
            Place::Header(_) => continue,
            Place::Capability(id) => {
                card.add_capability(0x40, if id == 0x10 { 0x10 } else { id }, 0x80);
                card.add_capability(0x80, 0x10, 0);
                card.set_word(0x82, 0x0002);
                card.set_word(0x42, if id == 0x10 { 2 } else { 0 });
                0x40
            }
            Place::Extended(id) => {
                card.set(0, &[0x86, 0x80, 0x33, 0x15]);
                card.add_capability(0x80, 0x10, 0);
                card.set(0x100, &(u32::from(id) | 1 << 16).to_le_bytes());
                0x100
            }
        };
        let saved = save_pristine(&card).registers;
        for row in block.registers.iter().filter(|row| words.iter().any(|word| row.name.contains(word))) {
            let place = at + u16::from(row.at);
            let is_saved = saved.iter().any(|saved| saved.offset / 4 == place / 4 && saved.kind != SavedKind::Open);
            let is_left_out = LEFT_OUT.iter().any(|(name, _)| *name == row.name);
            assert!(is_saved || is_left_out, "{} of {} at {:#x}", row.name, block.name, row.at);
        }
    }
}

#[test]
fn what_an_admin_can_open_is_saved_too() {
    let open = saved(&card(), SavedKind::Open);
    assert!(open.iter().any(|(offset, ..)| *offset == 0xe4), "a vendor's own: {open:x?}");
    assert!(open.iter().all(|(offset, ..)| !(0x48..0x58).contains(offset)), "not messages");
}

#[test]
fn functions_without_a_link_or_a_list_have_fewer_registers() {
    let mut card = card();
    card.set_word(0x62, 0x0092); // in the root complex
    let plain = saved(&card, SavedKind::Plain);
    assert!(plain.iter().all(|(offset, ..)| ![0x70, 0x90].contains(offset)), "{plain:x?}");
    card.set_word(0x62, 0x00a2); // an event collector
    assert!(saved(&card, SavedKind::Plain).contains(&(0x7c, 2, 0x1f, card.read_config(0x7c, Width::Word) & 0x1f)));
    card.set_word(0x62, 0x0001); // the first version
    let plain = saved(&card, SavedKind::Plain);
    assert!(
        plain.iter().all(|(offset, ..)| ![0x88, 0x90].contains(offset))
            && plain.iter().any(|(offset, ..)| *offset == 0x70)
    );
    let nothing = Memory::from_bytes(vec![0xff; 256]);
    assert_eq!(save_pristine(&nothing).identity.class, u32::MAX);
}
