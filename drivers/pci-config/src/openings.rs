//! What the admin can open of one function to its guest without harm to others: the permissive column of the table, over a function's own
//! capabilities. Dom0 uses it alone; the driver domain passes on what it would drop, and leaves the decision to the broker.

use alloc::vec::Vec;

use crate::layout::list;
use crate::policy::{Policy, Quirk};
use crate::register::{Block, Length, Place, Rest, Write, field_mask};
use crate::space::{ConfigSpace, Width};
use crate::table::blocks;
use crate::walk::{CONVENTIONAL, Capability, EXTENDED, Walk, id};

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
const DWORDS: u16 = 1024;

/// A write that a policy allows: all of it at one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
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

/// What can be opened of one function.
#[derive(Clone, Debug)]
pub struct Openings {
    /// A dword each; `None` where no capability was found.
    dwords: Vec<Option<Open>>,
    policy: Policy,
}

impl Openings {
    /// Walks the lists of a function. What the policy hides is never open.
    #[must_use]
    pub fn new(hw: &impl ConfigSpace, policy: &Policy) -> Self {
        let mut openings = Self { dwords: (0..DWORDS).map(|_| None).collect(), policy: *policy };
        if let Some(header) = blocks().next() {
            for dword in 0..CONVENTIONAL / 4 {
                openings.claim(dword, of_block(header, dword));
            }
        }
        let (all, fault) = list(Walk::conventional(hw));
        // They overlap in devices that lie, or that are not as long as their kind. A dword belongs to whoever comes first: interrupts,
        // which nobody may write by another name, then headers, then the rest.
        for (is_interrupt, is_header) in [(true, true), (true, false), (false, true), (false, false)] {
            let is_one = |capability: &&Capability| matches!(capability.id, id::MSI | id::MSI_X) == is_interrupt;
            for capability in all.iter().filter(is_one) {
                openings.claim_capability(false, capability, &all, is_header);
            }
        }
        if fault.is_some() {
            // What the rest of the list would have named is not known.
            openings.close(CONVENTIONAL / 4..EXTENDED / 4);
        }
        if !all.iter().any(|capability| capability.is_extended(hw)) {
            openings.close(EXTENDED / 4..DWORDS);
            return openings;
        }
        let (all, fault) = list(Walk::extended(hw));
        for capability in &all {
            openings.claim_capability(true, capability, &all, false);
        }
        if fault.is_some() {
            openings.close(EXTENDED / 4..DWORDS);
        }
        openings
    }

    /// What can be opened of a dword.
    #[must_use]
    pub fn open(&self, dword: usize) -> Open {
        self.dwords.get(dword).map_or(NOTHING, |open| open.unwrap_or(EVERYTHING))
    }

    /// What the policy allows of a write, register by register; nothing where that is nothing. `mask` are the bits that were written.
    #[must_use]
    pub fn grant(&self, offset: u16, width: Width, mask: u32, value: u32) -> Vec<Grant> {
        let open = self.open(usize::from(offset / 4));
        let shift = |offset: u16| u32::from(offset % 4) * 8;
        // Everything in places of the dword.
        let (mask, value) = ((mask & width.bits()) << shift(offset), value << shift(offset));
        let whole = Quirk::new(offset, width, width.bits()).filter(|_| self.policy.permissive);
        let quirks = self.policy.quirks().filter(|quirk| quirk.offset() / 4 == offset / 4 && !self.policy.permissive);
        let grant = |quirk: Quirk| {
            let shift = shift(quirk.offset());
            let mask = mask & open.bits & quirk.mask() << shift;
            (mask != 0).then(|| Grant {
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

    fn close(&mut self, dwords: core::ops::Range<u16>) {
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

/// What the table has of a capability.
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

/// How long MSI (PCI 3.0 §6.8.1, figure 6-9: 10 bytes, 4 more with 64 bits of address, 10 more with masks) and PCI Express are (PCIe 5.0
/// §7.5.3: an endpoint's first version ends with its link, the second has everything), in dwords.
fn control_dwords(capability: &Capability) -> u16 {
    let control = capability.header >> 16;
    match capability.id {
        id::MSI => 3 + u16::from(control & 0x80 != 0) + 2 * u16::from(control & 0x100 != 0),
        _ if control & 0xf < 2 => 5,
        _ => 15,
    }
}

/// What the table says about a dword of a block.
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
