//! Address slots of one page each for foreign pages: granted frames, MMIO frames, `shared_info`.

use crate::layout::{FIXMAP_BASE, FIXMAP_GROWTH_BASE, FIXMAP_GROWTH_TABLES, FIXMAP_SLOTS, PAGE_SIZE};
use crate::{heap, paging};
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use spin::Mutex;
use xen_types::Errno;

const SLOTS_PER_TABLE: usize = 512;

/// Which slots of one page table are taken.
struct Table {
    base: usize,
    /// One bit a slot, set while taken; slots that do not exist are set for ever.
    taken: [u64; SLOTS_PER_TABLE / 64],
}

impl Table {
    const fn new(base: usize, slots: usize) -> Self {
        let mut taken = [0; SLOTS_PER_TABLE / 64];
        let mut word = slots / 64;
        while word < taken.len() {
            taken[word] = u64::MAX;
            word += 1;
        }
        Self { base, taken }
    }

    fn take(&mut self) -> Option<usize> {
        let (index, word) = self.taken.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones() as usize;
        *word |= 1 << bit;
        Some(self.base + (index * 64 + bit) * PAGE_SIZE)
    }

    /// Gives a slot back; false when it is not this table's or was not taken.
    fn give(&mut self, address: usize) -> bool {
        let Some(slot) = address.checked_sub(self.base).map(|offset| offset / PAGE_SIZE) else { return false };
        let Some(word) = self.taken.get_mut(slot / 64) else { return false };
        let bit = 1 << (slot % 64);
        let was_taken = *word & bit != 0;
        *word &= !bit;
        was_taken
    }
}

struct Slots {
    first: Table,
    grown: Vec<Table>,
    in_use: usize,
}

static SLOTS: Mutex<Slots> =
    Mutex::new(Slots { first: Table::new(FIXMAP_BASE, FIXMAP_SLOTS), grown: Vec::new(), in_use: 0 });

/// A slot of one page of address space with a page table behind it. Dropping it gives the slot back; whoever maps something there
/// unmaps it first.
#[derive(Debug)]
pub struct FixmapEntry {
    address: NonZeroUsize,
}

impl FixmapEntry {
    /// Takes a free slot, making a page table for more of them when all are taken.
    ///
    /// # Errors
    /// `ENOMEM` without memory for a page table, `ENOSPC` when the whole fixmap is in use, or Xen's word on the new table.
    pub fn take() -> Result<Self, Errno> {
        let mut slots = SLOTS.lock();
        if let Some(slot) = slots.take() {
            return Ok(slot);
        }
        let base = FIXMAP_GROWTH_BASE + slots.grown.len() * SLOTS_PER_TABLE * PAGE_SIZE;
        if slots.grown.len() == FIXMAP_GROWTH_TABLES {
            return Err(Errno::ENOSPC);
        }
        slots.grown.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        make_table(base)?;
        slots.grown.push(Table::new(base, SLOTS_PER_TABLE));
        slots.take().ok_or(Errno::ENOSPC)
    }

    /// The slot's virtual address, page aligned.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address.get()
    }

    /// The same as a pointer: what is mapped here is nothing that the language knows of.
    #[inline(always)] // on the way of each request, where it is one load
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.place(0)
    }

    /// A pointer to the byte at `offset`, which is below the size of a page.
    #[inline(always)]
    pub(crate) fn place<T>(&self, offset: usize) -> NonNull<T> {
        NonNull::with_exposed_provenance(self.address | offset)
    }
}

impl Slots {
    fn take(&mut self) -> Option<FixmapEntry> {
        let Self { first, grown, in_use } = self;
        let address = core::iter::once(first).chain(grown).find_map(Table::take)?;
        *in_use += 1;
        NonZeroUsize::new(address).map(|address| FixmapEntry { address })
    }
}

impl Drop for FixmapEntry {
    fn drop(&mut self) {
        let mut slots = SLOTS.lock();
        let Slots { first, grown, in_use } = &mut *slots;
        let given = core::iter::once(first).chain(grown).any(|table| table.give(self.address()));
        *in_use -= usize::from(given);
        debug_assert!(given, "a slot exists once");
    }
}

/// Makes an empty page table for the 2 MiB around `address`.
///
/// # Errors
/// `EEXIST` where there is one, `ENOMEM` without memory for one, or Xen's word. Nothing is kept then.
pub fn make_table(address: usize) -> Result<(), Errno> {
    let page = heap::allocate_page().ok_or(Errno::ENOMEM)?;
    // SAFETY: a zeroed page of our own that no other code knows, and a table in which nothing is mapped changes nothing.
    let added = unsafe { paging::add_table(address, page.as_ptr() as usize) };
    // What Xen does not let us write to again is lost.
    if added.is_err() && paging::is_writable(page.as_ptr() as usize) {
        // SAFETY: it became no table, and is as it was.
        unsafe { heap::free_page(page) };
    }
    added
}

/// Slots taken at the moment.
#[must_use]
pub fn slots_in_use() -> usize {
    SLOTS.lock().in_use
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_hands_out_each_slot_once_and_takes_it_back() {
        let mut table = Table::new(0x1000, 256);
        let all: Vec<usize> = core::iter::from_fn(|| table.take()).collect();
        assert_eq!(all.len(), 256);
        assert_eq!((all[0], all[255]), (0x1000, 0x1000 + 255 * PAGE_SIZE));
        assert!(table.give(all[77]));
        assert!(!table.give(all[77]), "given twice");
        assert_eq!(table.take(), Some(all[77]));
        assert!(!table.give(0), "below the table");
        assert!(!table.give(0x1000 + 512 * PAGE_SIZE), "behind the table");
    }
}
