//! What a frontend may ask for: 1, 2 or 4 aligned bytes inside the configuration space.

use thiserror::Error;

use crate::packed::Line;
use pci_registers::Width;

/// A checked access. It never crosses a dword, because it is aligned to its own width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// First byte, below the size of the space.
    pub offset: u16,
    /// Bytes.
    pub width: Width,
    /// Which dword of the space.
    pub dword: usize,
    /// Offset of the access in its dword, in bits.
    pub shift: u32,
    /// The bits of the dword that are accessed.
    pub mask: u32,
}

/// Why something is no access to a configuration space (all are `XEN_PCI_ERR_invalid_offset`, docs/protocol.md §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadAccess {
    /// The size is not 1, 2 or 4.
    #[error("bad size")]
    Size,
    /// The offset is negative or not a multiple of the size. Linux's backend lets negative offsets through, which can reach
    /// a neighbouring function.
    #[error("bad offset")]
    Offset,
    /// The register lies behind the end of the space: the extended space of a function that has none, or beyond 4096.
    #[error("past the end of the configuration space")]
    PastEnd,
}

impl Access {
    pub(crate) fn check(offset: i32, size: i32, space: u16) -> Result<Self, BadAccess> {
        let width = Width::from_bytes(size.cast_unsigned()).ok_or(BadAccess::Size)?;
        if offset < 0 || offset % size != 0 {
            return Err(BadAccess::Offset);
        }
        // Aligned and below the end, so it ends inside: the space's size is a multiple of four.
        let offset = u16::try_from(offset).ok().filter(|offset| *offset < space).ok_or(BadAccess::PastEnd)?;
        let shift = u32::from(offset % 4) * 8;
        Ok(Self { offset, width, dword: usize::from(offset / 4), shift, mask: width.bits() << shift })
    }

    /// The access to the whole of a register in the same dword.
    pub(crate) fn whole(&self, line: &Line) -> Self {
        let width = Width::from_bytes(line.bytes.into()).unwrap_or(Width::Dword);
        let offset = (self.offset & !3).saturating_add((line.at % 4).into());
        Self { offset, width, dword: self.dword, shift: line.shift(), mask: line.mask() }
    }
}
