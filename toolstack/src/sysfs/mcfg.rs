//! The ACPI table MCFG: where configuration space is in memory.

use xen_types::{Mfn, Sbdf};

/// The table's header and the reserved bytes behind it (`PCI Firmware Specification 3.2 §4.1.2`, table 4-2).
const HEADER_BYTES: usize = 44;
/// One allocation: base address, segment, first and last bus, reserved (table 4-3).
const ENTRY_BYTES: usize = 16;
const PAGE_SHIFT: u32 = 12;

/// The frame of one function, `None` where no entry covers it.
pub(super) fn ecam_frame(table: &[u8], device: Sbdf) -> Option<Mfn> {
    let base = table.get(HEADER_BYTES..)?.chunks_exact(ENTRY_BYTES).find_map(|entry| covering(entry, device))?;
    // One page a function. The base address is that of bus 0, whether bus 0 is covered or not.
    let function = u64::from(device.bus()) << 8 | u64::from(device.devfn());
    Some(Mfn((base >> PAGE_SHIFT) + function))
}

/// The entry's base address if it covers the device.
fn covering(entry: &[u8], device: Sbdf) -> Option<u64> {
    let base = u64::from_le_bytes(entry.get(..8)?.try_into().ok()?);
    let segment = u16::from_le_bytes(entry.get(8..10)?.try_into().ok()?);
    let buses = *entry.get(10)?..=*entry.get(11)?;
    (segment == device.segment() && buses.contains(&device.bus())).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::mcfg_table;

    fn frame(table: &[u8], device: &str) -> Option<u64> {
        ecam_frame(table, device.parse().unwrap()).map(|frame| frame.0)
    }

    #[test]
    fn frames_are_those_of_the_bench() {
        let table = mcfg_table(&[(0xb000_0000, 0, 0, 255)]);
        assert_eq!(frame(&table, "00:05.0"), Some(0xb0028));
        assert_eq!(frame(&table, "00:07.0"), Some(0xb0038));
        assert_eq!(frame(&table, "ff:1f.7"), Some(0xbffff));
    }

    #[test]
    fn segment_and_bus_range_select_the_entry() {
        let table = mcfg_table(&[(0xe000_0000, 0, 0, 63), (0x1_0000_0000, 1, 0x20, 0x3f)]);
        assert_eq!(frame(&table, "0001:21:00.0"), Some(0x10_2100));
        assert_eq!(frame(&table, "0000:21:00.0"), Some(0xe2100));
        for uncovered in ["0000:40:00.0", "0001:1f:00.0", "0001:40:00.0", "0002:00:00.0"] {
            assert_eq!(frame(&table, uncovered), None, "{uncovered}");
        }
    }

    #[test]
    fn cut_tables_cover_nothing() {
        let table = mcfg_table(&[(0xb000_0000, 0, 0, 255)]);
        for length in 0..table.len() {
            assert_eq!(frame(&table[..length], "00:05.0"), None, "{length}");
        }
    }
}
