use super::*;

/// Power at 40h, VPD at 48h, MSI at 50h, MSI-X at 70h, a self-test.
fn device() -> PermittedWrites {
    let registers = "command:4:2:414:0 plain:c:1:ff:0 bist:f:1:40:0 pmcsr:44:2:9e03:8000 vpd:4a:2:ffff:8000";
    format!("identity:0:0 power:40 msi:50:8 msix:70:40:0 {registers}").parse().unwrap()
}

/// The bits of each byte that may change, written down once more by hand.
fn allowed_byte(offset: u16) -> u32 {
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

fn asked(offset: u16, size: u16, mask: u32) -> Asked {
    // Zeros, but for what starts a self-test: values have tests of their own.
    let bist = 0x40u32.checked_shl(8 * u32::from(0x0f_u16.saturating_sub(offset))).unwrap_or(0);
    Asked { offset: offset.into(), size: size.into(), value: if mask == bist { mask } else { 0 }, mask }
}

fn accesses() -> impl Iterator<Item = (u16, u16)> {
    (0..4096)
        .flat_map(|offset| [1, 2, 4].map(|size| (offset, size)))
        .filter(|(offset, size): &(u16, u16)| offset.is_multiple_of(*size))
}

#[test]
fn no_bit_of_any_register_is_written_that_is_not_on_the_list() {
    let list = device();
    let mut granted = 0;
    for (offset, size) in accesses() {
        for bit in 0..8 * size {
            let byte = offset + bit / 8;
            let may = allowed_byte(byte) >> (bit % 8) & 1 != 0;
            match check(&asked(offset, size, 1 << bit), &list).as_deref() {
                Ok([write]) => {
                    assert!(may, "bit {bit} at {offset:#x}");
                    // It reaches the very bit that was asked for.
                    let target = u32::from(write.offset) * 8 + write.mask.trailing_zeros();
                    assert_eq!((write.mask.count_ones(), target), (1, u32::from(byte * 8 + bit % 8)));
                    granted += 1;
                }
                outcome => assert!(!may, "bit {bit} at {offset:#x}: {outcome:?}"),
            }
        }
    }
    assert_eq!(granted, 3 * 35, "every bit of the list, at each width");
}

#[test]
fn every_class_of_masks_is_refused_when_one_bit_of_it_is() {
    let list = device();
    for (offset, size) in accesses() {
        let full = u32::MAX >> (32 - 8 * size);
        let may: u32 = (0..size).map(|byte| allowed_byte(offset + byte) << (8 * byte)).sum();
        for mask in [full, full & 0xffff, full & 0xff00, full & !may, may | 1, may | full & 0x8000_0000] {
            let ok = check(&asked(offset, size, mask), &list).is_ok();
            assert!(!ok || mask & !may == 0, "{mask:#x} at {offset:#x}, {size} bytes");
        }
    }
}

#[test]
fn registers_of_two_names_are_not_written_together() {
    // Cache line size and BIST in one dword, bus master and status in one dword.
    for (offset, mask) in [(0x0c, 0x4000_0001), (0x04, 0x0001_0004), (0x48, 0x00ff_0000 | 1)] {
        assert!(check(&Asked { offset, size: 4, value: mask, mask }, &device()).is_err(), "{offset:#x}");
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
        (0x1_0004, 2),
        (5, 2),
        (6, 4),
        (4, 0),
        (4, 3),
        (4, 8),
        (4, -2),
    ] {
        let asked = Asked { offset, size, value: 4, mask: 4 };
        assert!(matches!(check(&asked, &device()), Err(Failure::BadAccess)), "{offset} {size}");
    }
}

#[test]
fn nothing_to_change_is_refused() {
    assert!(check(&Asked { offset: 4, size: 2, value: 4, mask: 0 }, &device()).is_err());
    // Bits beyond the access do not count.
    assert!(check(&Asked { offset: 4, size: 1, value: 0x400, mask: 0x400 }, &device()).is_err());
}

fn merged(offset: i32, size: i32, value: u32, mask: u32, old: u32) -> Option<u32> {
    match check(&Asked { offset, size, value, mask }, &device()).ok()?[..] {
        [write] => Some(write.merged(old)),
        _ => None,
    }
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
fn a_self_test_is_only_ever_started() {
    assert_eq!(merged(0x0f, 1, 0x40, 0x40, 0x80), Some(0xc0));
    assert_eq!(merged(0x0f, 1, 0x00, 0x40, 0xc0), None);
    assert_eq!(merged(0x0f, 1, 0x40, 0xff, 0x80), None);
}

#[test]
fn what_the_admin_opened_is_written_in_parts() {
    let list: PermittedWrites =
        "identity:0:0 command:4:2:414:0 open:c4:2:ff0f:0 open:c6:1:f0:0 range:40:2:ffffffff:0 range:68:1:f7010:ffff0000"
            .parse()
            .unwrap();
    let writes = |offset, size, value: u32, mask| {
        let allowed = check(&Asked { offset, size, value, mask }, &list).unwrap_or_default();
        allowed.iter().map(|write| (write.offset, write.width as u8, write.mask, write.value)).collect::<Vec<_>>()
    };
    assert_eq!(writes(0xc4, 4, u32::MAX, u32::MAX), [(0xc4, 2, 0xff0f, 0xff0f), (0xc6, 1, 0xf0, 0xf0)]);
    assert_eq!(writes(0xc5, 1, 0x12, 0xff), [(0xc4, 2, 0xff00, 0x1200)], "at the register's width");
    assert_eq!(writes(0xc7, 1, 1, 1), []);
    assert_eq!(writes(0x45, 1, 0xab, 0xff), [(0x45, 1, 0xff, 0xab)], "at the width of the access");
    assert_eq!(writes(0x48, 4, 1, 1), [], "behind the range");
    assert_eq!(writes(0x68, 2, 0xffff, 0xffff), [(0x68, 2, 0x7010, 0x7010)]);
    // Errors that the guest did not mean to clear are written as zeros.
    let [write] = check(&Asked { offset: 0x68, size: 4, value: 0x10, mask: 0x10 }, &list).unwrap()[..] else {
        panic!()
    };
    assert_eq!(write.merged(0x000f_2800), 0x2810);
}
