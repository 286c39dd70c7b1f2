//! Classifies each dword of a function's configuration space, in one walk of its capability lists.

use alloc::vec::Vec;

use crate::packed::{self, Line, Slot};
use crate::policy::PolicyFlags;
use crate::walk::{Capability, Fault, Walk, has_extended_space};
use pci_registers::ConfigSpace;

/// Dwords of the header; capabilities lie behind it.
const HEADER_DWORDS: usize = 16;
/// Dwords between the header and the extended space.
const CONVENTIONAL_DWORDS: usize = 48;

/// Class of each dword.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Bytes of configuration space: 4096 or 256.
    pub(crate) size: u16,
    /// Dwords behind the header.
    slots: [Slot; CONVENTIONAL_DWORDS],
    /// With the headers that a guest reads.
    extended: Vec<Capability>,
    pub(crate) policy_flags: PolicyFlags,
}

impl Layout {
    /// Walks the lists of a function. Beside the layout: the conventional list, and what is wrong with either.
    pub(crate) fn read_from(
        hw: &impl ConfigSpace,
        policy_flags: PolicyFlags,
    ) -> (Self, Vec<Capability>, Option<Fault>) {
        let (all, mut fault) = list(Walk::conventional(hw));
        let mut layout =
            Self { size: 256, slots: [Slot::RAW; CONVENTIONAL_DWORDS], extended: Vec::new(), policy_flags };
        for capability in &all {
            let is_hidden = policy_flags.hides(false, capability.id);
            let mut slots = packed::capability(capability.id);
            let mut offset = capability.offset;
            for slot in layout.slots.iter_mut().skip(usize::from(capability.offset / 4).saturating_sub(HEADER_DWORDS)) {
                let next = if is_hidden { Some(Slot::HIDDEN) } else { slots.next() };
                let Some(next) = next else { break };
                // A dword that another capability claimed before keeps its meaning. What is hidden ends where the next one begins.
                if *slot == Slot::RAW {
                    *slot = next;
                }
                offset += 4;
                if is_hidden && all.iter().any(|other| other.offset == offset) {
                    break;
                }
            }
        }
        let shown = all.iter().filter(|capability| !policy_flags.hides(false, capability.id));
        if has_extended_space(hw, shown.copied()) {
            layout.size = 4096;
            let (extended, wrong) = list(Walk::extended(hw));
            fault = fault.or(wrong);
            layout.link(extended);
        }
        (layout, all, fault)
    }

    /// Notes where the extended capabilities are, and links those that a guest sees. The very first is always there, because the list
    /// begins with it; a header without id and version means nothing and leads on.
    fn link(&mut self, mut all: Vec<Capability>) {
        /// The pointer to the next one.
        const NEXT: u32 = 0xfff0_0000;
        let mut next = 0;
        for (place, capability) in all.iter_mut().enumerate().rev() {
            let is_hidden = self.policy_flags.hides(true, capability.id);
            capability.header = if is_hidden { 0 } else { capability.header & !NEXT };
            if !is_hidden || place == 0 {
                capability.header |= next << 20;
                next = u32::from(capability.offset);
            }
        }
        self.extended = all;
    }

    /// Class of a dword of the first 256 bytes.
    #[inline(always)] // a part of each read
    pub(crate) fn slot(&self, dword: usize) -> Slot {
        let slot = match dword.checked_sub(HEADER_DWORDS) {
            None => packed::HEADER.get(dword),
            Some(behind) => self.slots.get(behind),
        };
        slot.copied().unwrap_or(Slot::RAW)
    }

    /// The lines about a dword.
    pub(crate) fn lines(&self, dword: usize) -> &'static [Line] {
        self.slot(dword).lines()
    }

    /// Whether a dword is of a capability that a guest does not see. The first one of the extended space still leads on.
    pub(crate) fn hides(&self, dword: usize) -> bool {
        if dword < HEADER_DWORDS + CONVENTIONAL_DWORDS {
            return self.slot(dword) == Slot::HIDDEN;
        }
        let before = self.extended.iter().filter(|capability| usize::from(capability.offset / 4) <= dword);
        let capability = before.max_by_key(|capability| capability.offset);
        capability.is_some_and(|capability| self.policy_flags.hides(true, capability.id))
    }

    /// The first dword of an extended capability as a guest reads it, and what is hidden of others; `None` where the device answers.
    pub(crate) fn extended_value(&self, dword: usize) -> Option<u32> {
        let offset = u16::try_from(dword * 4).ok()?;
        let before = self.extended.iter().filter(|capability| capability.offset <= offset);
        let capability = before.max_by_key(|capability| capability.offset)?;
        if capability.offset == offset {
            return Some(capability.header);
        }
        self.policy_flags.hides(true, capability.id).then_some(0)
    }
}

/// The capabilities that a walk finds, and the fault that ended it.
#[inline(never)]
pub(crate) fn list(mut walk: Walk<'_, impl ConfigSpace>) -> (Vec<Capability>, Option<Fault>) {
    let mut all = Vec::new();
    for capability in walk.by_ref() {
        all.push(capability);
    }
    (all, walk.fault())
}
