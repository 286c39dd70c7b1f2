//! Virtual configuration space: a guest's reads, and what its writes change.

use pci_registers::{ConfigSpace, Width, header, id, msi, msix};
use xen_types::Resource;

use crate::access::{Access, BadAccess};
use crate::base::{self, BaseRegister, RESOURCES};
use crate::layout::Layout;
use crate::policy::PolicyFlags;
use crate::register::{MAX_ENTRIES, Read, TABLE_SIZE, Write};
use crate::walk::{Fault, low};

/// Dwords of conventional configuration space: those that may hold anything of ours.
pub(crate) const DWORDS: usize = 64;
/// Dwords of the header; capabilities lie behind it.
pub(crate) const HEADER_DWORDS: usize = 16;
/// The dword of the ids.
const IDS: usize = dword_of(header::VENDOR_ID);
/// The dword of Command.
const COMMAND: usize = dword_of(header::COMMAND);
/// In [`VirtualConfig::guest_state`]: the first address register is being sized. The bits of the others follow.
const SIZED: u32 = 1 << 16;
/// The dword of Header Type, and the bit that tells of further functions in it.
const HEADER_TYPE: usize = dword_of(header::HEADER_TYPE);
const MULTI_FUNCTION: u32 = (header::MULTI_FUNCTION as u32) << 16;
/// The dword of Interrupt Line and Pin, and their places in it.
const INTERRUPT: usize = dword_of(header::INTERRUPT_LINE);
const INTERRUPT_LINE: u32 = 0xff;
const INTERRUPT_PIN: u32 = 0xff00;

/// The largest table as the register says it: one less.
const LAST_ENTRY: u32 = MAX_ENTRIES as u32 - 1;

/// The dword that a register of the header is in.
const fn dword_of(offset: u16) -> usize {
    offset as usize / 4
}

/// Description of a function beyond its own registers, from dom0.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Resources of the six base address registers and the ROM. `None` for the second half of a 64-bit register.
    pub resources: &'a [Option<Resource>; RESOURCES],
    /// Vendor and device id, as their dword, of a virtual function, whose own registers read as ones (PCIe 5.0 §9.3.4.1.1).
    pub ids: Option<u32>,
    /// The host's GSI, 0 where the function has no interrupt line.
    pub irq: u32,
    /// The admin's policy for it.
    pub policy_flags: PolicyFlags,
}

/// A guest's view of one function.
#[derive(Clone, Debug)]
pub struct VirtualConfig {
    /// Our bits of the first 256 bytes; every other bit is zero.
    pub(crate) own: [u32; DWORDS],
    /// Class of each dword.
    pub(crate) layout: Layout,
    /// The base address registers and the ROM.
    base: [BaseRegister; RESOURCES],
}

// A stub with 256 functions shall not need more than 112 KiB for them.
const _: () = assert!(size_of::<VirtualConfig>() <= 448);

impl VirtualConfig {
    /// Builds the view: reads the header and the capability lists of the function once.
    #[must_use]
    pub fn new(description: &Description<'_>, hw: &impl ConfigSpace) -> Self {
        Self::read_from(description, hw).0
    }

    /// The same, and what is wrong with the lists.
    #[must_use]
    pub fn read_from(description: &Description<'_>, hw: &impl ConfigSpace) -> (Self, Option<Fault>) {
        let (layout, capabilities, fault) = Layout::read_from(hw, description.policy_flags);
        let base = base::registers(description.resources);
        let mut config = Self { own: [0; DWORDS], layout, base };
        for (dword, offset) in (0..DWORDS).zip((0u16..).step_by(4)) {
            config.copy(hw, dword, offset);
        }
        if let Some(ids) = description.ids {
            config.set(IDS, u32::MAX, ids);
        }
        // The list as a guest sees it: its last pointer, wherever it led, ends it. Of a header in the middle of another capability's
        // registers we have no copy.
        let mut pointer = header::CAPABILITIES_POINTER;
        for capability in capabilities {
            let lines = config.layout.lines((capability.offset / 4).into());
            if lines.first().is_some_and(|line| (line.bytes, line.read) == (2, Read::Copy)) {
                config.set_byte(pointer, capability.offset);
                pointer = capability.offset + 1;
                if capability.id == id::MSI_X {
                    config.limit_table(usize::from(capability.offset / 4));
                }
            }
        }
        config.set_byte(pointer, 0);
        config.set_interrupt(description.irq);
        config.reset();
        (config, fault)
    }

    /// Forgets what a guest did: decode, parity, SERR# and INTx disable read 0 again, no address register is being sized.
    /// NetBSD enables a function only where both decode bits read 0; a guest must not see its predecessor's bits.
    pub fn reset(&mut self) {
        self.set(COMMAND, self.own_bits(COMMAND), 0);
        for dword in 0..HEADER_DWORDS {
            if let Some(register) = self.base_register(dword) {
                self.set(dword, u32::MAX, register.address);
            }
        }
    }

    /// What its guest's writes have left here and nowhere else: our bits of Command, and from bit 16 on which address registers are being sized.
    #[must_use]
    pub fn guest_state(&self) -> u32 {
        let mut state = self.own[COMMAND] & self.own_bits(COMMAND) & 0xffff;
        let mut bit = SIZED;
        for dword in 0..HEADER_DWORDS {
            if let Some(register) = self.base_register(dword) {
                state |= if self.own[dword] == register.address { 0 } else { bit };
                bit <<= 1;
            }
        }
        state
    }

    /// What its guest has in Command, as far as that is ours.
    #[must_use]
    pub fn command_state(&self) -> u32 {
        self.guest_state() & 0xffff
    }

    /// Brings a view that was just built to where another one was ([`VirtualConfig::guest_state`]).
    pub fn set_guest_state(&mut self, state: u32) {
        self.set(COMMAND, self.own_bits(COMMAND) & 0xffff, state);
        let mut bit = SIZED;
        for dword in 0..HEADER_DWORDS {
            if let Some(register) = self.base_register(dword) {
                self.set(dword, u32::MAX, if state & bit == 0 { register.address } else { register.size_mask });
                bit <<= 1;
            }
        }
    }

    /// Whether the function is to be seen as the only one of its slot, whatever it is really (PCI Local Bus 3.0 §6.2.1, Header Type).
    pub fn show_alone(&mut self, hw: &impl ConfigSpace, is_alone: bool) {
        self.copy(hw, HEADER_TYPE, header::HEADER_TYPE & !3);
        if is_alone {
            self.set(HEADER_TYPE, MULTI_FUNCTION, 0);
        }
    }

    /// Reads `size` bytes at `offset`, both as the frontend said them.
    ///
    /// # Errors
    /// When that is no access to this configuration space.
    pub fn read(&self, hw: &impl ConfigSpace, offset: i32, size: i32) -> Result<u32, BadAccess> {
        Ok(self.value(hw, &Access::check(offset, size, self.size())?))
    }

    /// As [`VirtualConfig::read`] of four bytes, on a shorter way; `None` where that is no access.
    #[must_use]
    #[inline(always)] // most reads are one of these
    pub fn read_dword(&self, hw: &impl ConfigSpace, offset: i32) -> Option<u32> {
        let offset = u16::try_from(offset).ok().filter(|offset| offset % 4 == 0 && *offset < self.size())?;
        let (own, ours) = self.ours((offset / 4).into());
        // Where all of it is ours the hardware is not touched.
        Some(if own == u32::MAX { ours } else { hw.read_config(offset, Width::Dword) & !own | ours })
    }

    /// Bytes of configuration space: 4096 where the function speaks PCI Express or PCI-X mode 2, else 256.
    #[must_use]
    #[inline(always)] // a part of each read
    pub const fn size(&self) -> u16 {
        self.layout.size
    }

    /// Value of the guest's Interrupt Line register, which it takes as its pirq; 0 for none.
    #[must_use]
    pub fn interrupt_line(&self) -> u8 {
        self.own[INTERRUPT].to_le_bytes()[0]
    }

    /// Number of MSI vectors, a power of two up to 32; 0 without the capability (PCI Local Bus 3.0 §6.8.1.3).
    #[must_use]
    pub fn msi_vectors(&self, hw: &impl ConfigSpace) -> u32 {
        self.interrupt_control(Write::MsiControl, hw).map_or(0, msi::vectors)
    }

    /// Entries of the MSI-X table that a guest sees, up to [`MAX_ENTRIES`]; 0 without the capability (PCI Local Bus 3.0 §6.8.2.3).
    #[must_use]
    pub fn msix_entries(&self, hw: &impl ConfigSpace) -> u32 {
        let shown = |control| msix::entries(control).min(MAX_ENTRIES).into();
        self.interrupt_control(Write::MsixControl, hw).map_or(0, shown)
    }

    /// Makes a table that is too large for a frontend as large as can be, in our copy of the capability's first dword.
    fn limit_table(&mut self, dword: usize) {
        if let Some(own) = self.own.get_mut(dword) {
            let size = (*own >> 16 & TABLE_SIZE).min(LAST_ENTRY);
            *own = *own & !(TABLE_SIZE << 16) | size << 16;
        }
    }

    /// The control word of one of the interrupt capabilities.
    pub(crate) fn interrupt_control(&self, control: Write, hw: &impl ConfigSpace) -> Option<u16> {
        let is_it = |dword: &usize| self.layout.lines(*dword).iter().any(|line| line.write == control);
        let dword = (HEADER_DWORDS..DWORDS).find(is_it)?;
        let offset = u16::try_from(dword * 4).ok()? + msi::CONTROL; // MSI-X has it at the same place
        Some(low(hw.read_config(offset, Width::Word)))
    }

    /// Which bits of a dword are ours, and these.
    #[inline(always)] // a part of each read
    fn ours(&self, dword: usize) -> (u32, u32) {
        match self.own.get(dword) {
            Some(ours) => (self.own_bits(dword), *ours),
            None => self.layout.extended_value(dword).map_or((0, 0), |value| (u32::MAX, value)),
        }
    }

    /// Value of a read of `access`.
    pub(crate) fn value(&self, hw: &impl ConfigSpace, access: &Access) -> u32 {
        let (own, ours) = self.ours(access.dword);
        let (own, ours, bits) = (own >> access.shift, ours >> access.shift, access.width.bits());
        if bits & !own == 0 {
            return ours & bits;
        }
        // Read as wide as the guest asks, as real hardware would be.
        (hw.read_config(access.offset, access.width) & !own | ours) & bits
    }

    /// The bits of a dword of the first 256 bytes that are answered from our copy.
    #[inline(always)] // a part of each read
    pub(crate) fn own_bits(&self, dword: usize) -> u32 {
        self.layout.slot(dword).own()
    }

    /// Takes what is ours of a dword of the hardware.
    fn copy(&mut self, hw: &impl ConfigSpace, dword: usize, offset: u16) {
        let mask = self.copied_bits(dword);
        if mask != 0 {
            self.set(dword, mask, hw.read_config(offset, Width::Dword));
        }
    }

    /// Virtual bits that were copied from the device.
    fn copied_bits(&self, dword: usize) -> u32 {
        let mut bits = 0;
        for line in self.layout.lines(dword) {
            bits |= line.read.copied(self.layout.policy_flags) << line.shift() & line.mask();
        }
        bits
    }

    /// Changes the bits of `mask` in our copy of a dword.
    pub(crate) fn set(&mut self, dword: usize, mask: u32, value: u32) {
        if let Some(own) = self.own.get_mut(dword) {
            *own = *own & !mask | value & mask;
        }
    }

    fn set_byte(&mut self, offset: u16, value: u16) {
        let shift = u32::from(offset % 4) * 8;
        self.set(usize::from(offset / 4), 0xff << shift, u32::from(value) << shift);
    }

    /// The address register, or the half of one, in a dword of the header.
    pub(crate) fn base_register(&self, dword: usize) -> Option<BaseRegister> {
        const FIRST_BASE: usize = dword_of(header::BASE_ADDRESS_0);
        const LAST_BASE: usize = FIRST_BASE + RESOURCES - 2;
        const ROM: usize = dword_of(header::EXPANSION_ROM);
        let register = match dword {
            FIRST_BASE..=LAST_BASE => dword - FIRST_BASE,
            ROM => RESOURCES - 1,
            _ => return None,
        };
        self.base.get(register).copied()
    }

    /// A guest takes the line's number for its pirq, so it must be the GSI that the tool mapped, which is at most 254. Any
    /// other function shows no interrupt at all: line 0 and pin 0, so a driver does not go looking for one. (The 255
    /// that a PC's firmware writes for "unknown" would be taken for a pirq by Linux.)
    fn set_interrupt(&mut self, irq: u32) {
        match u8::try_from(irq) {
            Ok(line @ 1..=254) => self.set(INTERRUPT, INTERRUPT_LINE, line.into()),
            _ => self.set(INTERRUPT, INTERRUPT_LINE | INTERRUPT_PIN, 0),
        }
    }
}
