//! The real configuration space of one function, as far as it is read.

/// Width of one configuration access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    Byte = 1,
    /// Two bytes, at an even offset.
    Word = 2,
    /// Four bytes, at an offset divisible by four.
    Dword = 4,
}

impl Width {
    /// The width of so many bytes.
    #[must_use]
    #[inline(always)]
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            _ => None,
        }
    }

    /// The bits of a register of this width.
    #[must_use]
    pub const fn bits(self) -> u32 {
        u32::MAX >> (32 - 8 * self as u32)
    }
}

/// Reads of one function's real configuration space.
pub trait ConfigSpace {
    /// Reads the register at `offset` (0 to 4095, a multiple of the width). Bits above the width are zero. A function that is
    /// gone reads as all ones.
    fn read_config(&self, offset: u16, width: Width) -> u32;
}
