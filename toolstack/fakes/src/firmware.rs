//! Tables of the firmware.

/// An ACPI MCFG table: base address, segment, first and last bus of each entry.
pub fn mcfg_table(entries: &[(u64, u16, u8, u8)]) -> Vec<u8> {
    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"MCFG");
    for (base, segment, first, last) in entries {
        table.extend(base.to_le_bytes());
        table.extend(segment.to_le_bytes());
        table.extend([*first, *last, 0, 0, 0, 0]);
    }
    table
}
