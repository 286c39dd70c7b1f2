//! `/proc/bus/pci/devices`: every function's ranges in one file (`drivers/pci/proc.c`), where sysfs has a file for each function.
//!
//! It names no segment and not all that sysfs says of a range, so it only shows that nothing is in the way; what is in the way is looked for in sysfs.

/// BARs and the ROM.
const RANGES: usize = 7;

/// A function's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) bus: u8,
    pub(crate) devfn: u8,
    /// First and last address of each range of memory. The first one may be up to 15 too low: flags are in these bits.
    pub(crate) memory: Vec<(u64, u64)>,
}

impl Line {
    /// `BBDD`, vendor and device, interrupt, seven addresses with flags in their low bits, seven sizes, the driver.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('\t').map(str::trim);
        let place = u16::from_str_radix(words.next()?, 16).ok()?;
        let [bus, devfn] = place.to_be_bytes();
        let numbers: Vec<u64> =
            words.skip(2).take(2 * RANGES).map(|word| u64::from_str_radix(word, 16).ok()).collect::<Option<_>>()?;
        let (starts, sizes) = numbers.split_at_checked(RANGES)?;
        let mut memory = Vec::new();
        for (index, (start, size)) in starts.iter().zip(sizes).enumerate() {
            // Bit 0 is that of ports, and of a ROM that it is enabled.
            let is_ports = start & 1 != 0 && index != RANGES - 1;
            if *size != 0 && !is_ports {
                memory.push((*start, start.checked_add(size - 1)?));
            }
        }
        (sizes.len() == RANGES).then_some(Self { bus, devfn, memory })
    }
}

/// All lines; `None` if one of them does not have the form.
pub(crate) fn parse(text: &str) -> Option<Vec<Line>> {
    text.lines().map(Line::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_memory_of_bars_and_rom() {
        // An e1000 at 00:03.0 with its ROM enabled, as Linux 6.1 prints it.
        let text = "0018\t8086100e\t15\t        feb40000\t            c001\t               0\t               0\t               0\
                    \t               0\t        feb00001\t           20000\t              40\t               0\t               0\
                    \t               0\t               0\t           40000\te1000\n";
        let expected =
            Line { bus: 0, devfn: 0x18, memory: vec![(0xfeb4_0000, 0xfeb5_ffff), (0xfeb0_0001, 0xfeb4_0000)] };
        assert_eq!(parse(text), Some(vec![expected]));
        let without_driver = text.replace("e1000\n", "\n");
        assert_eq!(parse(&without_driver).map(|lines| lines.len()), Some(1));
        assert_eq!(parse(""), Some(Vec::new()));
    }

    #[test]
    fn what_has_another_form_is_not_believed() {
        for text in ["\n", "0018\n", "0018\t8086100e\t15\t1\t2\t3\n", "what?\t8086100e\t15\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let numbers = "\t1000".repeat(13);
        assert_eq!(parse(&format!("0018\t8086100e\t15{numbers}\n")), None, "a size is missing");
        let numbers = format!("\t{:x}{}{}", u64::MAX - 7, "\t0".repeat(6), "\t10".repeat(7));
        assert_eq!(parse(&format!("0018\t8086100e\t15{numbers}\te1000\n")), None, "beyond the end of memory");
    }
}
