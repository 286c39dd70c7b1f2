//! The two lists of capabilities: the conventional one (PCI Local Bus 3.0 §6.7) and the extended one (PCIe 5.0 §7.6.3). One walk
//! knows both, because both are chains of offsets that a device makes up.

use crate::space::{ConfigSpace, Width};

/// Capability ids (PCI-SIG, "PCI Code and ID Assignment").
pub mod id {
    /// Power management.
    pub const POWER_MANAGEMENT: u16 = 0x01;
    /// Vital product data.
    pub const VPD: u16 = 0x03;
    /// Message signalled interrupts.
    pub const MSI: u16 = 0x05;
    /// PCI-X.
    pub const PCI_X: u16 = 0x07;
    /// PCI Express.
    pub const PCI_EXPRESS: u16 = 0x10;
    /// MSI-X.
    pub const MSI_X: u16 = 0x11;
    /// Advanced Features of conventional PCI: function level reset.
    pub const ADVANCED_FEATURES: u16 = 0x13;
}

const STATUS: u16 = 0x06;
/// Status bit: there is a capability list.
const STATUS_CAPABILITIES: u32 = 0x10;
/// Capabilities Pointer.
pub(crate) const POINTER: u16 = 0x34;
/// Where capabilities can begin, and where the space of either list ends.
pub(crate) const CONVENTIONAL: u16 = 0x40;
pub(crate) const EXTENDED: u16 = 0x100;
/// An id that means that the function does not answer (any more).
const GONE: u8 = 0xff;
const GONE_STATUS: u32 = 0xffff;
/// PCI-X status, from the capability's start (PCI-X Protocol Addendum 2.0 §7.2.4), and its bits for 266 and 533 MHz, that is,
/// for mode 2, in which there is extended configuration space.
const PCI_X_STATUS: u16 = 4;
const PCI_X_MODE_2: u32 = 0xc000_0000;

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
    /// True where this capability tells that the function has 4096 bytes of configuration space.
    pub fn is_extended(&self, hw: &impl ConfigSpace) -> bool {
        match self.id {
            id::PCI_EXPRESS => true,
            // Behind one that claims to be at the very end there is nothing of it.
            id::PCI_X if self.offset + PCI_X_STATUS == EXTENDED => false,
            id::PCI_X => hw.read_config(self.offset + PCI_X_STATUS, Width::Dword) & PCI_X_MODE_2 != 0,
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
    /// Where the last good pointer led: to a capability that is there already, into the header, or to one that does not answer.
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
        let status = hw.read_config(STATUS, Width::Word);
        let has_list = status & STATUS_CAPABILITIES != 0 && status != GONE_STATUS;
        let pointer = if has_list { hw.read_config(POINTER, Width::Byte) } else { 0 };
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

    /// What was wrong, once the walk has ended.
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
