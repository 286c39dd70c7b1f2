//! The configuration space that a guest sees of a function that was lent to it (pci-protocol §4.2 and §6).
//!
//! Every register is either real or ours. The tables in `rules.rs` say which bits of each dword are ours, and what a write
//! does to each field; [`VirtualConfig`] holds our bits of the first 256 bytes in one array, so a read is one mask: what is
//! ours comes from the array, what is not comes from the hardware, and where all is ours the hardware is not touched. Bits
//! are ours for one of two reasons: they are virtual (address registers, decode enables, interrupt line), or they cannot
//! change and asking again would cost time and trust (ids, class, capability headers).
//!
//! A write changes our bits at once. What remains for the hardware is returned as [`HardwareWrite`]s: this module never
//! writes to a device.
//!
//! The device is not trusted either: its capability list may loop or leave the space, and what it reads may change. The
//! walk is bounded, a register's meaning is fixed when the function is lent, and no value read indexes anything unchecked.

mod access;
mod base;
mod capabilities;
mod checks;
mod rules;
mod write;

pub use access::BadAccess;
pub(crate) use checks::is_absent;
pub use checks::{NotQuiet, Unservable};
pub use write::{Denied, HardwareWrite, Register, WriteError, WriteOutcome};

use crate::device::{DeviceInfo, RESOURCES};
use crate::platform::{ConfigSpace, Width};
use access::Access;
use base::BaseRegister;
use capabilities::{Capabilities, Capability, id};
use rules::{Dword, Slot};

/// Dwords of conventional configuration space: those that may hold anything of ours.
const DWORDS: usize = 64;
/// Dwords of the header; capabilities lie behind it.
const HEADER_DWORDS: usize = 16;

/// A guest's view of one function.
#[derive(Clone, Debug)]
pub struct VirtualConfig {
    /// Our bits of the first 256 bytes; every other bit is zero.
    own: [u32; DWORDS],
    /// What each dword behind the header is.
    slots: [Slot; DWORDS - HEADER_DWORDS],
    /// The base address registers and the ROM.
    base: [BaseRegister; RESOURCES],
    /// 4096 bytes of configuration space instead of 256.
    is_extended: bool,
}

// A stub with 256 functions shall not need more than 100 KiB for them.
const _: () = assert!(size_of::<VirtualConfig>() <= 400);

impl VirtualConfig {
    /// Builds the view: reads the header and the capability list of the function once.
    #[must_use]
    pub fn new(info: &DeviceInfo, hw: &impl ConfigSpace) -> Self {
        let mut config = Self {
            own: [0; DWORDS],
            slots: [Slot::Raw; DWORDS - HEADER_DWORDS],
            base: base::registers(info.resources()),
            is_extended: false,
        };
        for (dword, offset) in (0..HEADER_DWORDS).zip((0u16..).step_by(4)) {
            config.copy(dword, hw.read_config(offset, Width::Dword));
        }
        for capability in Capabilities::new(hw) {
            config.is_extended |= capability.is_extended(hw);
            config.claim(&capability, hw);
        }
        config.set_interrupt(info.irq());
        config.reset();
        config
    }

    /// Forgets what a guest did: decode, parity, SERR# and INTx disable read 0 again, no address register is being sized.
    /// NetBSD enables a function only where both decode bits read 0; a guest must not see its predecessor's bits.
    pub fn reset(&mut self) {
        self.set(rules::COMMAND, rules::VIRTUAL_COMMAND, 0);
        for (dword, register) in rules::BASE.into_iter().zip(self.base) {
            self.set(dword, u32::MAX, register.address);
        }
    }

    /// Whether the function is to be seen as the only one of its slot, whatever it is really (PCI Local Bus 3.0 §6.2.1, Header Type).
    pub fn show_alone(&mut self, hw: &impl ConfigSpace, is_alone: bool) {
        let hidden = if is_alone { rules::MULTI_FUNCTION } else { 0 };
        self.copy(rules::HEADER_TYPE, hw.read_config(0x0c, Width::Dword) & !hidden);
    }

    /// Reads `size` bytes at `offset`, both as the frontend said them.
    ///
    /// # Errors
    /// When that is no access to this configuration space.
    pub fn read(&self, hw: &impl ConfigSpace, offset: i32, size: i32) -> Result<u32, BadAccess> {
        let access = Access::check(offset, size, self.size())?;
        Ok(self.read_dword_bits(hw, &access) >> access.shift)
    }

    /// Writes the low `size` bytes of `value` at `offset`. Our own bits have changed afterwards; what remains for the
    /// hardware is in the outcome.
    ///
    /// # Errors
    /// When that is no access to this configuration space, or the policy forbids it. Nothing has changed then.
    pub fn write(
        &mut self,
        hw: &impl ConfigSpace,
        offset: i32,
        size: i32,
        value: u32,
    ) -> Result<WriteOutcome, WriteError> {
        let access = Access::check(offset, size, self.size())?;
        self.write_fields(hw, &access, value)
    }

    /// Bytes of configuration space: 4096 where the function speaks PCI Express or PCI-X mode 2, else 256.
    #[must_use]
    pub const fn size(&self) -> u16 {
        if self.is_extended { 4096 } else { 256 }
    }

    /// What a guest finds in its Interrupt Line register, which it takes as the number of its pirq; 0 for none.
    #[must_use]
    pub fn interrupt_line(&self) -> u8 {
        self.own[rules::INTERRUPT].to_le_bytes()[0]
    }

    /// How many vectors MSI can have here, a power of two up to 32; 0 without the capability (PCI Local Bus 3.0 §6.8.1.3).
    #[must_use]
    pub fn msi_vectors(&self, hw: &impl ConfigSpace) -> u32 {
        self.interrupt_control(id::MSI, hw).map_or(0, |control| 1 << (control >> 1 & 7).min(5))
    }

    /// Entries of the MSI-X table, up to 2048; 0 without the capability (PCI Local Bus 3.0 §6.8.2.3).
    #[must_use]
    pub fn msix_entries(&self, hw: &impl ConfigSpace) -> u32 {
        self.interrupt_control(id::MSI_X, hw).map_or(0, |control| (control & 0x7ff) + 1)
    }

    /// The control word of one of the interrupt capabilities.
    fn interrupt_control(&self, id: u8, hw: &impl ConfigSpace) -> Option<u32> {
        let behind = self.own.get(HEADER_DWORDS..)?;
        let is_it = |(slot, own): (&Slot, &u32)| *slot == Slot::InterruptHeader && own.to_le_bytes()[0] == id;
        let dword = HEADER_DWORDS + self.slots.iter().zip(behind).position(is_it)?;
        Some(hw.read_config(u16::try_from(dword * 4).ok()? + 2, Width::Word))
    }

    /// The bits of `access`, at their places in their dword.
    fn read_dword_bits(&self, hw: &impl ConfigSpace, access: &Access) -> u32 {
        let own = self.rule(access.dword).own;
        let ours = self.own.get(access.dword).copied().unwrap_or(0);
        if access.mask & !own == 0 {
            return ours & access.mask;
        }
        // Read as wide as the guest asks, as real hardware would be.
        let real = hw.read_config(access.offset, access.width) << access.shift;
        (real & !own | ours) & access.mask
    }

    fn rule(&self, dword: usize) -> &'static Dword {
        match dword.checked_sub(HEADER_DWORDS) {
            None => rules::HEADER.get(dword).unwrap_or(&rules::RAW),
            Some(behind) => self.slots.get(behind).map_or(&rules::RAW, |slot| slot.rule()),
        }
    }

    /// Takes what is ours of a dword that was read from the hardware.
    fn copy(&mut self, dword: usize, real: u32) {
        let rule = self.rule(dword);
        if let Some(own) = self.own.get_mut(dword) {
            *own = real & rule.own & !rule.zero;
        }
    }

    /// Changes the bits of `mask` in our copy of a dword.
    fn set(&mut self, dword: usize, mask: u32, value: u32) {
        if let Some(own) = self.own.get_mut(dword) {
            *own = *own & !mask | value & mask;
        }
    }

    /// A guest takes the line's number for its pirq, so it must be the GSI that the tool mapped, which is at most 254. Any
    /// other function shows no interrupt at all: line 0 and pin 0, so a driver does not go looking for one. (The 255
    /// that a PC's firmware writes for "unknown" would be taken for a pirq by Linux.)
    fn set_interrupt(&mut self, irq: u32) {
        match u8::try_from(irq) {
            Ok(line @ 1..=254) => self.set(rules::INTERRUPT, rules::INTERRUPT_LINE, line.into()),
            _ => self.set(rules::INTERRUPT, rules::INTERRUPT_LINE | rules::INTERRUPT_PIN, 0),
        }
    }

    /// Notes what the dwords of a capability are. A dword that another capability claimed before keeps its meaning.
    fn claim(&mut self, capability: &Capability, hw: &impl ConfigSpace) {
        let first = usize::from(capability.offset / 4);
        for (dword, slot) in (first..).zip(rules::capability(capability.id())) {
            let Some(place @ Slot::Raw) = dword.checked_sub(HEADER_DWORDS).and_then(|at| self.slots.get_mut(at)) else {
                continue;
            };
            *place = *slot;
            if let Ok(offset) = u16::try_from(dword * 4) {
                self.copy(dword, hw.read_config(offset, Width::Dword));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
