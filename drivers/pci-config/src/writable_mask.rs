//! The bits of a function that permissive mode and quirks may open: the permissive column of the table, applied to the
//! function's capabilities. Used in dom0 only; the driver domain passes on what it would drop, and the broker decides.

use alloc::vec::Vec;
use core::ops::Range;

use crate::layout::list;
use crate::policy::{Policy, Quirk};
use crate::register::{Block, Length, Place, Rest, Write, field_mask};
use crate::table::blocks;
use crate::walk::{Capability, Walk, has_extended_space};
use pci_registers::{CONVENTIONAL, ConfigSpace, EXTENDED, EXTENDED_BYTES, Width, express, id, msi, msix};

/// The bits of a dword that can be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// These.
    pub bits: u32,
    /// Bits that must be written as zeros where they are not to change, because a one clears them.
    pub ones_clear: u32,
}

const EVERYTHING: Open = Open { bits: u32::MAX, ones_clear: 0 };
const NOTHING: Open = Open { bits: 0, ones_clear: 0 };
/// Dwords of the whole space.
const DWORDS: u16 = EXTENDED_BYTES / 4;

/// A write that a policy allows: all of it at one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedWrite {
    /// Where.
    pub offset: u16,
    /// How wide.
    pub width: Width,
    /// The bits that may change.
    pub mask: u32,
    /// Their new value.
    pub value: u32,
    /// Bits that must be written as zeros where they are not to change.
    pub ones_clear: u32,
}

/// Bits of one function that may be opened.
#[derive(Clone, Debug)]
pub struct WritableMask {
    /// A dword each; `None` where no capability was found.
    dwords: Vec<Option<Open>>,
    policy: Policy,
}

impl WritableMask {
    /// How many dwords it has.
    pub const DWORDS: usize = DWORDS as usize;

    /// Walks the lists of a function. What the policy hides is never open.
    #[must_use]
    pub fn new(hw: &impl ConfigSpace, policy: &Policy) -> Self {
        let mut writable = Self { dwords: (0..DWORDS).map(|_| None).collect(), policy: *policy };
        if let Some(header) = blocks().next() {
            for dword in 0..CONVENTIONAL / 4 {
                writable.claim(dword, of_block(header, dword));
            }
        }
        let (all, fault) = list(Walk::conventional(hw));
        // They overlap in devices that lie, or that are not as long as their kind. A dword belongs to the first of them: interrupts,
        // which may not be written through another capability, then headers, then the rest.
        for (is_interrupt, is_header) in [(true, true), (true, false), (false, true), (false, false)] {
            let is_one = |capability: &&Capability| matches!(capability.id, id::MSI | id::MSI_X) == is_interrupt;
            for capability in all.iter().filter(is_one) {
                writable.claim_capability(false, capability, &all, is_header);
            }
            if is_interrupt && !is_header {
                // A header in the middle of one ends it for the claims above; its registers behind that are messages and masks all the same.
                for registers in all.iter().filter_map(interrupt_registers) {
                    writable.close(registers.start / 4..registers.end.div_ceil(4));
                }
            }
        }
        if fault.is_some() {
            // What the rest of the list would have named is not known.
            writable.close(CONVENTIONAL / 4..EXTENDED / 4);
        }
        for unlisted in unlisted(hw) {
            let length = block_of(false, &unlisted).map(|block| block.length);
            let first = unlisted.offset / 4;
            let end = (first + dwords_of(false, &unlisted, length, &all)).min(EXTENDED / 4);
            writable.close(first..end); // what is in the list is what it is there
        }
        if !has_extended_space(hw, all.iter().copied()) {
            writable.close(EXTENDED / 4..DWORDS);
            return writable;
        }
        let (all, fault) = list(Walk::extended(hw));
        for capability in &all {
            writable.claim_capability(true, capability, &all, false);
        }
        if fault.is_some() {
            writable.close(EXTENDED / 4..DWORDS);
        }
        writable
    }

    /// Bits of a dword that may be opened.
    #[must_use]
    pub fn open(&self, dword: usize) -> Open {
        self.dwords.get(dword).map_or(NOTHING, |open| open.unwrap_or(EVERYTHING))
    }

    /// What the policy allows of a write, register by register; nothing where that is nothing. `mask` are the bits that were written.
    #[must_use]
    pub fn grant(&self, offset: u16, width: Width, mask: u32, value: u32) -> Vec<PermittedWrite> {
        let open = self.open(usize::from(offset / 4));
        let shift = |offset: u16| u32::from(offset % 4) * 8;
        // Everything in places of the dword.
        let (mask, value) = ((mask & width.bits()) << shift(offset), value << shift(offset));
        let whole = Quirk::new(offset, width, width.bits()).filter(|_| self.policy.permissive);
        let quirks = self.policy.quirks().filter(|quirk| quirk.offset() / 4 == offset / 4 && !self.policy.permissive);
        let grant = |quirk: Quirk| {
            let shift = shift(quirk.offset());
            let mask = mask & open.bits & quirk.mask() << shift;
            (mask != 0).then(|| PermittedWrite {
                offset: quirk.offset(),
                width: quirk.width(),
                mask: mask >> shift,
                value: (value & mask) >> shift,
                ones_clear: open.ones_clear >> shift & quirk.width().bits(),
            })
        };
        whole.into_iter().chain(quirks.copied()).filter_map(grant).collect()
    }

    fn claim(&mut self, dword: u16, open: Open) -> bool {
        match self.dwords.get_mut(usize::from(dword)) {
            Some(place @ None) => {
                *place = Some(open);
                true
            }
            _ => false,
        }
    }

    fn close(&mut self, dwords: Range<u16>) {
        dwords.for_each(|dword| {
            self.claim(dword, NOTHING);
        });
    }

    fn claim_capability(&mut self, is_extended: bool, capability: &Capability, all: &[Capability], is_header: bool) {
        let block = block_of(is_extended, capability);
        let is_hidden = self.policy.hidden.contains(is_extended, capability.id);
        let dwords = match block.map(|block| block.length) {
            _ if is_header => 1,
            _ if is_hidden => dwords_of(is_extended, capability, Some(Length::ToNext), all),
            length => dwords_of(is_extended, capability, length, all),
        };
        for at in 0..dwords {
            let open = match block {
                _ if is_hidden => NOTHING,
                Some(block) => of_block(block, at),
                None if is_extended => NOTHING,
                // The header of a capability that is in no table: as a vendor's own.
                None => Open { bits: 0xffff_0000, ones_clear: 0 },
            };
            let dword = capability.offset / 4 + at;
            let is_free = self.claim(dword, if is_extended && at == 0 { NOTHING } else { open });
            if !is_free && at > 0 {
                break; // the next one begins here
            }
        }
    }
}

/// What works like a capability whether or not a list leads to it: some devices leave out one that they have (Intel's I219 its Advanced
/// Features, errata of the 100 series), and what is in no capability would be open. Only those that would let a guest reset its function or send
/// messages of its own, and only what cannot well be anything else: a register that happens to look like one stays closed.
fn unlisted(hw: &impl ConfigSpace) -> impl Iterator<Item = Capability> {
    let dwords = (CONVENTIONAL..EXTENDED).step_by(4);
    dwords.filter_map(|offset| {
        let header = hw.read_config(offset, Width::Dword);
        let [id, next, ..] = header.to_le_bytes();
        let (id, control) = (u16::from(id), header >> 16);
        let dword_behind = |dword: u16| {
            let place = offset + dword * 4;
            if place < EXTENDED { hw.read_config(place, Width::Dword) } else { u32::MAX }
        };
        // BAR of a table, of which there are six (PCI 3.0 §6.8.2.4).
        let has_bar = |dword| dword_behind(dword) & 7 < 6;
        let is_one = match id {
            // Version 1 to 3 (PCI PM 1.2 §3.2.3), and a state that is one of its own (D0 or D3) without reserved bits (§3.2.4).
            id::POWER_MANAGEMENT => matches!(control & 7, 1..=3) && dword_behind(1) & 0x0000_00f4 == 0,
            // 64 bits of address, as all have that do DMA to them, and no reserved bits (PCI 3.0 §6.8.1.3).
            id::MSI => control & 0xf880 == 0x80,
            // An endpoint of version 1 or 2 (PCIe 5.0 §7.5.3.2).
            id::PCI_EXPRESS => matches!(control & 0xf, 1..=2) && matches!(control >> 4 & 0xf, 0 | 1 | 9),
            // Two places that are not the same.
            id::MSI_X => control & 0x3800 == 0 && has_bar(1) && has_bar(2) && dword_behind(1) != dword_behind(2),
            // Six bytes long.
            id::ADVANCED_FEATURES => control & 0xff == 6,
            _ => false,
        };
        let is_pointer = next == 0 || next % 4 == 0 && u16::from(next) >= CONVENTIONAL;
        (is_one && is_pointer).then_some(Capability { offset, id, header })
    })
}

/// The registers of MSI and MSI-X, which only vector requests may touch.
pub(crate) fn interrupt_registers(capability: &Capability) -> Option<Range<u16>> {
    let bytes = match capability.id {
        id::MSI => msi::bytes(capability.control()),
        id::MSI_X => msix::BYTES,
        _ => return None,
    };
    Some(capability.offset..capability.offset + bytes)
}

/// The same without masks and pending bits of MSI.
pub(crate) fn message_registers(capability: &Capability) -> Option<Range<u16>> {
    let registers = interrupt_registers(capability)?;
    let end = match capability.id {
        id::MSI => registers.start + msi::bytes(capability.control() & !msi::HAS_MASKS),
        _ => registers.end,
    };
    Some(registers.start..end)
}

/// The table's block for a capability.
pub(crate) fn block_of(is_extended: bool, capability: &Capability) -> Option<&'static Block> {
    blocks().find(|block| match block.place {
        Place::Capability(id) => !is_extended && u16::from(id) == capability.id,
        Place::Extended(id) => is_extended && id == capability.id,
        Place::Header(_) => false,
    })
}

/// How far a capability reaches, which is one of `all`. Where the table does not know, an extended one reaches to the next, another has
/// a header.
pub(crate) fn dwords_of(is_extended: bool, capability: &Capability, length: Option<Length>, all: &[Capability]) -> u16 {
    let end = all.iter().map(|other| other.offset).filter(|offset| *offset > capability.offset).min();
    let end = end.unwrap_or(if is_extended { DWORDS * 4 } else { EXTENDED });
    match length {
        Some(Length::Dwords(dwords)) => dwords.into(),
        Some(Length::Control) => control_dwords(capability),
        Some(Length::ToNext) => (end - capability.offset) / 4,
        None if is_extended => (end - capability.offset) / 4,
        None => 1,
    }
}

/// Length of MSI and PCI Express by their control words, in dwords.
fn control_dwords(capability: &Capability) -> u16 {
    let control = capability.control();
    let bytes = if capability.id == id::MSI { msi::bytes(control) } else { express::bytes(control) };
    bytes.div_ceil(4)
}

/// The table's permissive bits of a dword of a block.
fn of_block(block: &Block, dword: u16) -> Open {
    let mut rows = block.registers.iter().filter(|row| u16::from(row.at / 4) == dword).peekable();
    if rows.peek().is_none() {
        return if block.rest == Rest::Open { EVERYTHING } else { NOTHING };
    }
    let mut open = NOTHING;
    for row in rows.filter(|row| row.write.is_drop()) {
        open.bits |= row.permissive << (8 * (row.at % 4));
        if row.write == Write::DropStatus {
            open.ones_clear |= field_mask(row.at, row.bytes);
        }
    }
    open
}
