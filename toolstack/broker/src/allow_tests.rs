use super::*;
use crate::capabilities::{Msi, Msix};

/// Power at 40h, VPD at 48h, MSI at 50h (24 bytes), MSI-X at 70h.
fn capabilities() -> Capabilities {
    Capabilities {
        power: Some(0x40),
        vpd: Some(0x48),
        msi: Some(Msi { at: 0x50, bytes: 24, vectors: 8 }),
        msix: Some(Msix { at: 0x70, entries: 64, bar: 0 }),
    }
}

/// The bits of each byte that may change, written down once more by hand.
fn allowed_byte(offset: u64) -> u32 {
    match offset {
        0x04 => 0x14,        // bus master, memory write and invalidate
        0x05 => 0x04,        // INTx disable
        0x0c => 0xff,        // cache line size
        0x0f => 0x40,        // start the self-test
        0x44 => 0x03,        // power state
        0x45 => 0x9e,        // data select, PME status
        0x4a | 0x4b => 0xff, // VPD address
        _ => 0,
    }
}

fn asked(offset: u64, size: i32, mask: u32) -> Asked {
    // Zeros, but for what starts a self-test: values have tests of their own.
    let bist = 0x40u32.checked_shl(8 * u32::try_from(0x0f_u64.saturating_sub(offset)).unwrap()).unwrap_or(0);
    let value = if mask == bist { mask } else { 0 };
    Asked { offset: i32::try_from(offset).unwrap(), size, value, mask }
}

#[test]
fn no_bit_of_any_register_is_written_that_is_not_on_the_list() {
    let capabilities = capabilities();
    let mut granted = 0;
    for offset in 0..4096 {
        for size in [1, 2, 4] {
            if offset % size != 0 {
                continue;
            }
            let width = i32::try_from(size).unwrap();
            for bit in 0..8 * u32::try_from(size).unwrap() {
                let byte = offset + u64::from(bit / 8);
                let may = allowed_byte(byte) >> (bit % 8) & 1 != 0;
                match check(&asked(offset, width, 1 << bit), &capabilities, false) {
                    Ok(write) => {
                        assert!(may, "bit {bit} at {offset:#x}");
                        // It reaches the very bit that was asked for.
                        let target = write.offset * 8 + u64::from(write.mask.trailing_zeros());
                        assert_eq!((write.mask.count_ones(), target), (1, byte * 8 + u64::from(bit % 8)));
                        granted += 1;
                    }
                    Err(failure) => assert!(!may, "bit {bit} at {offset:#x}: {failure:?}"),
                }
            }
        }
    }
    assert_eq!(granted, 3 * 35, "every bit of the list, at each width");
}

#[test]
fn every_class_of_masks_is_refused_when_one_bit_of_it_is() {
    let capabilities = capabilities();
    for offset in 0..4096 {
        for size in [1, 2, 4] {
            if offset % size != 0 {
                continue;
            }
            let width = i32::try_from(size).unwrap();
            let full = u32::MAX >> (32 - 8 * width);
            let may: u32 = (0..size).map(|byte| allowed_byte(offset + byte) << (8 * byte)).sum();
            for mask in [full, full & 0xffff, full & 0xff00, full & !may, may | 1, may | full & 0x8000_0000] {
                let ok = check(&asked(offset, width, mask), &capabilities, false).is_ok();
                assert!(!ok || mask & !may == 0, "{mask:#x} at {offset:#x}, {size} bytes");
            }
        }
    }
}

#[test]
fn registers_of_two_names_are_not_written_together() {
    // Cache line size and BIST in one dword, bus master and status in one dword.
    for (offset, mask) in [(0x0c, 0x4000_0001), (0x04, 0x0001_0004), (0x48, 0x00ff_0000 | 1)] {
        assert!(check(&Asked { offset, size: 4, value: mask, mask }, &capabilities(), false).is_err(), "{offset:#x}");
    }
}

#[test]
fn what_is_no_register_is_refused_as_such() {
    for (offset, size) in [
        (-4, 4),
        (-1, 1),
        (i32::MIN, 4),
        (i32::MAX, 1),
        (4096, 1),
        (4094, 4),
        (5, 2),
        (6, 4),
        (4, 0),
        (4, 3),
        (4, 8),
        (4, -2),
    ] {
        let asked = Asked { offset, size, value: 4, mask: 4 };
        assert!(matches!(check(&asked, &capabilities(), false), Err(Failure::BadAccess)), "{offset} {size}");
    }
}

#[test]
fn a_device_without_a_capability_has_none_of_its_registers() {
    for offset in [0x44, 0x4a, 4, 2] {
        let asked = Asked { offset, size: 2, value: 0, mask: 1 };
        assert!(check(&asked, &Capabilities::default(), false).is_err(), "{offset:#x}");
    }
}

#[test]
fn a_capability_list_cannot_lay_a_register_over_vectors() {
    // A device that claims that PMCSR is where MSI's address, or MSI-X's control, is.
    for power in [0x50, 0x54, 0x60, 0x6c, 0x70] {
        let capabilities = Capabilities { power: Some(power), ..capabilities() };
        let offset = i32::try_from(power + 4).unwrap();
        assert!(check(&Asked { offset, size: 2, value: 3, mask: 3 }, &capabilities, false).is_err(), "{power:#x}");
    }
}

#[test]
fn nothing_to_change_is_refused() {
    assert!(check(&Asked { offset: 4, size: 2, value: 4, mask: 0 }, &capabilities(), false).is_err());
    // Bits beyond the access do not count.
    assert!(check(&Asked { offset: 4, size: 1, value: 0x400, mask: 0x400 }, &capabilities(), false).is_err());
}

fn merged(offset: i32, size: i32, value: u32, mask: u32, old: u32) -> Option<u32> {
    check(&Asked { offset, size, value, mask }, &capabilities(), false).ok()?.merged(old).ok()
}

#[test]
fn bits_outside_of_the_mask_stay() {
    assert_eq!(merged(4, 2, 0xffff, 0x0404, 0x0143), Some(0x0547));
    assert_eq!(merged(4, 2, 0, 0x0404, 0x0547), Some(0x0143));
    assert_eq!(merged(5, 1, 0x04, 0x04, 0x0143), Some(0x0543));
    assert_eq!(merged(4, 4, 0x0000_0400, 0x0400, 0x0143), Some(0x0543));
}

#[test]
fn pme_status_clears_only_when_it_is_asked_to() {
    assert_eq!(merged(0x44, 2, 3, 3, 0x8100), Some(0x0103));
    assert_eq!(merged(0x44, 2, 0x8000, 0x8003, 0x8103), Some(0x8100));
    assert_eq!(merged(0x44, 2, 0, 0x8000, 0x8103), Some(0x0103));
}

#[test]
fn a_vpd_address_is_never_a_write() {
    assert_eq!(merged(0x4a, 2, 0x8010, 0xffff, 0), None);
    assert_eq!(merged(0x4a, 2, 0x0010, 0xffff, 0x8000), Some(0x0010));
    assert_eq!(merged(0x4a, 2, 0x0010, 0x7fff, 0x8000), Some(0x0010), "the bit that says that a read is done");
    assert_eq!(merged(0x4b, 1, 0x80, 0x80, 0), None);
}

#[test]
fn a_self_test_starts_where_there_is_one() {
    assert_eq!(merged(0x0f, 1, 0x40, 0x40, 0x80), Some(0xc0));
    assert_eq!(merged(0x0f, 1, 0x40, 0x40, 0x00), None);
    assert_eq!(merged(0x0f, 1, 0x00, 0x40, 0xc0), None);
    assert_eq!(merged(0x0f, 1, 0x40, 0xff, 0x80), None);
}

#[test]
fn every_rule_names_its_register_and_its_source() {
    assert!(RULES.iter().all(|rule| !rule.name.is_empty() && rule.source.contains('§')));
}

/// What a guest does not see is written by nobody, on the list or not: vital product data, and power management.
#[test]
fn what_is_hidden_is_off_the_list() {
    for (word, offset) in [("hide=3", 0x4a), ("hide=1", 0x44)] {
        let asked = Asked { offset, size: 2, value: 1, mask: 1 };
        let policy: pci_config::Policy = format!("permissive=1,{word}").parse().unwrap();
        assert!(check(&asked, &capabilities(), true).is_ok(), "{word}");
        assert!(check(&asked, &capabilities().without(policy.hidden), true).is_err(), "{word}");
        assert_eq!(capabilities().without(pci_config::Hidden::default()), capabilities());
    }
}
