//! What a guest or a reset leaves of a device's configuration, the next guest does not find.

use fakes::Memory;
use pci_config::fakes::server_card;
use pci_config::{ConfigSpace as _, Width, permitted_writes, save_pristine};
use pcidom_abi::{PermittedWrites, SavedKind};

use super::{add_all, attach_to_web, attached, detach_from_web};
use crate::fake::{E1000, EDU, Machine, NVME, STUB, WEB, device};
use crate::ops::assignable;
use crate::ops::recover::reclaim;

/// Power management, PCI Express and MSI-X of [`server_card`].
const PMCSR: usize = 0x44;
const EXPRESS: usize = 0x60;

/// A card as firmware and dom0's kernel leave it: sizes, latencies and masks that no reset would give it.
fn card() -> Memory {
    let mut card = server_card();
    card.set_word(0x04, 0x0142); // parity, SERR#, memory
    card.set(0x0c, &[0x10, 0x20]);
    card.bytes[0x3c] = 23;
    card.set(0x10, &0xc000_0004_u32.to_le_bytes());
    card.set(0x14, &8_u32.to_le_bytes());
    for address in (0x18..0x28).step_by(4).chain([0x30]) {
        card.set(address, &[0; 4]);
    }
    card.set_word(0x4a, 0x0080); // MSI: off
    card.set_word(0x52, 0);
    card.set_word(PMCSR, 0x0000);
    card.set_word(EXPRESS + 2, 0x0002);
    card.set(EXPRESS + 4, &0x0000_8fc2_u32.to_le_bytes());
    card.set_word(EXPRESS + 8, 0x2937); // 256 bytes of payload, 512 of requests, reporting on
    card.set_word(EXPRESS + 0x10, 0x0042);
    card.set_word(EXPRESS + 0x28, 0x0400); // LTR
    card.set_word(0xa2, 0x0004);
    card.set(0xa4, &[0, 0, 0, 0, 0, 0x20, 0, 0]);
    card.set(0x1f8, &0x0000_0c20_u32.to_le_bytes());
    card
}

fn put(machine: &Machine, name: &str, card: &Memory) {
    machine.tree.write(format!("bus/pci/devices/{name}/config"), &card.bytes);
}

/// The registers that are no configuration but answers, status or mailboxes.
fn without_status(card: &Memory) -> Vec<u8> {
    let mut bytes = card.bytes.clone();
    for at in [0x06, 0x07, 0x0f, EXPRESS + 0xa, EXPRESS + 0xb, 0xb2, 0xb3] {
        bytes[at] = 0;
    }
    for at in [0x104, 0x110] {
        bytes[at..at + 4].fill(0);
    }
    bytes
}

#[track_caller]
fn assert_same(card: &Memory, expected: &Memory, when: &str) {
    let (is, was) = (without_status(card), without_status(expected));
    let differences: Vec<String> = (0..is.len())
        .filter(|at| is[*at] != was[*at])
        .map(|at| format!("{at:03x}: {:02x}, was {:02x}", is[at], was[at]))
        .collect();
    assert_eq!(differences, [""; 0], "{when}");
}

/// Every bit that can be written is another one: what no guest may write too, as a reset may have left it.
fn spoil(bytes: &mut Vec<u8>) {
    let mut card = Memory::from_bytes(std::mem::take(bytes));
    for saved in save_pristine(&card).registers.into_iter().filter(|saved| saved.kind != SavedKind::Open) {
        let old = card.read_config(saved.offset, saved.width);
        let asleep = u32::from(usize::from(saved.offset) == PMCSR) * 3;
        card.set(saved.offset.into(), &(old ^ (saved.mask | asleep)).to_le_bytes()[..saved.width as usize]);
    }
    card.set_word(0x04, card.word(0x04) & !0x0003 ^ 0x0404); // as a reset leaves decoding
    // The address goes, and what kind of one it is stays.
    card.set(0x10, &[card.bytes[0x10] & 0x0f, 0, 0, 0, 0, 0, 0, 0]);
    *bytes = card.bytes;
}

/// A pool with the card in it, as its first owner found it and as it is when nobody has it.
fn with_card(has_reset: bool) -> (Machine, Memory) {
    let machine = Machine::new();
    put(&machine, NVME, &card());
    if !has_reset {
        std::fs::remove_file(machine.tree.path().join(format!("bus/pci/devices/{NVME}/reset"))).unwrap();
    }
    add_all(&machine);
    let mut free = card();
    free.set_word(4, 0x0542); // its one BAR is memory
    assert_same(&machine.config(NVME), &free, "in the pool");
    (machine, free)
}

/// As [`spoil`], by a reset: the device is awake after it.
fn spoil_awake(bytes: &mut Vec<u8>) {
    spoil(bytes);
    bytes[PMCSR] &= !3;
}

#[test]
fn whatever_a_reset_or_a_guest_leaves_the_next_guest_finds_what_the_first_one_did() {
    for has_reset in [true, false] {
        let (machine, free) = with_card(has_reset);
        for round in 0..3 {
            attach_to_web(&machine, &[NVME]).unwrap();
            let mut ready = free.clone();
            ready.set_word(4, 0x0146); // its driver has turned bus mastering on
            assert_same(&machine.config(NVME), &ready, &format!("with its guest, reset {has_reset}, round {round}"));
            let mut used = machine.config(NVME).bytes;
            if round != 1 {
                spoil(&mut used);
            }
            put(&machine, NVME, &Memory::from_bytes(used));
            machine.with(|world| world.after_reset = (round != 0).then_some(spoil_awake));
            if round == 2 {
                machine.with(|world| world.destroy(WEB));
                reclaim(&machine.host).unwrap();
                machine.add_domain(WEB, "web");
            } else {
                detach_from_web(&machine, &[NVME]).unwrap();
            }
            assert_same(&machine.config(NVME), &free, &format!("reset {has_reset}, round {round}"));
        }
        machine.assert_no_violations();
    }
}

#[test]
fn what_a_permissive_guest_changed_is_put_back_where_no_reset_does_it() {
    for (has_reset, policy) in [(false, "permissive=1"), (false, "quirk=e4:4:ffffffff"), (true, "permissive=1")] {
        let (machine, free) = with_card(has_reset);
        attach_to_web(&machine, &[&format!("{NVME},{policy}")]).unwrap();
        let mut used = machine.config(NVME);
        let permitted: PermittedWrites = permitted_writes(&used, &policy.parse().unwrap());
        let opened = |list: &PermittedWrites| {
            let ranges = list.ranges.iter().flat_map(|range| {
                (0..range.dwords).map(move |dword| (range.offset + 4 * dword, range.mask & !range.zeros))
            });
            let single = list.registers.iter().filter(|write| write.mask == u32::MAX);
            ranges.chain(single.map(|write| (write.offset, write.mask))).collect::<Vec<_>>()
        };
        let opened = opened(&permitted);
        assert!(!opened.is_empty());
        for (offset, mask) in opened {
            let old = used.read_config(offset, Width::Dword);
            used.set(offset.into(), &(old ^ mask).to_le_bytes());
        }
        put(&machine, NVME, &used);
        detach_from_web(&machine, &[NVME]).unwrap();
        if has_reset {
            // Vendors' registers are the reset's business.
            assert_eq!(machine.config(NVME).bytes[0xe4..0xf0], used.bytes[0xe4..0xf0]);
        } else {
            assert_same(&machine.config(NVME), &free, policy);
        }
    }
}

#[test]
fn the_payload_size_follows_the_port_above() {
    for (port, device_can, expected) in
        [(0x0020, 2, 0x2937), (0x0040, 2, 0x2957), (0x0040, 1, 0x2937), (0x0000, 2, 0x2917)]
    {
        let machine = Machine::new();
        let mut own = card();
        own.set(EXPRESS + 4, &(0x0000_8fc0_u32 | device_can).to_le_bytes());
        put(&machine, NVME, &own);
        // A port, and the device behind it.
        machine.add_function("0000:00:1c.0", "0x060400", "", 0, &[]);
        let mut above = Memory::conventional();
        above.set_word(0x0e, 1);
        above.add_capability(0x40, 0x10, 0);
        above.set_word(0x42, 0x0042);
        above.set_word(0x48, 0x0020);
        put(&machine, "0000:00:1c.0", &above);
        let devices = machine.tree.path().join("bus/pci/devices");
        std::fs::rename(devices.join(NVME), devices.join("0000:00:1c.0").join(NVME)).unwrap();
        machine.tree.link(format!("bus/pci/devices/{NVME}"), &format!("0000:00:1c.0/{NVME}"));
        assignable::add(&machine.host, &[device(NVME)], "pcidom").unwrap();
        attach_to_web(&machine, &[NVME]).unwrap();
        above.set_word(0x48, port);
        put(&machine, "0000:00:1c.0", &above);
        machine.with(|world| world.after_reset = Some(spoil_awake));
        detach_from_web(&machine, &[NVME]).unwrap();
        assert_eq!(machine.config(NVME).word(EXPRESS + 8), expected, "{port:#x} {device_can}");
    }
}

#[test]
fn what_an_older_release_put_into_a_pool_is_saved_by_the_next_command() {
    let (machine, free) = with_card(true);
    let file = machine.tree.path().join("pristine").join(NVME);
    let saved = std::fs::read_to_string(&file).unwrap();
    for is_broken in [false, true] {
        if is_broken {
            // Another card has come into the slot since.
            std::fs::write(
                &file,
                saved.replacen("identity:", "identity:1", 1).replacen("identity:115", "identity:125", 1),
            )
            .unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        attach_to_web(&machine, &[NVME]).unwrap();
        assert!(file.exists());
        detach_from_web(&machine, &[NVME]).unwrap();
        assert_same(&machine.config(NVME), &free, "a guest later");
        std::fs::write(&file, &saved).unwrap();
    }
    // Its backend went and came again: what the device was like before any guest still counts.
    machine.with(|world| world.destroy(STUB));
    reclaim(&machine.host).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), saved);
}

#[test]
fn nothing_is_left_of_a_device_that_leaves_its_pool() {
    let machine = Machine::new();
    let saved = || machine.tree.dump().into_iter().filter(|line| line.starts_with("pristine/")).count();
    add_all(&machine);
    assert_eq!(saved(), 3);
    assignable::remove(&machine.host, &[E1000, EDU, NVME].map(device), false).unwrap();
    assert_eq!(saved(), 0);
    // What dom0's driver has made of it meanwhile is what counts from then on.
    let mut other = card();
    put(&machine, NVME, &other);
    add_all(&machine);
    assignable::remove(&machine.host, &[device(NVME)], false).unwrap();
    other.set_word(EXPRESS + 8, 0x5937);
    put(&machine, NVME, &other);
    assignable::add(&machine.host, &[device(NVME)], "pcidom").unwrap();
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.with(|world| world.after_reset = Some(spoil_awake));
    detach_from_web(&machine, &[NVME]).unwrap();
    assert_eq!(machine.config(NVME).word(EXPRESS + 8), 0x5937);
}

#[test]
fn a_device_that_does_not_answer_is_not_saved_as_it_is_then() {
    let machine = attached();
    let file = machine.tree.path().join("pristine").join(NVME);
    std::fs::remove_file(&file).unwrap();
    let config = machine.config(NVME);
    put(&machine, NVME, &Memory::from_bytes(vec![0xff; 4096]));
    reclaim(&machine.host).unwrap();
    assert!(!file.exists());
    put(&machine, NVME, &config);
    reclaim(&machine.host).unwrap();
    assert!(file.exists());
}
