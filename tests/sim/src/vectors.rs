//! Xen's books on interrupt vectors: which pirq of which guest belongs to which device.
//!
//! Strict where Xen takes what a careless caller does: a device whose old vectors are still mapped when new ones are asked for fails the test.

use std::collections::BTreeMap;

use dom0::xen::Vector;
use xen_types::{DomId, Errno, Sbdf};

/// The highest number that a guest's vector has; others are below, as Xen gives them out.
pub const TOP_PIRQ: u16 = 300;
/// Numbers below are for GSIs.
pub const LOWEST_PIRQ: u16 = 16;

#[derive(Clone, Copy, Debug)]
struct Mapped {
    device: Sbdf,
    vector: Vector,
    /// The first of those that were mapped together.
    first: u16,
}

/// All vectors.
#[derive(Debug)]
pub(crate) struct VectorTable {
    mapped: BTreeMap<(DomId, u16), Mapped>,
    per_guest: usize,
}

impl Default for VectorTable {
    fn default() -> Self {
        Self { mapped: BTreeMap::new(), per_guest: 256 }
    }
}

impl VectorTable {
    /// How many a guest may have from now on (`extra_guest_irqs=`).
    pub(crate) const fn limit(&mut self, per_guest: usize) {
        self.per_guest = per_guest;
    }

    /// Every pirq with its guest and its device.
    pub(crate) fn all(&self) -> Vec<(DomId, u16, Sbdf)> {
        self.mapped.iter().map(|((guest, pirq), mapped)| (*guest, *pirq, mapped.device)).collect()
    }

    /// Maps a vector, or so many consecutive ones: the (first) pirq.
    pub(crate) fn map(&mut self, guest: DomId, device: Sbdf, vector: Vector) -> Result<u16, Errno> {
        for old in self.mapped.values().filter(|mapped| mapped.device == device) {
            let is_another_entry = matches!(
                (old.vector, vector),
                (Vector::Msix { entry: old, .. }, Vector::Msix { entry: new, .. }) if old != new
            );
            assert!(is_another_entry, "{vector:?} of {device} on top of {:?}", old.vector);
        }
        let count = match vector {
            Vector::Msi { count } => u16::try_from(count).map_err(|_| Errno::EINVAL)?,
            Vector::Msix { .. } => 1,
        };
        let taken = self.mapped.keys().filter(|(owner, _)| *owner == guest).count();
        if taken + usize::from(count) > self.per_guest {
            return Err(Errno::ENOSPC);
        }
        let is_free = |first: &u16| (*first..first + count).all(|pirq| !self.mapped.contains_key(&(guest, pirq)));
        let first = (LOWEST_PIRQ..=TOP_PIRQ + 1 - count).rev().find(is_free).ok_or(Errno::ENOSPC)?;
        for pirq in first..first + count {
            self.mapped.insert((guest, pirq), Mapped { device, vector, first });
        }
        Ok(first)
    }

    /// Unmaps a vector, and those that were mapped with it if it is their first (`unmap_domain_pirq`, `xen/arch/x86/irq.c`).
    pub(crate) fn unmap(&mut self, guest: DomId, pirq: u16) -> Result<(), Errno> {
        let mapped = *self.mapped.get(&(guest, pirq)).ok_or(Errno::EINVAL)?;
        if mapped.first != pirq {
            return Err(Errno::EBUSY);
        }
        self.mapped.retain(|(owner, _), other| *owner != guest || (other.device, other.first) != (mapped.device, pirq));
        Ok(())
    }

    /// A guest is gone, and its vectors with it.
    pub(crate) fn forget(&mut self, guest: DomId) {
        self.mapped.retain(|(owner, _), _| *owner != guest);
    }
}
