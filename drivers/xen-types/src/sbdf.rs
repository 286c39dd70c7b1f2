//! PCI addresses: segment, bus, device, function.

use core::fmt;
use core::str::FromStr;

/// The address of a PCI function, real or as a guest sees it.
///
/// Displays in libxl's form for `dev-N`: `0000:03:00.1`. [`Sbdf::virtual_key`] gives the form of `vdev-N`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbdf {
    /// Segment in bits 31:16, bus in bits 15:8, device in bits 7:3, function in bits 2:0. Addresses are compared in many places of the stub's image; as
    /// one number that takes one instruction.
    number: u32,
}

impl Sbdf {
    /// Builds an address from its four parts; `None` where device exceeds 31 or function exceeds 7.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 0x1f || function > 7 {
            return None;
        }
        Some(Self::from_devfn(segment, bus, device << 3 | function))
    }

    /// Builds an address from segment, bus and the packed device/function byte; every value is valid.
    #[must_use]
    pub const fn from_devfn(segment: u16, bus: u8, devfn: u8) -> Self {
        Self { number: (segment as u32) << 16 | (bus as u32) << 8 | devfn as u32 }
    }

    /// PCI segment ("domain" in Linux and in `pciif.h`).
    #[must_use]
    pub const fn segment(self) -> u16 {
        (self.number >> 16) as u16
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.number.to_le_bytes()[1]
    }

    /// Device ("slot") number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }

    /// Device and function packed into a byte: `device << 3 | function`.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.number.to_le_bytes()[0]
    }

    /// The 32-bit form of Xen's domctls (`machine_sbdf`, `xen/include/public/domctl.h`).
    #[must_use]
    pub const fn machine_sbdf(self) -> u32 {
        self.number
    }

    /// True when both are functions of one physical slot.
    #[must_use]
    pub const fn same_slot(self, other: Self) -> bool {
        self.number >> 3 == other.number >> 3
    }

    /// Formats as `vdev-N` wants it: like the real address but with two function digits, `0000:00:00.01`
    /// (what Linux xen-pciback writes and mini-os parses).
    #[must_use]
    pub fn virtual_key(self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            let [segment, bus, device, function] = self.parts();
            write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:02x}")
        })
    }

    /// Its numbers as they are formatted. Of one type, because the stub's image holds code for each type of number that is formatted.
    fn parts(self) -> [u32; 4] {
        [self.segment().into(), self.bus().into(), self.device().into(), self.function().into()]
    }

    /// Formats as a xenstore path component, the way libxl names `/libxl/pci/0000-03-00-1`.
    #[must_use]
    pub fn path_component(self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            let [segment, bus, device, function] = self.parts();
            write!(f, "{segment:04x}-{bus:02x}-{device:02x}-{function:x}")
        })
    }

    /// Reads the form that [`Sbdf::path_component`] writes.
    ///
    /// # Errors
    /// When the text has not four hexadecimal parts between dashes, or a part is out of range.
    pub fn parse_path_component(text: &str) -> Result<Self, ParseSbdfError> {
        Self::parse(text.as_bytes(), [b'-', b'-', b'-']).ok_or(ParseSbdfError)
    }

    /// Reads segment, bus, device and function with these marks between them, from the end. The segment may be missing, with its mark, where
    /// that is a colon. By bytes: what `str` has for it is several KiB of code in a bare-metal image.
    fn parse(mut text: &[u8], [first, second, third]: [u8; 3]) -> Option<Self> {
        let function = part_behind(third, &mut text)?;
        let device = part_behind(second, &mut text)?;
        let (bus, segment) = match part_behind(first, &mut text) {
            Some(bus) => (bus, hex(text)?),
            None if first == b':' => (hex(text)?, 0),
            None => return None,
        };
        Self::new(
            u16::try_from(segment).ok()?,
            u8::try_from(bus).ok()?,
            u8::try_from(device).ok()?,
            u8::try_from(function).ok()?,
        )
    }
}

/// The number behind the last `mark`, and in `text` what is before that.
fn part_behind(mark: u8, text: &mut &[u8]) -> Option<u32> {
    let at = text.iter().rposition(|byte| *byte == mark)?;
    let (front, back) = text.split_at_checked(at)?;
    *text = front;
    hex(back.get(1..)?)
}

/// One hexadecimal number as `scanf("%x")` takes it, but nothing behind it: leading blanks and `0x` are fine.
fn hex(text: &[u8]) -> Option<u32> {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let text = text.get(blanks..)?;
    let digits = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")).unwrap_or(text);
    crate::hexadecimal(digits).and_then(|value| u32::try_from(value).ok())
}

impl fmt::Debug for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [segment, bus, device, function] = self.parts();
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The text is no PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseSbdfError;

impl fmt::Display for ParseSbdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI address (want [SEGMENT:]BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:03:00.0)")
    }
}

impl core::error::Error for ParseSbdfError {}

impl FromStr for Sbdf {
    type Err = ParseSbdfError;

    /// Reads `[SEGMENT:]BUS:DEVICE.FUNCTION` in hexadecimal, as `xl` takes it. Trailing newlines and a trailing NUL
    /// are tolerated (xenstore writers leave them), anything else behind the address is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ends = text.bytes().rev().take_while(|byte| matches!(byte, b'\n' | b'\0')).count();
        let text = text.as_bytes().get(..text.len() - ends).unwrap_or_default();
        Self::parse(text, [b':', b':', b'.']).ok_or(ParseSbdfError)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    fn sbdf(text: &str) -> Result<Sbdf, ParseSbdfError> {
        text.parse()
    }

    #[test]
    fn formats_are_those_of_libxl_and_pciback() {
        let address = Sbdf::new(0, 3, 0x1f, 7).unwrap();
        assert_eq!(address.to_string(), "0000:03:1f.7");
        assert_eq!(address.virtual_key().to_string(), "0000:03:1f.07");
        assert_eq!(address.path_component().to_string(), "0000-03-1f-7");
        assert_eq!(address.machine_sbdf(), 0x3ff);
    }

    #[test]
    fn every_written_form_reads_back() {
        for devfn in 0..=255 {
            let address = Sbdf::from_devfn(0xabcd, 0x9e, devfn);
            assert_eq!(sbdf(&address.to_string()), Ok(address));
            assert_eq!(sbdf(&address.virtual_key().to_string()), Ok(address));
            assert_eq!(Sbdf::parse_path_component(&address.path_component().to_string()), Ok(address));
        }
    }

    #[test]
    fn accepts_what_scanf_accepts() {
        let want = Sbdf::new(0, 3, 0, 1);
        for text in
            ["03:00.1", "3:0.1", "0000:03:00.1", "0000:03:00.01", " 0:3:0.1", "0x0:0x3:0x0.0x1", "0000:03:00.1\n"]
        {
            assert_eq!(sbdf(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            ".",
            ":",
            "03",
            "03:00",
            "03.0",
            "1:2:3:4.5",
            "00:20.0",
            "00:00.8",
            "100:00.0",
            "10000:00:00.0",
            "+3:00.0",
            "03:00.-1",
            "03:00.1x",
            "03:00.1 ",
            "zz:00.0",
            "03:00.",
            "03:.0",
            ":00.0",
            "03:00.0x",
        ] {
            assert_eq!(sbdf(text), Err(ParseSbdfError), "{text:?}");
        }
        for text in ["", "0000-03-00", "0000-03-00-1-1", "0000-03-20-0", "0000:03:00.1"] {
            assert_eq!(Sbdf::parse_path_component(text), Err(ParseSbdfError), "{text:?}");
        }
    }
}
