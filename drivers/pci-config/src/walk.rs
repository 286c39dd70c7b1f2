//! The two lists of capabilities: the conventional one (PCI Local Bus 3.0 §6.7) and the extended one (PCIe 5.0 §7.6.3).
//! One function walks both, because both are chains of offsets that the device supplies.

use pci_registers::{CONVENTIONAL, ConfigSpace, EXTENDED, Width, header, id, pci_x, status};

/// Status bit: there is a capability list.
const STATUS_CAPABILITIES: u32 = status::CAPABILITIES_LIST as u32;
/// An id that means that the function does not answer (any more).
const GONE: u8 = 0xff;
const GONE_STATUS: u32 = 0xffff;

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Where its header is; a multiple of four, behind the header or in the extended space.
    pub offset: u16,
    /// What it is.
    pub id: u16,
    /// Its first dword, as it was read.
    pub header: u32,
}

impl Capability {
    /// Of a conventional one: the control word behind its header, as it was read.
    #[must_use]
    pub const fn control(&self) -> u16 {
        low(self.header >> 16)
    }

    /// True where this capability tells that the function has 4096 bytes of configuration space.
    pub fn is_extended(&self, hw: &impl ConfigSpace) -> bool {
        match self.id {
            id::PCI_EXPRESS => true,
            // Behind one that claims to be at the very end there is nothing of it.
            id::PCI_X if self.offset + pci_x::STATUS == EXTENDED => false,
            id::PCI_X => hw.read_config(self.offset + pci_x::STATUS, Width::Dword) & pci_x::MODE_2 != 0,
            _ => false,
        }
    }
}

/// Whether one of these capabilities tells of 4096 bytes of configuration space, and they are there: behind some bridges the first 256 bytes
/// come again and again instead (a conventional bus, whose bridge drops the upper bits of the offset).
pub(crate) fn has_extended_space(hw: &impl ConfigSpace, mut capabilities: impl Iterator<Item = Capability>) -> bool {
    capabilities.any(|capability| capability.is_extended(hw)) && !is_repeated(hw)
}

/// Whether each 256 bytes begin with the same ids.
fn is_repeated(hw: &impl ConfigSpace) -> bool {
    let ids = hw.read_config(0, Width::Dword);
    // A virtual function has none, and an extended space that does not answer is no repetition.
    ids != u32::MAX && (1..16).all(|page| hw.read_config(page * EXTENDED, Width::Dword) == ids)
}

/// A list that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The bad pointer: to a capability already visited, into the header, or to one that does not answer.
    pub pointer: u16,
}

/// Walks a list. It ends where a pointer leads into the header, where the function does not answer, or where it has been
/// before: so after 48 steps at most, or 960, whatever the device says.
#[derive(Debug)]
pub struct Walk<'a, H> {
    hw: &'a H,
    is_extended: bool,
    pointer: u16,
    /// A bit for each dword that was a capability.
    seen: [u64; 16],
    fault: Option<Fault>,
}

impl<'a, H: ConfigSpace> Walk<'a, H> {
    /// The list behind the header.
    pub fn conventional(hw: &'a H) -> Self {
        let status = hw.read_config(header::STATUS, Width::Word);
        let has_list = status & STATUS_CAPABILITIES != 0 && status != GONE_STATUS;
        let pointer = if has_list { hw.read_config(header::CAPABILITIES_POINTER, Width::Byte) } else { 0 };
        Self::new(hw, false, low(pointer & 0xfc))
    }

    /// The list in the extended space, for functions that have one.
    pub fn extended(hw: &'a H) -> Self {
        // A list that does not exist: ones where nothing answers behind the first 256 bytes, zeros where there are no capabilities.
        let first = hw.read_config(EXTENDED, Width::Dword);
        Self::new(hw, true, if first == 0 || first == u32::MAX { 0 } else { EXTENDED })
    }

    const fn new(hw: &'a H, is_extended: bool, pointer: u16) -> Self {
        Self { hw, is_extended, pointer, seen: [0; 16], fault: None }
    }

    /// The fault that ended the walk, if one did.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }
}

impl<H: ConfigSpace> Iterator for Walk<'_, H> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let offset = core::mem::take(&mut self.pointer);
        if offset == 0 {
            return None;
        }
        let first = if self.is_extended { EXTENDED } else { CONVENTIONAL };
        let bit = 1u64 << (offset / 4 % 64);
        let seen = self.seen.get_mut(usize::from(offset / 256))?; // always there: offsets are below 4096
        let header = self.hw.read_config(offset, Width::Dword);
        let [low_id, ..] = header.to_le_bytes();
        // Of an extended id only the lower half is looked at: no id ends in ff.
        if offset < first || *seen & bit != 0 || low_id == GONE {
            self.fault = Some(Fault { pointer: offset });
            return None;
        }
        *seen |= bit;
        let (id, next) =
            if self.is_extended { (low(header), header >> 20) } else { (low_id.into(), header >> 8 & 0xff) };
        self.pointer = low(next) & !3; // the low two bits are reserved
        Some(Capability { offset, id, header })
    }
}

/// The lower half.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
pub(crate) const fn low(value: u32) -> u16 {
    value as u16
}
