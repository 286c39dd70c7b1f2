//! The `resource` attribute: a line of start, end and flags for each BAR, the ROM and what else the function has.

use xen_types::{Resource, ResourceKind};

/// `IORESOURCE_*` (`include/linux/ioport.h`).
const IO: u64 = 0x100;
const MEM: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const MEM_64: u64 = 0x10_0000;

/// `PCI_ROM_RESOURCE` (`include/linux/pci.h`): six BARs come before it, SR-IOV and bridge windows behind.
const ROM_INDEX: u8 = 6;

/// The assigned BARs and the ROM with their indices. A line without an address belongs to a BAR that is not there, not
/// assigned, or the upper half of the one before.
///
/// # Errors
/// The first line that does not have the form or describes what no register can decode.
pub(super) fn parse(text: &str) -> Result<Vec<(u8, Resource)>, String> {
    let mut found = Vec::new();
    for (index, line) in (0..=ROM_INDEX).zip(text.lines()) {
        if let Some(resource) = parse_line(index, line).ok_or_else(|| line.to_owned())? {
            found.push((index, resource));
        }
    }
    Ok(found)
}

/// `None` for nonsense, `Some(None)` for nothing there.
fn parse_line(index: u8, line: &str) -> Option<Option<Resource>> {
    let mut numbers = line.split_whitespace().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let (start, end, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if start == 0 || flags & (IO | MEM) == 0 {
        return Some(None);
    }
    let size = end.checked_sub(start)?.checked_add(1)?;
    Resource::new(start, size, kind(index, flags)).ok().map(Some)
}

fn kind(index: u8, flags: u64) -> ResourceKind {
    if index == ROM_INDEX {
        return ResourceKind::Rom;
    }
    match (flags & IO != 0, flags & MEM_64 != 0, flags & PREFETCH != 0) {
        (true, _, _) => ResourceKind::Io,
        (false, false, false) => ResourceKind::Mem32,
        (false, false, true) => ResourceKind::Mem32Prefetch,
        (false, true, false) => ResourceKind::Mem64,
        (false, true, true) => ResourceKind::Mem64Prefetch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        parse(text).unwrap().into_iter().map(|(index, resource)| format!("{index}: {resource}")).collect()
    }

    #[test]
    fn an_e1000_has_memory_ports_and_a_rom() {
        let text = "0x00000000feb40000 0x00000000feb5ffff 0x0000000000040200\n\
                    0x000000000000c000 0x000000000000c03f 0x0000000000040101\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x00000000feb00000 0x00000000feb3ffff 0x0000000000046200\n";
        assert_eq!(texts(text), ["0: 0xfeb40000 0x20000 mem32", "1: 0xc000 0x40 io", "6: 0xfeb00000 0x40000 rom"]);
    }

    #[test]
    fn wide_and_prefetchable_memory_keeps_its_kind() {
        let text = "0x00000008c0000000 0x00000008c0003fff 0x0000000000140204\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x00000008d0000000 0x00000008d00fffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x00000000e0000000 0x00000000e0ffffff 0x0000000000042208\n";
        let want = ["0: 0x8c0000000 0x4000 mem64", "2: 0x8d0000000 0x100000 mem64p", "4: 0xe0000000 0x1000000 mem32p"];
        assert_eq!(texts(text), want);
    }

    #[test]
    fn windows_behind_the_rom_are_not_the_functions_own() {
        let empty = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".repeat(7);
        assert_eq!(texts(&format!("{empty}0x00000000fe000000 0x00000000fe1fffff 0x0000000000000200\n")), [""; 0]);
    }

    #[test]
    fn nonsense_is_told_by_its_line() {
        for line in [
            "",
            "0x1000",
            "1000 1fff 200",
            "0x1000 0xfff 0x200",
            "0x1000 0x1ffe 0x200",
            "0x1 0xffffffffffffffffff 0x200",
        ] {
            assert_eq!(parse(&format!("{line}\n")), Err(line.to_owned()), "{line:?}");
        }
    }
}
