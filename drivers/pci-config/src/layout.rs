//! What each dword of one function's configuration space is, found by walking its lists once.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::packed::{self, Line, Slot, TO_NEXT};
use crate::policy::Policy;
use crate::register::Write;
use crate::space::{ConfigSpace, Width};
use crate::walk::{Capability, EXTENDED, Fault, Walk, id};

/// Dwords of the header; capabilities lie behind it.
pub(crate) const HEADER_DWORDS: usize = 16;
/// Dwords between the header and the extended space.
const CONVENTIONAL_DWORDS: u8 = 48;
/// The first dword of the extended space.
const EXTENDED_DWORD: usize = EXTENDED as usize / 4;
/// Header Type, and its bits without the one for many functions.
const HEADER_TYPE: u16 = 0x0e;
const TYPE: u32 = 0x7f;

/// The bits of a dword that a write may change where the policy says so, beyond what the table allows to everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// These.
    pub bits: u32,
    /// Bits that must be written as zeros where they are not to change, because a one clears them.
    pub ones_clear: u32,
}

/// What each dword is.
#[derive(Clone, Debug)]
pub struct Layout {
    is_bridge: bool,
    /// 4096 bytes of configuration space instead of 256.
    is_extended: bool,
    /// What a dword of the extended space is that lies in no capability.
    between: Slot,
    /// Dwords behind the header.
    slots: [Slot; CONVENTIONAL_DWORDS as usize],
    /// With the headers that a guest reads.
    extended: Vec<Capability>,
    /// `None` where the admin wants nothing.
    policy: Option<Rc<Policy>>,
}

impl Layout {
    /// Walks the lists of a function.
    #[must_use]
    pub fn new(hw: &impl ConfigSpace, policy: Option<Rc<Policy>>) -> Self {
        Self::read_from(hw, policy).0
    }

    /// The same, with the conventional list and with what is wrong with either.
    pub(crate) fn read_from(
        hw: &impl ConfigSpace,
        policy: Option<Rc<Policy>>,
    ) -> (Self, Vec<Capability>, Option<Fault>) {
        let (all, mut fault) = list(Walk::conventional(hw));
        let mut layout = Self {
            is_bridge: hw.read_config(HEADER_TYPE, Width::Byte) & TYPE == 1,
            is_extended: false,
            between: Slot::OPEN,
            slots: [Slot::OPEN; CONVENTIONAL_DWORDS as usize],
            extended: Vec::new(),
            policy,
        };
        for capability in &all {
            layout.is_extended |= !layout.hides(false, capability.id) && capability.is_extended(hw);
        }
        layout.claim_all(&all);
        if fault.is_some() {
            // What the rest of the list would have named is not known.
            layout.slots.iter_mut().filter(|slot| **slot == Slot::OPEN).for_each(|slot| *slot = Slot::LOCKED);
        }
        if layout.is_extended {
            let (all, wrong) = list(Walk::extended(hw));
            layout.link(all);
            if wrong.is_some() {
                layout.between = Slot::LOCKED;
                fault = wrong;
            }
        }
        (layout, all, fault)
    }

    /// What the admin wants.
    pub(crate) fn policy(&self) -> Option<&Policy> {
        self.policy.as_deref()
    }

    /// True for capabilities that a guest does not see.
    pub(crate) fn hides(&self, is_extended: bool, id: u16) -> bool {
        self.policy().is_some_and(|policy| policy.hidden.contains(is_extended, id))
    }

    /// Notes what the dwords of the conventional capabilities are. They overlap in devices that lie, or that are not as long as their kind.
    /// A dword belongs to whoever comes first: interrupts, which nobody may write by another name, then headers, then the rest.
    fn claim_all(&mut self, all: &[Capability]) {
        for pass in 0..4 {
            let (is_interrupt, is_header) = (pass < 2, pass % 2 == 0);
            for capability in all {
                if matches!(capability.id, id::MSI | id::MSI_X) == is_interrupt {
                    self.claim(*capability, is_header);
                }
            }
        }
    }

    #[inline(never)] // it has one caller, which unrolls its loop
    fn claim(&mut self, capability: Capability, is_header: bool) {
        let known = packed::find(false, capability.id);
        let is_hidden = self.hides(false, capability.id);
        let dwords = match known.map_or(1, |known| known.dwords(capability.header)) {
            _ if is_header => 1,
            TO_NEXT => CONVENTIONAL_DWORDS,
            dwords => dwords,
        };
        let before = usize::from(capability.offset / 4).saturating_sub(HEADER_DWORDS);
        for (slot, dword) in self.slots.iter_mut().skip(before).zip(0..dwords) {
            if *slot == Slot::OPEN {
                *slot = match known {
                    _ if is_hidden => Slot::HIDDEN,
                    Some(known) => known.slot(dword),
                    None => Slot::UNKNOWN,
                };
            } else if dword > 0 {
                break; // the next one begins here
            }
        }
    }

    /// Notes where the extended capabilities are, and links those that a guest sees. The very first is always there, because the list
    /// begins with it; a header without id and version means nothing and leads on.
    fn link(&mut self, mut all: Vec<Capability>) {
        /// The pointer to the next one.
        const NEXT: u32 = 0xfff0_0000;
        let mut next = 0;
        for (place, capability) in all.iter_mut().enumerate().rev() {
            let is_hidden = self.hides(true, capability.id);
            capability.header = if is_hidden { 0 } else { capability.header & !NEXT };
            if !is_hidden || place == 0 {
                capability.header |= next << 20;
                next = u32::from(capability.offset);
            }
        }
        self.extended = all;
    }

    /// True where the function has 4096 bytes of configuration space.
    pub(crate) const fn is_extended(&self) -> bool {
        self.is_extended
    }

    /// True for the header of a bridge.
    pub(crate) const fn is_bridge(&self) -> bool {
        self.is_bridge
    }

    /// The lines about a dword.
    pub(crate) fn lines(&self, dword: usize) -> &'static [Line] {
        if dword < EXTENDED_DWORD { self.slot(dword).lines() } else { &[] }
    }

    /// The first dword of an extended capability as a guest reads it, and what is hidden of others; `None` where the device answers.
    pub(crate) fn extended_value(&self, dword: usize) -> Option<u32> {
        let (capability, at, _) = self.extended_capability(dword)?;
        match at {
            0 => Some(capability.header),
            _ => self.hides(true, capability.id).then_some(0),
        }
    }

    /// The extended capability that a dword is in, where in it, and what its lines say about that.
    fn extended_capability(&self, dword: usize) -> Option<(&Capability, usize, Slot)> {
        let before = self.extended.iter().filter(|capability| usize::from(capability.offset / 4) <= dword);
        let capability = before.max_by_key(|capability| capability.offset)?;
        let at = dword - usize::from(capability.offset / 4);
        let Some(known) = packed::find(true, capability.id) else { return Some((capability, at, Slot::LOCKED)) };
        let length = known.dwords(0);
        let slot = known.slot(u8::try_from(at).unwrap_or(u8::MAX));
        (length == TO_NEXT || at < length.into()).then_some((capability, at, slot))
    }

    /// What a dword is.
    pub(crate) fn slot(&self, dword: usize) -> Slot {
        let header = packed::header(self.is_bridge);
        if let Some(slot) = header.iter().chain(&self.slots).nth(dword) {
            return *slot;
        }
        match self.extended_capability(dword) {
            None => self.between,
            Some((capability, ..)) if self.hides(true, capability.id) => Slot::HIDDEN,
            Some((_, 0, _)) => Slot::LOCKED,
            Some((.., slot)) => slot,
        }
    }

    /// What may be written of a dword where the policy says so.
    #[must_use]
    pub fn open(&self, dword: usize) -> Open {
        let slot = self.slot(dword);
        if slot == Slot::OPEN {
            return Open { bits: u32::MAX, ones_clear: 0 };
        }
        let mut open = Open::default();
        for line in slot.lines().iter().filter(|line| line.write.is_drop()) {
            open.bits |= line.permissive << line.shift();
            if line.write == Write::DropStatus {
                open.ones_clear |= line.mask();
            }
        }
        open
    }
}

/// What a walk finds, and what is wrong with the list.
#[inline(never)]
fn list(mut walk: Walk<'_, impl ConfigSpace>) -> (Vec<Capability>, Option<Fault>) {
    let mut all = Vec::new();
    for capability in walk.by_ref() {
        all.push(capability);
    }
    (all, walk.fault())
}
