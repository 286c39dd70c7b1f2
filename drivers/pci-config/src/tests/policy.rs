//! Policy tests: what permissive mode and quirks open, and what stays locked.

use proptest::prelude::*;

use super::{assign, carried_out};
use crate::fakes::{Known, Memory, network_card_known, server_card, virtual_function, virtual_function_known};
use crate::{Answering, HardwareWrite, Policy, Quirk, Register, Width, WritableMask, permitted_writes};
use pcidom_abi::WriteKind;

/// The bits of each byte of the server's card that a guest with a permissive device may change on it: written down by hand from the
/// specifications, byte by byte, and not from the table.
fn open_byte(offset: u16) -> u8 {
    match offset {
        0x07 => 0xf9,                      // Status: errors
        0x68 => 0x10,                      // Device Control: relaxed ordering
        0x69 => 0x70,                      // and size of read requests
        0x6a => 0x0f,                      // Device Status: errors
        0x88 => 0x1f,                      // Device Control 2: completion timeout
        0xe2..=0xef | 0xf2..=0xff => 0xff, // a vendor's own, a capability that is in no table
        0x56..=0x5f => open_gap(offset, 0x58),
        0x9c..=0x9f | 0xac..=0xaf => 0xff,     // between capabilities
        0x104..=0x107 | 0x110..=0x113 => 0xff, // AER: errors
        0x138..=0x13f | 0x14c..=0x14f => 0xff, // between capabilities
        0x158..=0x15f => 0xff,                 // VSEC, behind its two headers
        0x1a8..=0x1af | 0x1c8..=0x1cf => 0xff, // behind ATS and ARI
        _ => 0,
    }
}

/// Behind MSI, whose last dword is half used.
fn open_gap(offset: u16, first: u16) -> u8 {
    if offset >= first { 0xff } else { 0 }
}

/// The bits that any guest may change.
fn table_byte(offset: u16) -> u8 {
    match offset {
        0x04 => 0x14,
        0x05 => 0x04,
        0x0c => 0xff,
        0x0f => 0x40,
        0x44 => 0x03,
        0x45 => 0x9e,
        0xb2 => 0xff,
        0xb3 => 0x7f,
        _ => 0,
    }
}

/// Command's own, where the device is permissive.
fn permissive_command_byte(offset: u16) -> u8 {
    match offset {
        0x04 => 0xbc,
        0x05 => 0x06,
        _ => 0,
    }
}

#[test]
fn what_is_open_is_what_the_specifications_say_harms_nobody() {
    let writable = WritableMask::new(&server_card(), &Policy::default());
    for dword in 0..1024u16 {
        let want = u32::from_le_bytes([0, 1, 2, 3].map(|byte| open_byte(dword * 4 + byte)));
        assert_eq!(writable.open(dword.into()).bits, want, "{:#x}", dword * 4);
    }
}

#[test]
fn ones_that_clear_are_told() {
    let writable = WritableMask::new(&server_card(), &Policy::default());
    for (offset, want) in
        [(0x04, 0xffff_0000), (0x68, 0xffff_0000), (0x104, u32::MAX), (0x110, u32::MAX), (0x108, 0), (0xe4, 0)]
    {
        assert_eq!(writable.open(offset / 4).ones_clear, want, "{offset:#x}");
    }
}

/// What a write of a guest comes to on the device, the broker's part included: place, width, bits and value.
fn writes(policy: &str, hw: &Memory, offset: i32, size: i32, value: u32) -> Vec<(u16, u8, u32, u32)> {
    let mut config = assign(&network_card_known().with_policy(policy), hw);
    let outcome = config.write(hw, offset, size, value).expect("no error");
    let list = permitted_writes(hw, &policy.parse().expect("a policy"));
    outcome.hardware().flat_map(|write| carried_out(write, &list)).collect()
}

#[test]
fn a_permissive_device_is_written_at_the_width_of_the_access() {
    let hw = server_card();
    let write = |offset, size, value| writes("permissive=1", &hw, offset, size, value);
    assert_eq!(write(0xe4, 4, 0x1234_5678), [(0xe4, 4, u32::MAX, 0x1234_5678)]);
    assert_eq!(write(0xe7, 1, 0xab), [(0xe7, 1, 0xff, 0xab)]);
    assert_eq!(write(0x68, 4, 0xffff_ffff), [(0x68, 4, 0x000f_7010, 0x000f_7010)]);
    assert_eq!(write(0x69, 1, 0xff), [(0x69, 1, 0x70, 0x70)]);
    assert_eq!(write(0x06, 2, 0xffff), [(6, 2, 0xf900, 0xf900)]);
    // Beside a register that guests write it is dropped, as a dword over Command would clear errors.
    assert_eq!(write(0x04, 4, 0xf900_0000), [(4, 2, 4, 0)]);
    assert_eq!(write(0x108, 4, 0), []);
    assert_eq!(write(0x168, 2, 1), []);
}

#[test]
fn a_quirk_opens_its_bits_and_no_others() {
    let hw = server_card();
    let policy = "permissive=0,quirk=e4:2:ff0f,quirk=e6:1:f0,quirk=68:2:ffff";
    let write = |offset, size, value| writes(policy, &hw, offset, size, value);
    assert_eq!(write(0xe4, 2, 0x1234), [(0xe4, 2, 0xff0f, 0x1204)]);
    assert_eq!(write(0xe5, 1, 0x12), [(0xe4, 2, 0xff00, 0x1200)], "at the register's width");
    assert_eq!(write(0xe4, 4, 0xffff_ffff), [(0xe4, 2, 0xff0f, 0xff0f), (0xe6, 1, 0xf0, 0xf0)]);
    assert_eq!(write(0xe7, 1, 0xff), []);
    assert_eq!(write(0xe8, 4, 0xff), []);
    // What the table closes stays closed.
    assert_eq!(write(0x68, 2, 0xffff), [(0x68, 2, 0x7010, 0x7010)]);
}

#[test]
fn what_is_hidden_is_not_open() {
    let hw = server_card();
    for (policy, offset) in
        [("permissive=1,hide=9", 0xe4), ("permissive=1,hide=x1", 0x104), ("permissive=1,hide=xb", 0x158)]
    {
        assert_eq!(writes(policy, &hw, offset, 4, u32::MAX), [], "{policy}");
        assert_eq!(writes("permissive=1", &hw, offset, 4, u32::MAX).len(), 1);
    }
}

/// A hidden capability's writes do not even reach the broker.
#[test]
fn the_driver_domain_passes_on_nothing_of_what_is_hidden() {
    let hw = server_card();
    for (policy, offset) in [("permissive=1,hide=3", 0xb2), ("permissive=1,hide=1", 0x44), ("permissive=1", 0x168)] {
        let mut config = assign(&network_card_known().with_policy(policy), &hw);
        let outcome = config.write(&hw, offset, 2, 0x0003).expect("dropped");
        assert!(outcome.is_dropped && outcome.hardware().count() == 0, "{policy}");
    }
}

/// Intel's I219: Advanced Features at e0h work, and the list ends before them (100 series errata). Beside it, what other devices could leave out.
#[test]
fn a_capability_that_no_list_leads_to_stays_closed() {
    let mut hw = Memory::of(&[0x86, 0x80, 0x6f, 0x15, 0, 0, 0x10, 0, 0x21, 0, 0, 2], false);
    hw.set(0x34, &[0xc8]);
    hw.set(0xc8, &[0x01, 0xd0, 0x23, 0xc8, 0x08, 0x20, 0, 0]);
    hw.set(0xd0, &[0x05, 0x00, 0x80, 0x00]);
    hw.set(0xe0, &[0x13, 0x00, 0x06, 0x03, 0, 0, 0, 0]);
    let open = |hw: &Memory, offset: usize| WritableMask::new(hw, &Policy::default()).open(offset / 4).bits;
    assert_eq!((open(&hw, 0xe0), open(&hw, 0xe4)), (0, 0), "a function level reset");
    assert_eq!((open(&hw, 0xc4), open(&hw, 0xe8)), (u32::MAX, u32::MAX), "what is beside it");
    assert_eq!(writes("permissive=1", &hw, 0xe4, 1, 1), []);
    assert_eq!(writes("permissive=0,quirk=e4:1:1", &hw, 0xe4, 1, 1), []);
    let unlisted: [(&[u8], u16); 4] = [
        (&[0x01, 0x00, 0x03, 0x00, 0x08, 0x00], 2),
        (&[0x05, 0x50, 0x80, 0x00], 4),
        (&[0x10, 0x00, 0x02, 0x00], 15),
        (&[0x11, 0x40, 0x04, 0x80, 0x03, 0x00, 0x00, 0x00, 0x03, 0x20], 3),
    ];
    for (bytes, dwords) in unlisted {
        hw.set(0x50, &[0; 0x70]);
        hw.set(0x50, bytes);
        for dword in 0..16 {
            let want = if dword < usize::from(dwords) { 0 } else { u32::MAX };
            assert_eq!(open(&hw, 0x50 + dword * 4), want, "{bytes:x?} {dword}");
        }
    }
    // Numbers that only look a little like one are a vendor's own registers.
    let others: [&[u8]; 6] =
        [&[0x13], &[0x13, 0x01, 0x06], &[0x05], &[0x10, 0x00, 0x42], &[0x01, 0x00, 0x04], &[0x11, 0x00, 0x04]];
    for bytes in others {
        hw.set(0x50, &[0; 0x70]);
        hw.set(0x50, bytes);
        assert_eq!((open(&hw, 0x50), open(&hw, 0x54)), (u32::MAX, u32::MAX), "{bytes:x?}");
    }
}

#[test]
fn the_driver_domain_is_told_three_numbers() {
    let hidden = 0x10_0021_0000; // SR-IOV and the resizable BARs
    for (policy, numbers) in [
        ("permissive=0", [0, 0, hidden]),
        ("permissive=1", [2, 0, hidden]),
        ("permissive=0,hide=1,hide=11,hide=x1", [0, 0x2_0002, hidden | 2]),
        ("permissive=0,show=x10,show=x24,hide=x3f,quirk=40:4:1", [1, 0, 1 << 63 | 1 << 0x15]),
    ] {
        assert_eq!(policy.parse::<Policy>().expect("a policy").policy_flags().numbers(), numbers, "{policy}");
    }
}

#[test]
fn nothing_behind_a_break_is_open() {
    let mut hw = server_card();
    hw.set(0xe1, &[0x3c]);
    let writable = WritableMask::new(&hw, &Policy::default());
    assert_eq!((writable.open(0x9c / 4).bits, writable.open(0xf4 / 4).bits), (0, 0));
    let mut hw = server_card();
    hw.set(0x150, &(0x0b | 1 << 16 | 0x0fc_u32 << 20).to_le_bytes());
    let writable = WritableMask::new(&hw, &Policy::default());
    assert_eq!(writable.open(0x138 / 4).bits, 0);
    assert_eq!(writable.open(0x158 / 4).bits, u32::MAX, "a vendor's own reaches to the end, for all that is known");
}

#[test]
fn policies_are_read_strictly() {
    for text in [
        "permissive=1",
        "permissive=0,hide=1,hide=11,hide=x1,hide=x3f",
        "permissive=1,hide=1,show=x10,hide=x12,show=x24",
        "permissive=0,quirk=40:4:ffffffff,quirk=fff:1:80",
    ] {
        assert_eq!(text.parse::<Policy>().map(|policy| policy.to_string()).as_deref(), Ok(text));
    }
    for text in [
        "",
        "permissive",
        "permissive=2",
        "permissive=1,",
        "hide=0",
        "hide=20",
        "hide=x40",
        "hide=x0",
        "hide=y1",
        "hide=+1",
        "quirk=40:4:0",
        "quirk=40:4",
        "quirk=40:4:1:1",
        "quirk=40:3:1",
        "quirk=41:2:1",
        "quirk=1000:1:1",
        "quirk=40:2:10000",
        "quirk=40:4:1,quirk=42:2:1",
        "quirk=0:1:1,quirk=4:1:1,quirk=8:1:1,quirk=c:1:1,quirk=10:1:1,quirk=14:1:1,quirk=18:1:1,quirk=1c:1:1,quirk=20:1:1",
        "quirk=100000040:4:1",
    ] {
        assert!(text.parse::<Policy>().is_err(), "{text:?}");
    }
    assert_eq!("quirk=40:4:1,quirk=40:4:1".parse::<Policy>().map(|policy| policy.quirks().count()), Ok(1));
    assert!(Quirk::new(0x40, Width::Word, 0x1_0000).is_none());
}

/// The server's card, which can be reset by PCI Express (60) and by Advanced Features (b8).
fn resettable() -> Memory {
    let mut card = server_card();
    card.set(0x64, &0x1000_8000_u32.to_le_bytes());
    card.set(0xba, &[0x06, 0x03]);
    card
}

#[test]
fn a_reset_is_shown_and_passed_on_where_dom0_carries_it_out() {
    let card = resettable();
    for (express, features) in [(false, false), (true, false), (false, true), (true, true)] {
        let policy = Policy::default().with_resets(express, features);
        let mut config = assign(&Known { policy, ..network_card_known() }, &card);
        let shown =
            [(0x64, 28), (0xb8, 25)].map(|(offset, bit)| config.read(&card, offset, 4).unwrap() >> bit & 1 != 0);
        assert_eq!(shown, [express, features]);
        let list = permitted_writes(&card, &policy);
        let listed =
            |offset| list.registers.iter().any(|write| write.kind == WriteKind::Reset && write.offset == offset);
        assert_eq!([listed(0x68), listed(0xbc)], [express, features]);
        let mut written = |offset, size, value| {
            let outcome = config.write(&card, offset, size, value).unwrap();
            let write =
                |write: &HardwareWrite| (write.register, write.offset, write.width as u8, write.mask, write.value);
            outcome.hardware().map(write).next()
        };
        let by_express = express.then_some((Register::Reset, 0x68, 2, 0x8000, 0x8000));
        let by_features = features.then_some((Register::Reset, 0xbc, 1, 1, 1));
        for (offset, size, value) in [(0x68, 2, 0xa010), (0x68, 4, 0x0000_8000), (0x69, 1, 0x80)] {
            assert_eq!(written(offset, size, value), by_express, "{offset:#x} {size} {value:#x}");
        }
        for (offset, size, value) in [(0xbc, 1, 1), (0xbc, 2, 0x0001), (0xbc, 4, u32::MAX)] {
            assert_eq!(written(offset, size, value), by_features, "{offset:#x} {size} {value:#x}");
        }
        for (offset, size, value) in
            [(0x68, 2, 0x7fff), (0x68, 1, 0x80), (0x6a, 2, 0x8000), (0xbc, 1, 0xfe), (0xbd, 1, 1)]
        {
            assert_eq!(written(offset, size, value), None, "{offset:#x} {size} {value:#x}");
        }
        let again = config.reset_write().map(|write| write.offset);
        assert_eq!(again, if express { Some(0x68) } else { features.then_some(0xbc) });
    }
}

#[test]
fn a_reset_that_the_function_does_not_have_is_not_passed_on_whatever_dom0_says() {
    let mut card = resettable();
    card.set(0x67, &[0]);
    card.set(0xbb, &[0]);
    let policy = Policy::default().with_resets(true, true);
    let mut config = assign(&Known { policy, ..network_card_known() }, &card);
    assert_eq!(config.write(&card, 0x68, 2, 0x8000).unwrap().hardware().count(), 0);
    assert_eq!(config.write(&card, 0xbc, 1, 1).unwrap().hardware().count(), 0);
    assert!(permitted_writes(&card, &policy).registers.iter().all(|write| write.kind != WriteKind::Reset));
    // Nor one of a hidden capability.
    let hidden = "permissive=0,hide=pcie,hide=af".replace("pcie", "10").replace("af", "13");
    let policy = hidden.parse::<Policy>().unwrap().with_resets(true, true);
    let mut config = assign(&Known { policy, ..network_card_known() }, &resettable());
    assert!(config.reset_write().is_none() && config.write(&resettable(), 0x68, 2, 0x8000).unwrap().is_dropped);
}

#[test]
fn a_permissive_guest_starts_a_reset_and_nothing_else_with_it() {
    let card = resettable();
    let policy = "permissive=1".parse::<Policy>().unwrap().with_resets(true, true);
    let mut config = assign(&Known { policy, ..network_card_known() }, &card);
    let outcome = config.write(&card, 0x68, 2, 0xf010).unwrap();
    let writes: Vec<_> = outcome.hardware().map(|write| (write.register, write.mask)).collect();
    assert_eq!(writes, [(Register::Reset, 0x8000)]);
    let list = permitted_writes(&card, &policy);
    assert_eq!(carried_out(outcome.hardware().next().unwrap(), &list), [(0x68, 2, 0x8000, 0x8000)]);
    let outcome = config.write(&card, 0x68, 2, 0x7010).unwrap();
    assert_eq!(outcome.hardware().next().map(|write| write.register), Some(Register::Open));
}

#[test]
fn who_answers_is_told_by_ids_and_class() {
    let card = server_card();
    let config = assign(&network_card_known(), &card);
    let with = |bytes: [u8; 4], class: [u8; 4]| {
        let mut card = card.clone();
        card.set(0, &bytes);
        card.set(8, &class);
        config.who_answers(&card, false)
    };
    let (ids, class) = ([0x86, 0x80, 0x33, 0x15], [0x03, 0x00, 0x00, 0x02]);
    assert_eq!(with(ids, class), Answering::Same);
    assert_eq!(with([0xff; 4], [0xff; 4]), Answering::Nobody);
    assert_eq!(with([0x01, 0x00, 0xff, 0xff], [0xff; 4]), Answering::Nobody, "not ready (PCIe 5.0 §2.3.2)");
    assert_eq!(with([0x01, 0x00, 0xff, 0xff], class), Answering::Nobody);
    assert_eq!(with([0xff; 4], class), Answering::Nobody, "no virtual function");
    assert_eq!(with(ids, [0xff; 4]), Answering::Nobody);
    assert_eq!(with([0x86, 0x80, 0x21, 0x15], class), Answering::Other);
    assert_eq!(with(ids, [0x04, 0x00, 0x00, 0x02]), Answering::Other);
    let function = virtual_function();
    let config = assign(&virtual_function_known(), &function);
    assert_eq!(config.who_answers(&function, true), Answering::Same);
    assert_eq!(config.who_answers(&card, true), Answering::Other);
    assert_eq!(config.who_answers(&Memory::from_bytes(vec![0xff; 4096]), true), Answering::Nobody);
}

/// One write of a guest: where, how wide, what.
fn a_write() -> impl Strategy<Value = (i32, i32, u32)> {
    let place = prop_oneof![3 => 0..0x100i32, 1 => 0x100..0x300i32, 1 => -8..4200i32];
    let value = prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), (0..32u32).prop_map(|bit| 1 << bit)];
    (place, prop_oneof![Just(1), Just(2), Just(4), Just(3)], value)
}

/// What the hardware has after a write: plain memory, which is harsher than registers are.
fn carry_out(hw: &mut Memory, (offset, _, mask, value): (u16, u8, u32, u32)) {
    let first = usize::from(offset);
    for (at, (mask, value)) in mask.to_le_bytes().into_iter().zip(value.to_le_bytes()).enumerate() {
        if mask != 0 {
            hw.bytes[first + at] = hw.bytes[first + at] & !mask | value;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn after_any_writes_only_allowed_bits_differ(
        writes in prop::collection::vec(a_write(), 1..200),
        is_permissive in any::<bool>(),
        quirks in prop::collection::vec((0..0x300u16, 0..3u32, any::<u32>()), 0..6),
    ) {
        let mut policy = Policy::default();
        policy.permissive = is_permissive;
        for (offset, log, mask) in quirks {
            let width = Width::from_bytes(1 << log).expect("a width");
            if let Some(quirk) = Quirk::new(offset & !((1 << log) - 1), width, mask & width.bits()) {
                let _ = policy.add_quirk(quirk);
            }
        }
        let before = server_card();
        let mut hw = before.clone();
        let known = network_card_known().with_policy(&policy.to_string());
        let mut config = assign(&known, &hw);
        let list = permitted_writes(&hw, &policy);
        for (offset, size, value) in writes {
            if let Ok(outcome) = config.write(&hw, offset, size, value) {
                for write in outcome.hardware() {
                    prop_assert!(write.offset.is_multiple_of(write.width as u16), "{write:?}");
                    prop_assert_eq!((write.value & !write.mask, write.mask & !write.width.bits()), (0, 0));
                    carried_out(write, &list).into_iter().for_each(|write| carry_out(&mut hw, write));
                }
            }
        }
        for offset in 0..4096u16 {
            let at = usize::from(offset);
            let quirk = policy.quirks().fold(0u32, |all, quirk| {
                let byte = offset.checked_sub(quirk.offset()).filter(|byte| *byte < quirk.width() as u16);
                all | byte.map_or(0, |byte| quirk.mask() >> (8 * byte) & 0xff)
            });
            let quirk = u8::try_from(quirk).expect("a byte");
            let extra = if is_permissive { open_byte(offset) | permissive_command_byte(offset) } else { quirk & open_byte(offset) };
            let may = table_byte(offset) | extra | if matches!(offset, 0xb3) { 0x80 } else { 0 };
            prop_assert_eq!((hw.bytes[at] ^ before.bytes[at]) & !may, 0, "{:#x}", offset);
        }
    }
}
