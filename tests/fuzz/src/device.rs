//! A device's configuration space, whatever it says.

use pci_config::fakes::{
    Known, Memory, network_card, network_card_known, server_card, virtual_function, virtual_function_known,
};
use pci_config::{
    ConfigSpace as _, Policy, Register, VirtualConfig, Walk, check_quiesced, check_servable, extended_id, id,
    permitted_writes,
};
use pci_registers::{CONVENTIONAL, EXTENDED, EXTENDED_BYTES, Width, header};
use pcidom_abi::PermittedWrites;

use crate::input::Input;

const POLICIES: [&str; 8] = [
    "permissive=0",
    "permissive=1",
    "permissive=0,hide=1,hide=3,hide=5,hide=x1",
    "permissive=1,hide=1,hide=9,hide=11,hide=xb,show=x10",
    "permissive=0,quirk=e4:2:ff0f,quirk=e6:1:f0,quirk=68:2:ffff,quirk=104:4:ffff,quirk=9c:1:81",
    "permissive=1,show=x10,show=xd,show=x15",
    "permissive=0,hide=10",
    "permissive=1,quirk=10:4:ffffffff,quirk=44:2:ffff,quirk=54:4:ffffffff,quirk=62:2:ffff",
];

/// One of four cards with changes: a place and four bytes each. Or the bytes as they are.
fn card(input: &mut Input<'_>) -> (Memory, Known) {
    let choice = input.byte();
    let (mut memory, known) = match choice % 5 {
        0 => (network_card(), network_card_known()),
        1 => (server_card(), network_card_known()),
        2 => (virtual_function(), virtual_function_known()),
        3 => (Memory::default(), Known::new(&[], 0)),
        _ => {
            let space = input.take(usize::from(EXTENDED_BYTES));
            return (Memory::of(space, choice & 0x80 != 0), network_card_known());
        }
    };
    for _ in 0..choice / 5 {
        let at = usize::from(input.half() % (EXTENDED_BYTES / 4)) * 4;
        memory.set(at, &input.word().to_le_bytes());
    }
    (memory, known)
}

/// The lists end, name each place once and stay in their space; the view is served whatever they say; and nothing that the broker may write is an
/// address register, an id, or a register of interrupts, new functions or access control that a list leads to.
pub fn capabilities(data: &[u8]) {
    let mut input = Input::new(data);
    let text = POLICIES[usize::from(input.byte()) % POLICIES.len()];
    let policy: Policy = text.parse().expect("a policy");
    let (memory, known) = card(&mut input);
    let known = known.with_policy(text);
    let check = |is_extended: bool, most: usize, space: std::ops::Range<u16>| {
        let walk = if is_extended { Walk::extended(&memory) } else { Walk::conventional(&memory) };
        let mut places: Vec<u16> = walk.map(|capability| capability.offset).collect();
        assert!(places.len() <= most);
        assert!(places.iter().all(|place| space.contains(place) && place.is_multiple_of(4)));
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count, "a place twice");
    };
    check(false, 48, CONVENTIONAL..EXTENDED);
    check(true, 960, EXTENDED..EXTENDED_BYTES);
    let _ = (check_quiesced(&memory), check_servable(&memory));
    let (view, _) = VirtualConfig::read_from(&known.description(), &memory);
    assert!([EXTENDED, EXTENDED_BYTES].contains(&view.size()));
    assert!(view.msi_vectors(&memory) <= 32 && view.msix_entries(&memory) <= 128);
    for offset in (-4..4_100).step_by(7) {
        for size in [1, 2, 3, 4] {
            if let Ok(value) = view.read(&memory, offset, size) {
                assert!(size == 4 || value >> (8 * size) == 0, "{offset:#x} {size}");
            }
        }
    }
    // Address registers are what dom0 says, whatever the device does.
    let reads = memory.reads.get();
    for register in 0..6 {
        view.read(&memory, (header::BASE_ADDRESS_0 + 4 * register).into(), 4).expect("in the header");
    }
    assert_eq!(memory.reads.get(), reads, "an address register was read from the device");
    let _ = view.inventory(&memory, &policy);
    let list = permitted_writes(&memory, &policy);
    assert_eq!(list.to_string().parse().as_ref(), Ok(&list));
    assert_locked(&memory, &list);
}

/// Whether the list has a bit of these bytes.
fn reaches(list: &PermittedWrites, at: u16, bytes: u16) -> bool {
    let is_in = |offset: u16, mask: u32| {
        (0..32u16).any(|bit| mask >> bit & 1 != 0 && (at..at + bytes).contains(&(offset + bit / 8)))
    };
    let registers = list.registers.iter().any(|write| is_in(write.offset, write.mask));
    registers
        || list.ranges.iter().any(|range| (0..range.dwords).any(|dword| is_in(range.offset + 4 * dword, range.mask)))
}

fn assert_locked(memory: &Memory, list: &PermittedWrites) {
    for (at, bytes) in [
        (header::VENDOR_ID, 4),
        (header::REVISION_ID, 4),
        (header::BASE_ADDRESS_0, 24),
        (header::EXPANSION_ROM, 4),
        (header::CAPABILITIES_POINTER, 1),
        (header::INTERRUPT_LINE, 2),
    ] {
        assert!(!reaches(list, at, bytes), "header {at:#x}: {list}");
    }
    for capability in Walk::conventional(memory) {
        // Identity and control of each; what lies behind may belong to another that was there first.
        let bytes = match capability.id {
            id::MSI => 12,
            id::MSI_X => 12,
            _ => continue,
        };
        let bytes = bytes.min(EXTENDED - capability.offset);
        assert!(!reaches(list, capability.offset, bytes), "interrupts at {:#x}: {list}", capability.offset);
    }
    if !Walk::conventional(memory).any(|capability| capability.is_extended(memory)) {
        return;
    }
    for capability in Walk::extended(memory).filter(|capability| capability.id == extended_id::SR_IOV) {
        let bytes = 0x40.min(EXTENDED_BYTES - capability.offset);
        assert!(!reaches(list, capability.offset, bytes), "SR-IOV at {:#x}: {list}", capability.offset);
    }
}

/// What the stub has left of a guest's write lies in configuration space, and the broker's list has it, but for what it passes on for the
/// broker to decide.
pub fn config_writes(data: &[u8]) {
    let mut input = Input::new(data);
    let text = POLICIES[usize::from(input.byte()) % POLICIES.len()];
    let policy: Policy = text.parse().expect("a policy");
    let (memory, known) = card(&mut input);
    let known = known.with_policy(text);
    let mut view = VirtualConfig::new(&known.description(), &memory);
    let list = permitted_writes(&memory, &policy);
    while !input.is_empty() {
        let (offset, size) = (i32::from(input.half().cast_signed()), i32::from(input.byte().cast_signed()));
        let value = input.word();
        let Ok(outcome) = view.write(&memory, offset, size, value) else { continue };
        for write in outcome.hardware() {
            let width = write.width as u16;
            assert!(write.offset.is_multiple_of(width) && write.offset + width <= EXTENDED_BYTES);
            assert_eq!((write.mask | write.value) & !write.width.bits(), 0);
            assert_eq!(write.value & !write.mask, 0);
            if write.register == Register::Open {
                continue;
            }
            let is_it = |permitted: &&pcidom_abi::PermittedWrite| {
                (permitted.offset, permitted.width) == (write.offset, write.width)
            };
            // A device whose lists overlap has registers that the broker leaves out; then it refuses.
            if let Some(permitted) = list.registers.iter().find(is_it) {
                assert_eq!(write.mask & !permitted.mask & !zeros(write.register), 0, "{write:?}: {list}");
            }
        }
        let after = view.read(&memory, offset, size).expect("it could be written");
        assert!(size == 4 || after >> (8 * size) == 0);
    }
    // What the guest did to its view is gone for the next one.
    view.reset();
    let fresh = VirtualConfig::new(&known.description(), &memory);
    for offset in (0..i32::from(EXTENDED)).step_by(4) {
        assert_eq!(view.read(&memory, offset, 4), fresh.read(&memory, offset, 4), "{offset:#x}");
    }
    let _ = memory.read_config(0, Width::Dword);
}

/// Bits that the stub names as zeros in a request for such a register.
const fn zeros(register: Register) -> u32 {
    match register {
        Register::VpdAddress => 0x8000,
        _ => 0,
    }
}
