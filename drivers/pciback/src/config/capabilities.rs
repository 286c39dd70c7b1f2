//! The capability list of conventional configuration space (PCI Local Bus 3.0 §6.7).

use crate::platform::{ConfigSpace, Width};

/// Capability ids (PCI-SIG, "PCI Code and ID Assignment").
pub(super) mod id {
    pub(in super::super) const POWER_MANAGEMENT: u8 = 0x01;
    pub(in super::super) const VPD: u8 = 0x03;
    pub(in super::super) const MSI: u8 = 0x05;
    pub(in super::super) const PCI_X: u8 = 0x07;
    pub(in super::super) const PCI_EXPRESS: u8 = 0x10;
    pub(in super::super) const MSI_X: u8 = 0x11;
}

const STATUS: u16 = 0x06;
/// Status bit: there is a capability list.
const STATUS_CAPABILITIES: u32 = 0x10;
const POINTER: u16 = 0x34;
/// Capabilities lie behind the header.
const FIRST: u8 = 0x40;
/// An id that means the function does not answer (any more).
const GONE: u8 = 0xff;
/// PCI-X status, from the capability's start (PCI-X Protocol Addendum 2.0 §7.2.4), and its bits for 266 and 533 MHz, that is,
/// for mode 2, in which there is extended configuration space.
const PCI_X_STATUS: u16 = 4;
const PCI_X_MODE_2: u32 = 0xc000_0000;

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capability {
    /// Where its header is; a multiple of four, 0x40 or higher.
    pub offset: u8,
    /// Id in the low byte, the next capability's offset in the high one.
    header: u16,
}

impl Capability {
    pub(super) const fn id(&self) -> u8 {
        self.header.to_le_bytes()[0]
    }

    const fn next(&self) -> u8 {
        self.header.to_le_bytes()[1]
    }

    /// True where this capability tells that the function has 4096 bytes of configuration space.
    pub(super) fn is_extended(&self, hw: &impl ConfigSpace) -> bool {
        match self.id() {
            id::PCI_EXPRESS => true,
            id::PCI_X => hw.read_config(u16::from(self.offset) + PCI_X_STATUS, Width::Dword) & PCI_X_MODE_2 != 0,
            _ => false,
        }
    }
}

/// Walks the list. It ends where a pointer leads into the header, where the function does not answer, or where it has been
/// before: so after 48 steps at most, whatever the device says.
#[derive(Debug)]
pub(super) struct Capabilities<'a, H> {
    hw: &'a H,
    pointer: u8,
    /// A bit for each dword that was a capability.
    seen: u64,
}

impl<'a, H: ConfigSpace> Capabilities<'a, H> {
    pub(super) fn new(hw: &'a H) -> Self {
        let has_list = hw.read_config(STATUS, Width::Word) & STATUS_CAPABILITIES != 0;
        let pointer = if has_list { low_byte(hw.read_config(POINTER, Width::Byte)) } else { 0 };
        Self { hw, pointer, seen: 0 }
    }
}

impl<H: ConfigSpace> Iterator for Capabilities<'_, H> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let offset = self.pointer & !3; // the low two bits are reserved
        let bit = 1u64 << (offset / 4);
        if offset < FIRST || self.seen & bit != 0 {
            return None;
        }
        self.seen |= bit;
        let [id, next, ..] = self.hw.read_config(offset.into(), Width::Word).to_le_bytes();
        if id == GONE {
            return None;
        }
        let capability = Capability { offset, header: u16::from_le_bytes([id, next]) };
        self.pointer = capability.next();
        Some(capability)
    }
}

fn low_byte(value: u32) -> u8 {
    value.to_le_bytes()[0]
}
