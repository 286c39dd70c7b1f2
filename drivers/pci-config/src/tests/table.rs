//! The table itself.

use std::collections::BTreeSet;

use crate::packed::{self, Slot};
use crate::register::{Length, Place, Read, Rest, Write};
use crate::table::blocks;

#[test]
fn registers_lie_side_by_side_and_have_a_name_and_a_source() {
    for block in blocks() {
        let mut end = 0;
        for row in block.registers {
            assert!(row.at >= end && row.bytes > 0 && row.at % 4 + row.bytes <= 4, "{} {row:?}", block.name);
            assert!(!row.name.is_empty() && !row.source.is_empty(), "{} {row:?}", block.name);
            let bits = u32::MAX >> (32 - 8 * u32::from(row.bytes));
            assert_eq!((row.permissive | row.write.device_bits()) & !bits, 0, "{} {row:?}", block.name);
            end = row.at + row.bytes;
            if let Length::Dwords(dwords) = block.length {
                assert!(end <= dwords * 4, "{} {row:?}", block.name);
            }
        }
    }
}

#[test]
fn what_can_be_written_is_a_register_that_can_be_accessed() {
    for row in blocks().flat_map(|block| block.registers).filter(|row| row.write != Write::Drop || row.permissive != 0)
    {
        assert!([1, 2, 4].contains(&row.bytes) && row.at.is_multiple_of(row.bytes), "{row:?}");
    }
}

#[test]
fn no_write_can_leave_more_than_an_outcome_holds_or_be_refused_half_way() {
    for block in blocks() {
        for dword in 0..64 {
            let of_dword = || block.registers.iter().filter(move |row| row.at / 4 == dword);
            let count = |writes: &[Write]| of_dword().filter(|row| writes.contains(&row.write)).count();
            let refusing = count(&[Write::VpdAddress, Write::MsiControl, Write::MsixControl]);
            let acting = count(&[Write::Command, Write::CacheLineSize, Write::Bist, Write::PowerState, Write::Base]);
            assert!(acting + refusing <= 2 && (refusing == 0 || acting == 0 && refusing == 1), "{}", block.name);
        }
    }
}

#[test]
fn names_and_places_are_there_once() {
    let names: BTreeSet<&str> = blocks().map(|block| block.name).collect();
    assert_eq!(names.len(), blocks().count());
    let places: BTreeSet<String> = blocks().map(|block| format!("{:?}", block.place)).collect();
    assert_eq!(places.len(), blocks().count());
}

#[test]
fn the_compiled_table_says_the_same() {
    for block in blocks() {
        let slots: Vec<Slot> = match block.place {
            Place::Header(0) => packed::HEADER.to_vec(),
            Place::Capability(id) => packed::capability(id.into()).collect(),
            // Bridges are not assigned; of extended capabilities nothing is ours but the header.
            Place::Header(_) | Place::Extended(_) => continue,
        };
        let lines: Vec<_> =
            (0..).zip(&slots).flat_map(|(dword, slot)| slot.lines().iter().map(move |line| (dword, line))).collect();
        assert!(lines.iter().all(|(dword, line)| line.at / 4 == *dword), "{}: {lines:?}", block.name);
        for row in block.registers {
            let line = lines.iter().find(|(_, line)| (line.at, line.bytes) == (row.at, row.bytes));
            let want = (row.read, if row.write.is_drop() { Write::Drop } else { row.write });
            let found = line.map_or((Read::Device, Write::Drop), |(_, line)| {
                (line.read, if line.write.is_drop() { Write::Drop } else { line.write })
            });
            assert_eq!(found, want, "{} {row:?}", block.name);
        }
        let row = |at, bytes| block.registers.iter().any(|row| (row.at, row.bytes) == (at, bytes));
        assert!(lines.iter().all(|(_, line)| row(line.at, line.bytes)), "{}", block.name);
    }
    // Of an unknown one, the header.
    assert_eq!(packed::capability(0x0d).map(|slot| slot.lines().len()).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_may_harm_the_host_is_locked_whatever_the_policy() {
    for name in [
        "bridge",
        "msi",
        "msix",
        "ht",
        "af",
        "ea",
        "fpb",
        "sriov",
        "ats",
        "pri",
        "pasid",
        "rebar",
        "vfrebar",
        "acs",
        "dpc",
        "ari",
        "multicast",
        "tph",
        "l1pm",
        "ltr",
        "vc",
        "ptm",
        "dvsec",
        "ide",
        "vpd",
        "pm",
    ] {
        let block = blocks().find(|block| block.name == name).expect("a block");
        assert_eq!(block.rest, Rest::Locked, "{name}");
        let open = block.registers.iter().filter(|row| row.write.is_drop() && row.permissive != 0);
        // A bridge's Status is no harm.
        assert!(open.filter(|row| row.name != "Status").count() == 0, "{name}");
    }
    let header = blocks().next().expect("the header");
    for row in header.registers.iter().filter(|row| row.write.is_drop() && row.permissive != 0) {
        assert_eq!((row.name, row.permissive), ("Status", 0xf900));
    }
}
