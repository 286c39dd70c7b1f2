//! Every offset and size, compared with an independent oracle that works byte by byte without the table.

use super::assign;
use crate::fakes::{Memory, network_card, network_card_known};
use crate::{BadAccess, Denied, WriteError};

/// The byte that the guest of `network_card` reads, all virtual registers as they are after assigning.
fn byte(hw: &Memory, offset: usize) -> u8 {
    let real = hw.bytes[offset];
    match offset {
        // Command: bits 2 3 4 5 7 9 are the hardware's.
        0x04 => real & 0b1011_1100,
        0x05 => real & 0b0000_0010,
        0x10..=0x13 => 0xfeb0_0000_u32.to_le_bytes()[offset - 0x10],
        0x18..=0x1b => 0xe001_u32.to_le_bytes()[offset - 0x18],
        0x14..=0x17 | 0x1c..=0x27 => 0,
        0x30..=0x33 => 0xfeb4_0000_u32.to_le_bytes()[offset - 0x30],
        0x3c => 11,
        // PME support, bits 15:11 of PMC.
        0x43 => real & 0b0000_0111,
        _ => real,
    }
}

/// What the frontend may access at all.
fn is_access(offset: i64, size: i64, space: i64) -> bool {
    [1, 2, 4].contains(&size) && offset >= 0 && offset + size <= space && offset % size == 0
}

const SIZES: [i32; 9] = [1, 2, 4, 0, 3, 8, -1, -4, i32::MIN];

fn offsets() -> impl Iterator<Item = i32> {
    (-8..4200).chain([i32::MIN, i32::MIN + 1, i32::MAX - 3, i32::MAX, 0xfffc, 0x1_0000])
}

#[test]
fn every_read_is_what_the_bytes_say() {
    let mut hw = network_card();
    hw.set(0x04, &[0xff, 0xff]);
    let config = assign(&network_card_known(), &hw);
    for offset in offsets() {
        for size in SIZES {
            let want = is_access(offset.into(), size.into(), 4096).then(|| {
                let first = usize::try_from(offset).expect("checked");
                let bytes = usize::try_from(size).expect("checked");
                (0..bytes).fold(0, |value, at| value | u32::from(byte(&hw, first + at)) << (8 * at))
            });
            assert_eq!(config.read(&hw, offset, size).ok(), want, "{offset:#x} size {size}");
        }
    }
}

#[test]
fn a_short_space_ends_at_256() {
    let mut hw = network_card();
    hw.set(0x71, &[0x98]); // leaves PCI Express out of the list
    let config = assign(&network_card_known(), &hw);
    for offset in offsets() {
        for size in SIZES {
            let is_access = is_access(offset.into(), size.into(), 256);
            assert_eq!(config.read(&hw, offset, size).is_ok(), is_access, "{offset:#x} size {size}");
        }
    }
}

/// The bits of the hardware that any guest may ever have written, by byte.
const WRITABLE: [(usize, u8); 8] =
    [(0x04, 0x14), (0x05, 0x04), (0x0c, 0xff), (0x0f, 0x40), (0x44, 0x03), (0x45, 0x9e), (0x52, 0xff), (0x53, 0xff)];

/// Bytes that guests write without a write to the hardware.
fn is_expected(offset: usize) -> bool {
    matches!(offset,
        0x00..=0x05 | 0x0c..=0x0d | 0x0f..=0x27 | 0x30..=0x33 | 0x3c..=0x3d // header
        | 0x40..=0x47 | 0x50..=0x57 | 0x60..=0x63 | 0x70..=0x73)
        && offset != 0x0e
}

/// What forbids a write: a control word of MSI or MSI-X that would change, a VPD address that would ask for a write.
fn denies(hw: &Memory, offset: i32, size: i32, value: u32) -> Option<Denied> {
    let (first, bytes) = (usize::try_from(offset).expect("an access"), usize::try_from(size).expect("an access"));
    let after = |offset: usize| {
        let byte = |at: usize| match at.checked_sub(first) {
            Some(index) if index < bytes => value.to_le_bytes()[index],
            _ => hw.bytes[at],
        };
        [byte(offset), byte(offset + 1)]
    };
    let reaches = |offset: usize| first < offset + 2 && offset < first + bytes;
    if reaches(0x52) && after(0x52)[1] & 0x80 != 0 {
        return Some(Denied::VpdWrite);
    }
    let changes = |offset| reaches(offset) && after(offset) != [hw.bytes[offset], hw.bytes[offset + 1]];
    (changes(0x62) || changes(0x72)).then_some(Denied::InterruptControl)
}

#[test]
fn every_write_stays_within_the_policy() {
    let hw = network_card();
    let fresh = assign(&network_card_known(), &hw);
    for offset in offsets() {
        for size in SIZES {
            for value in [0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa, 0x4000_0000, 0x0000_8000] {
                let mut config = fresh.clone();
                let place = format!("{offset:#x} size {size} value {value:#x}");
                let outcome = match config.write(&hw, offset, size, value) {
                    Ok(outcome) => outcome,
                    Err(WriteError::Access(_)) => {
                        assert!(!is_access(offset.into(), size.into(), 4096), "{place}");
                        continue;
                    }
                    Err(WriteError::Denied(denied)) => {
                        assert_eq!(denies(&hw, offset, size, value), Some(denied), "{place}");
                        continue;
                    }
                };
                assert_eq!(denies(&hw, offset, size, value), None, "{place}");
                let first = usize::try_from(offset).expect("an access");
                let last = first + usize::try_from(size).expect("an access") - 1;
                assert_eq!(outcome.is_dropped, !(first..=last).any(is_expected), "{place}");
                for write in outcome.hardware() {
                    for (at, mask) in write.mask.to_le_bytes().into_iter().enumerate().filter(|(_, mask)| *mask != 0) {
                        let byte = usize::from(write.offset) + at;
                        let allowed = WRITABLE.iter().find(|(offset, _)| *offset == byte).map_or(0, |(_, mask)| *mask);
                        assert_eq!(mask & !allowed, 0, "{place} writes byte {byte:#x}");
                        // VPD starts a read with every write, so its untouched byte is written back too.
                        assert!(
                            (first..=last).contains(&byte) || matches!(byte, 0x52 | 0x53),
                            "{place} writes byte {byte:#x}"
                        );
                    }
                    assert_eq!(write.value & !write.mask, 0, "{place}");
                }
                // What other registers read is as before.
                for offset in
                    (0..256).step_by(4).filter(|offset| usize::try_from(*offset).is_ok_and(|at| at != first & !3))
                {
                    assert_eq!(config.read(&hw, offset, 4), fresh.read(&hw, offset, 4), "{place} changed {offset:#x}");
                }
            }
        }
    }
}

#[test]
fn the_edges_say_which_edge() {
    let hw = network_card();
    let config = assign(&network_card_known(), &hw);
    assert_eq!(config.read(&hw, 4096, 1), Err(BadAccess::PastEnd));
    assert_eq!(config.read(&hw, 4095, 2), Err(BadAccess::Offset));
    assert!(config.read(&hw, 4095, 1).is_ok());
}
