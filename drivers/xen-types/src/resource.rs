//! What a base address register of a device decodes.

use core::fmt;
use core::str::FromStr;

/// Kind of register that claims a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Mem32,
    /// Memory below 4 GiB, prefetchable.
    Mem32Prefetch,
    /// Memory behind a 64-bit register, which takes two of the six.
    Mem64,
    /// Memory behind a 64-bit register, prefetchable.
    Mem64Prefetch,
    /// Expansion ROM.
    Rom,
}

impl ResourceKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Io, Self::Mem32, Self::Mem32Prefetch, Self::Mem64, Self::Mem64Prefetch, Self::Rom];

    /// The word in a resource's text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Mem32 => "mem32",
            Self::Mem32Prefetch => "mem32p",
            Self::Mem64 => "mem64",
            Self::Mem64Prefetch => "mem64p",
            Self::Rom => "rom",
        }
    }

    /// True where the register is 64 bits wide and the next one holds its upper half.
    #[must_use]
    pub const fn is_64bit(self) -> bool {
        matches!(self, Self::Mem64 | Self::Mem64Prefetch)
    }

    /// The smallest range of this kind, in bytes: the lower address bits of a memory register are taken by flags
    /// (PCI Local Bus 3.0 §6.2.5). Ports need no register: a device decodes single ones too.
    const fn min_size(self) -> u64 {
        match self {
            Self::Io => 1,
            Self::Rom => 0x800,
            _ => 0x10,
        }
    }

    /// The last address that such a register can decode. x86 has 16 bits of I/O ports.
    const fn last_address(self) -> u64 {
        match self {
            Self::Io => 0xffff,
            Self::Mem32 | Self::Mem32Prefetch | Self::Rom => 0xffff_ffff,
            Self::Mem64 | Self::Mem64Prefetch => u64::MAX,
        }
    }
}

/// A range of memory or I/O ports that a device decodes: never empty, within reach of its register and not at address 0
/// (which means "not assigned"). Memory is naturally aligned, and as large as a base address register can claim it; a range of
/// ports begins anywhere and has any size.
///
/// Displays and parses as `0xfeb00000 0x1000 mem32`, first address, size and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    start: u64,
    size: u64,
    kind: ResourceKind,
}

impl Resource {
    /// Builds a range from its first address, its size in bytes and its kind.
    ///
    /// # Errors
    /// When no device can decode that range.
    pub const fn new(start: u64, size: u64, kind: ResourceKind) -> Result<Self, ResourceError> {
        let is_memory = !matches!(kind, ResourceKind::Io);
        if size < kind.min_size() || is_memory && !size.is_power_of_two() {
            return Err(ResourceError::Size);
        }
        if start == 0 || is_memory && start & (size - 1) != 0 {
            return Err(ResourceError::Start);
        }
        match start.checked_add(size - 1) {
            Some(last) if last <= kind.last_address() => Ok(Self { start, size, kind }),
            _ => Err(ResourceError::OutOfReach),
        }
    }

    /// First address: a bus address, or a port number.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Bytes, a power of two; or ports.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The register's kind.
    #[must_use]
    pub const fn kind(self) -> ResourceKind {
        self.kind
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {:#x} {}", self.start, self.size, self.kind.name())
    }
}

/// Why something is no [`Resource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceError {
    /// Not of the form `START SIZE KIND` with hexadecimal numbers after `0x`.
    Syntax,
    /// The range is empty, or memory of a size that no register can claim.
    Size,
    /// The start is zero, or that of memory which is not aligned to its size.
    Start,
    /// The range ends beyond what such a register can address.
    OutOfReach,
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "not a resource (want START SIZE KIND, such as 0xfeb00000 0x1000 mem32)",
            Self::Size => "the size of the resource is no power of two, or too small for its kind",
            Self::Start => "the resource is not assigned or not aligned to its size",
            Self::OutOfReach => "the resource ends beyond what its register can address",
        })
    }
}

impl core::error::Error for ResourceError {}

impl FromStr for Resource {
    type Err = ResourceError;

    /// Reads exactly what is displayed: one blank between the parts and nothing around them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.as_bytes().split(|byte| *byte == b' ');
        let (Some(start), Some(size), Some(kind), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ResourceError::Syntax);
        };
        let is_it = |candidate: &ResourceKind| candidate.name().as_bytes() == kind;
        let kind = ResourceKind::ALL.into_iter().find(is_it).ok_or(ResourceError::Syntax)?;
        Self::new(number(start)?, number(size)?, kind)
    }
}

fn number(text: &[u8]) -> Result<u64, ResourceError> {
    text.strip_prefix(b"0x").and_then(crate::hexadecimal).ok_or(ResourceError::Syntax)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn text_is_the_one_of_the_pool_nodes() {
        let resource = Resource::new(0xfeb0_0000, 0x1000, ResourceKind::Mem32).unwrap();
        assert_eq!(resource.to_string(), "0xfeb00000 0x1000 mem32");
    }

    #[test]
    fn every_kind_and_size_reads_back() {
        for kind in ResourceKind::ALL {
            for shift in 0..64 {
                let size = 1u64 << shift;
                if let Ok(resource) = Resource::new(size, size, kind) {
                    assert_eq!(resource.to_string().parse(), Ok(resource));
                }
            }
        }
    }

    #[test]
    fn ranges_that_no_register_can_claim_are_refused() {
        use ResourceError::{OutOfReach, Size, Start};
        for (text, want) in [
            ("0x1000 0x0 mem32", Size),
            ("0x1000 0x300 mem32", Size),
            ("0x1000 0x8 mem64", Size),
            ("0x1000 0x0 io", Size),
            ("0x1000 0x400 rom", Size),
            ("0x0 0x1000 mem32", Start),
            ("0x800 0x1000 mem32", Start),
            ("0x0 0x1 io", Start),
            ("0x10000 0x20 io", OutOfReach),
            ("0xfff8 0x9 io", OutOfReach),
            ("0x100000000 0x1000 mem32", OutOfReach),
            ("0x100000000 0x1000 mem32p", OutOfReach),
            ("0x100000000 0x1000 rom", OutOfReach),
        ] {
            assert_eq!(text.parse::<Resource>(), Err(want), "{text}");
        }
    }

    #[test]
    fn ranges_that_just_fit_are_accepted() {
        for text in [
            "0xffe0 0x20 io",
            "0x4 0x4 io",
            "0x3f6 0x1 io",
            "0x1f1 0x7 io",
            "0xffff 0x1 io",
            "0xfffffff0 0x10 mem32",
            "0x80000000 0x80000000 mem32p",
            "0xfffffffffffffff0 0x10 mem64",
            "0x8000000000000000 0x8000000000000000 mem64p",
            "0xfffff800 0x800 rom",
        ] {
            assert_eq!(text.parse::<Resource>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn any_other_text_is_refused() {
        for text in [
            "",
            "0x1000 0x1000",
            "0x1000 0x1000 mem",
            "0x1000 0x1000 MEM32",
            "0x1000 0x1000 mem32 ",
            " 0x1000 0x1000 mem32",
            "0x1000  0x1000 mem32",
            "0x1000 0x1000 mem32\n",
            "1000 0x1000 mem32",
            "0x1000 4096 mem32",
            "0x 0x1000 mem32",
            "0x+1000 0x1000 mem32",
            "0x10000000000000000 0x1000 mem64",
        ] {
            assert_eq!(text.parse::<Resource>(), Err(ResourceError::Syntax), "{text:?}");
        }
    }
}
