//! The `resource` attribute: a line of start, end and flags for each BAR, the ROM and what else the function has.

use xen_types::{Resource, ResourceKind};

/// `IORESOURCE_*` (`include/linux/ioport.h`).
const IO: u64 = 0x100;
const MEM: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const MEM_64: u64 = 0x10_0000;
/// The kernel gave it no address, or had to take it back: what stands there may be another device's.
const UNSET: u64 = 0x2000_0000;
/// Flag of a ROM that is a copy in memory (the one of the primary VGA at c0000).
const ROM_SHADOW: u64 = 1 << 1;
/// The range is not in a base address register: ports that legacy IDE decodes, the copy of a ROM; or, with the other bit, it is in the
/// function's Enhanced Allocation capability, and its own.
const FIXED: u64 = 1 << 4;
const ENHANCED_ALLOCATION: u64 = 1 << 5;

/// `PCI_ROM_RESOURCE` (`include/linux/pci.h`): six BARs come before it, SR-IOV and bridge windows behind.
const ROM_INDEX: u8 = 6;

/// A line that names a range.
struct Line<'a> {
    text: &'a str,
    index: u8,
    start: u64,
    end: u64,
    flags: u64,
}

impl<'a> Line<'a> {
    /// `None` for nonsense, `Some(None)` for nothing there: the BAR does not exist, has no address, or is the upper half of the one before.
    fn parse(index: u8, text: &'a str) -> Option<Option<Self>> {
        let mut numbers = text.split_whitespace().map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        let (start, end, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
        if start == 0 || flags & (IO | MEM) == 0 || flags & UNSET != 0 {
            return Some(None);
        }
        (start <= end).then_some(Some(Self { text, index, start, end, flags }))
    }

    /// Whether the range is the function's own: a guest that has the function must reach it, and nothing else.
    fn is_own(&self) -> bool {
        let is_shadow = self.index == ROM_INDEX && self.flags & ROM_SHADOW != 0;
        let is_elsewhere = self.flags & FIXED != 0 && self.flags & ENHANCED_ALLOCATION == 0;
        !is_shadow && !is_elsewhere
    }

    fn resource(&self) -> Option<Resource> {
        if self.index == ROM_INDEX && self.flags & IO != 0 {
            return None; // a ROM is memory, and [`memory`] must have it
        }
        let size = (self.end - self.start).checked_add(1)?;
        Resource::new(self.start, size, self.kind()).ok()
    }

    fn kind(&self) -> ResourceKind {
        if self.index == ROM_INDEX {
            return ResourceKind::Rom;
        }
        match (self.flags & IO != 0, self.flags & MEM_64 != 0, self.flags & PREFETCH != 0) {
            (true, _, _) => ResourceKind::Io,
            (false, false, false) => ResourceKind::Mem32,
            (false, false, true) => ResourceKind::Mem32Prefetch,
            (false, true, false) => ResourceKind::Mem64,
            (false, true, true) => ResourceKind::Mem64Prefetch,
        }
    }
}

/// The lines of the BARs and the ROM that name a range.
///
/// # Errors
/// The first line that does not have the form.
fn lines(text: &str) -> Result<Vec<Line<'_>>, String> {
    let mut lines = Vec::new();
    for (index, line) in (0..=ROM_INDEX).zip(text.lines()) {
        lines.extend(Line::parse(index, line).ok_or_else(|| line.to_owned())?);
    }
    Ok(lines)
}

/// Resources of the function's BARs and ROM, with their indices.
///
/// # Errors
/// The first line that does not have the form or describes what no register can decode.
pub fn parse(text: &str) -> Result<Vec<(u8, Resource)>, String> {
    let own = lines(text)?.into_iter().filter(Line::is_own);
    own.map(|line| match line.resource() {
        Some(resource) => Ok((line.index, resource)),
        None => Err(line.text.to_owned()),
    })
    .collect()
}

/// Ranges beyond the function's own BARs, as text.
pub fn not_own(text: &str) -> Result<Vec<String>, String> {
    let others = lines(text)?.into_iter().filter(|line| !line.is_own());
    Ok(others
        .map(|Line { start, end, flags, .. }| match flags & IO {
            0 => format!("memory {start:#x}-{end:#x}"),
            _ => format!("ports {start:#x}-{end:#x}"),
        })
        .collect())
}

/// First and last address of all memory in which the function may have registers, whatever its size.
pub fn memory(text: &str) -> Result<Vec<(u64, u64)>, String> {
    let memory = lines(text)?.into_iter().filter(|line| line.flags & IO == 0);
    Ok(memory.map(|line| (line.start, line.end)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest would get memory that nobody had compared with that of other devices.
    #[test]
    fn a_rom_of_ports_makes_no_sense() {
        let none = "0x0 0x0 0x0\n".repeat(6);
        for flags in ["0x0000000000046300", "0x0000000000040101"] {
            let text = format!("{none}0x00000000feb00000 0x00000000feb3ffff {flags}\n");
            assert!(parse(&text).is_err(), "{flags}");
        }
    }

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

    /// QEMU's piix3-ide, as Linux shows it: four ranges that no register holds, and the bus master's ports.
    const IDE: &str = "0x00000000000001f0 0x00000000000001f7 0x0000000000000110\n\
                       0x00000000000003f6 0x00000000000003f6 0x0000000000000110\n\
                       0x0000000000000170 0x0000000000000177 0x0000000000000110\n\
                       0x0000000000000376 0x0000000000000376 0x0000000000000110\n\
                       0x000000000000c0a0 0x000000000000c0af 0x0000000000040101\n\
                       0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                       0x0000000000000000 0x0000000000000000 0x0000000000000000\n";

    /// QEMU's VGA: the ROM line is the shadow.
    const VGA: &str = "0x00000000fc000000 0x00000000fcffffff 0x0000000000042208\n\
                       0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                       0x00000000feb50000 0x00000000feb50fff 0x0000000000040200\n\
                       0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                       0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                       0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                       0x00000000000c0000 0x00000000000dffff 0x0000000000000212\n";

    #[test]
    fn ports_of_legacy_ide_are_not_its_own() {
        assert_eq!(texts(IDE), ["4: 0xc0a0 0x10 io"]);
        let others = ["ports 0x1f0-0x1f7", "ports 0x3f6-0x3f6", "ports 0x170-0x177", "ports 0x376-0x376"];
        assert_eq!(not_own(IDE).unwrap(), others);
        assert_eq!(memory(IDE).unwrap(), []);
    }

    #[test]
    fn the_shadow_of_a_rom_is_not_its_own() {
        assert_eq!(texts(VGA), ["0: 0xfc000000 0x1000000 mem32p", "2: 0xfeb50000 0x1000 mem32"]);
        assert_eq!(not_own(VGA).unwrap(), ["memory 0xc0000-0xdffff"]);
        assert_eq!(memory(VGA).unwrap().last(), Some(&(0xc_0000, 0xd_ffff)));
        // Older kernels do not say that it is fixed.
        assert_eq!(texts(&VGA.replace("212", "202")), texts(VGA));
        // In the flags of a BAR the same bit is a part of its type.
        assert_eq!(texts("0x80000 0x8ffff 0x40202\n"), ["0: 0x80000 0x10000 mem32"]);
    }

    #[test]
    fn ranges_of_enhanced_allocation_are_its_own() {
        assert_eq!(texts("0x840000000 0x8400fffff 0x100230\n"), ["0: 0x840000000 0x100000 mem64"]);
    }

    #[test]
    fn what_the_kernel_could_not_place_is_not_there() {
        assert_eq!(texts("0xfeb00000 0xfeb00fff 0x20040200\n"), [""; 0]);
    }

    #[test]
    fn ports_have_any_size_and_memory_one_that_can_be_decoded() {
        assert_eq!(texts("0x3f6 0x3f6 0x101\n0x1f1 0x1f7 0x101\n"), ["0: 0x3f6 0x1 io", "1: 0x1f1 0x7 io"]);
        let odd = "0xc000 0xc01f 0x101\n0xfeb00000 0xfeb002ff 0x200\n";
        assert_eq!(parse(odd), Err("0xfeb00000 0xfeb002ff 0x200".to_owned()));
        // Of another device it is enough to know where it is.
        assert_eq!(memory(odd), Ok(vec![(0xfeb0_0000, 0xfeb0_02ff)]));
    }
}
