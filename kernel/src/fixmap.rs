//! Address slots of one page each for foreign pages: granted frames, MMIO frames, `shared_info`.

use crate::layout::{FIXMAP_BASE, FIXMAP_GROWTH_BASE, FIXMAP_GROWTH_TABLES, FIXMAP_SLOTS, PAGE_SIZE};
use crate::{lasting, paging, survivor};
use core::cell::UnsafeCell;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use spin::Mutex;
use xen_types::{DomId, Errno, GrantRef, Mfn, Port};

const SLOTS_PER_TABLE: usize = 512;

/// Which page of another owner is mapped in an entry, for the life that comes after a restart in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// None, or one that each life maps anew.
    Nothing,
    /// A page that a domain granted, writable, and the event channel that goes with it: our port, and the domain's. 0 while there is none.
    Grant { domain: DomId, reference: GrantRef, handle: u32, port: Port, remote: Port },
    /// A function's page of configuration space, and what its user wants to be remembered of it.
    Mmio { frame: Mfn, note: u32 },
}

/// Bits of a remote port in a record: 131,072 of them with the FIFO ABI; ours are below 4,096.
const REMOTE_BITS: u32 = 20;

impl Record {
    /// Two words: in the first a kind (2 bits), a check (14 bits) and 48 bits.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fields are cut out of the words that `pack` has put them into"
    )]
    const fn unpack([first, second]: [u64; 2]) -> Option<Self> {
        let body = first & ((1 << 48) - 1);
        if first >> 48 & 0x3fff != Self::check(body, second) {
            return None;
        }
        Some(match first >> 62 {
            0 => Self::Nothing,
            1 => Self::Grant {
                domain: DomId((body >> 32) as u16),
                reference: GrantRef(body as u32),
                handle: (second >> 32) as u32,
                port: Port(second as u32 >> REMOTE_BITS),
                remote: Port(second as u32 & ((1 << REMOTE_BITS) - 1)),
            },
            2 => Self::Mmio { frame: Mfn(body), note: second as u32 },
            _ => return None,
        })
    }

    const fn pack(self) -> [u64; 2] {
        let (kind, body, second) = match self {
            Self::Nothing => (0, 0, 0),
            Self::Grant { domain, reference, handle, port, remote } => {
                let ports = port.0 << REMOTE_BITS | remote.0 & ((1 << REMOTE_BITS) - 1);
                (1, (domain.0 as u64) << 32 | reference.0 as u64, (handle as u64) << 32 | ports as u64)
            }
            Self::Mmio { frame, note } => (2, frame.0 & ((1 << 48) - 1), note as u64),
        };
        [kind << 62 | Self::check(body, second) << 48 | body, second]
    }

    /// 14 bits over the others; 0 for zeroes.
    const fn check(body: u64, second: u64) -> u64 {
        let mixed = body ^ second.rotate_left(7);
        (mixed ^ mixed >> 14 ^ mixed >> 28 ^ mixed >> 42 ^ mixed >> 56) & 0x3fff
    }
}

/// The records of the entries that are there from the start.
#[repr(C, align(16))]
struct Records(UnsafeCell<[[u64; 2]; FIXMAP_SLOTS]>);

// SAFETY: one vCPU and no upcalls; records are read and written as a whole, in this file, by functions that do not call each other meanwhile.
unsafe impl Sync for Records {}

#[cfg_attr(not(test), unsafe(link_section = ".kept.records"))] // SAFETY: zero bytes, which is what the builder fills it with (linker.ld)
static FIRST_RECORDS: Records = Records(UnsafeCell::new([[0; 2]; FIXMAP_SLOTS]));

/// Page tables: the one that is there from the start, and those of the growth.
const TABLES: usize = 1 + FIXMAP_GROWTH_TABLES;

/// Which slots of one page table are taken.
#[derive(Clone, Copy)]
struct Table {
    /// One bit a slot, set while taken.
    taken: [u64; SLOTS_PER_TABLE / 64],
    /// Of these, the ones that a life before has left and that nobody in this one has claimed.
    orphans: [u64; SLOTS_PER_TABLE / 64],
}

struct Slots {
    /// Page tables of the growth that there are.
    grown: usize,
    in_use: usize,
    tables: [Table; TABLES],
}

static SLOTS: Mutex<Slots> = Mutex::new(Slots {
    grown: 0,
    in_use: 0,
    tables: [Table { taken: [0; SLOTS_PER_TABLE / 64], orphans: [0; SLOTS_PER_TABLE / 64] }; TABLES],
});

/// One slot: its page table and its place there.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    table: usize,
    index: usize,
}

impl Slot {
    /// The slot at an address.
    fn at(address: usize) -> Option<Self> {
        let (table, base) = match address.checked_sub(FIXMAP_GROWTH_BASE) {
            Some(offset) => (1 + offset / (SLOTS_PER_TABLE * PAGE_SIZE), FIXMAP_GROWTH_BASE),
            None => (0, FIXMAP_BASE),
        };
        let index = address.checked_sub(base)? / PAGE_SIZE % SLOTS_PER_TABLE;
        (table < TABLES && index < slots_of(table)).then_some(Self { table, index })
    }

    const fn address(self) -> usize {
        base_of(self.table) + self.index * PAGE_SIZE
    }

    /// Where its record stands; `None` for one that does not exist.
    fn place(self) -> Option<*mut [u64; 2]> {
        let first = match self.table.checked_sub(1) {
            None => FIRST_RECORDS.0.get().cast(),
            Some(number) => {
                let page = *survivor::facts().grown_records.get(number)?;
                lasting::page(page.into())?.as_ptr().cast::<[u64; 2]>()
            }
        };
        Some(first.wrapping_add(self.index))
    }

    fn record(self) -> Option<Record> {
        // SAFETY: a place of a record that exists.
        self.place().and_then(|place| Record::unpack(unsafe { place.read() }))
    }

    pub(crate) fn set_record(self, record: Record) {
        if let Some(place) = self.place() {
            // SAFETY: as in `record`.
            unsafe { place.write(record.pack()) };
        }
    }

    const fn bit(self) -> u64 {
        1 << (self.index % 64)
    }
}

/// The address that a page table begins at.
const fn base_of(table: usize) -> usize {
    match table {
        0 => FIXMAP_BASE,
        _ => FIXMAP_GROWTH_BASE + (table - 1) * SLOTS_PER_TABLE * PAGE_SIZE,
    }
}

/// How many slots it has.
const fn slots_of(table: usize) -> usize {
    if table == 0 { FIXMAP_SLOTS } else { SLOTS_PER_TABLE }
}

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
        let number = slots.grown;
        if number == FIXMAP_GROWTH_TABLES {
            return Err(Errno::ENOSPC);
        }
        match make_table(base_of(number + 1)) {
            Err(Errno::EEXIST) => {} // a life before did not come to what follows
            result => result?,
        }
        let records = survivor::facts().lasting_pages;
        // Two pages, one behind the other.
        if lasting::take().and_then(|_| lasting::take()).is_none() {
            return Err(Errno::ENOMEM);
        }
        survivor::change(|facts| {
            if let Some(place) = facts.grown_records.get_mut(number) {
                *place = u16::try_from(records).unwrap_or(u16::MAX);
            }
            facts.grown_tables += 1;
        });
        slots.grown += 1;
        slots.take().ok_or(Errno::ENOSPC)
    }

    /// Writes down what is mapped here.
    pub(crate) fn set_record(&self, record: Record) {
        if let Some(slot) = Slot::at(self.address()) {
            slot.set_record(record);
        }
    }

    /// What was written down.
    pub(crate) fn record(&self) -> Record {
        Slot::at(self.address()).and_then(Slot::record).unwrap_or(Record::Nothing)
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

/// After a restart in place: takes over what the life before has left, and unmaps what it had mapped for itself. False where a record makes no sense.
pub(crate) fn restore() -> bool {
    let mut slots = SLOTS.lock();
    slots.grown = usize::try_from(survivor::facts().grown_tables).unwrap_or(0).min(FIXMAP_GROWTH_TABLES);
    for table in 0..slots.grown + 1 {
        for index in 0..slots_of(table) {
            let slot = Slot { table, index };
            let is_mapped = paging::is_mapped(slot.address());
            match slot.record() {
                None => return false,
                Some(_) if !is_mapped => slot.set_record(Record::Nothing), // the life before was about to
                Some(Record::Nothing) => {
                    // SAFETY: nothing of this life is mapped anywhere yet.
                    let _ = unsafe { paging::set_entry(slot.address(), 0) };
                }
                Some(_) => {
                    slots.tables[table].taken[index / 64] |= slot.bit();
                    slots.tables[table].orphans[index / 64] |= slot.bit();
                }
            }
        }
    }
    true
}

/// A page that a life before has mapped and that nobody has claimed yet.
pub(crate) fn claim(is_wanted: &dyn Fn(Record) -> bool) -> Option<(FixmapEntry, Record)> {
    let mut slots = SLOTS.lock();
    let (slot, record) = slots.find(true, is_wanted)?;
    slots.tables[slot.table].orphans[slot.index / 64] &= !slot.bit();
    slots.in_use += 1;
    Some((FixmapEntry { address: NonZeroUsize::new(slot.address())? }, record))
}

/// Where such a page is mapped.
pub(crate) fn unclaimed<T>(is_wanted: &dyn Fn(Record) -> bool) -> Option<NonNull<T>> {
    let (slot, _) = SLOTS.lock().find(true, is_wanted)?;
    NonZeroUsize::new(slot.address()).map(NonNull::with_exposed_provenance)
}

/// The first slot that is taken and whose record is wanted.
pub(crate) fn find(is_wanted: &dyn Fn(Record) -> bool) -> Option<(Slot, Record)> {
    // A crash may have left it locked; the records are whole all the same.
    SLOTS.try_lock()?.find(false, is_wanted)
}

impl Slots {
    /// The first record that is wanted among those of slots that are taken, or of orphans only.
    fn find(&self, is_orphan: bool, is_wanted: &dyn Fn(Record) -> bool) -> Option<(Slot, Record)> {
        for (table, Table { taken, orphans }) in self.tables.iter().enumerate() {
            for (number, word) in if is_orphan { orphans } else { taken }.iter().enumerate() {
                let mut word = *word;
                while word != 0 {
                    let slot = Slot { table, index: number * 64 + word.trailing_zeros() as usize };
                    word &= word - 1;
                    if let Some(record) = slot.record()
                        && is_wanted(record)
                    {
                        return Some((slot, record));
                    }
                }
            }
        }
        None
    }

    fn take(&mut self) -> Option<FixmapEntry> {
        for table in 0..self.grown + 1 {
            for (number, word) in self.tables[table].taken.iter_mut().enumerate() {
                let index = number * 64 + word.trailing_ones() as usize;
                if *word != u64::MAX && index < slots_of(table) {
                    let slot = Slot { table, index };
                    *word |= slot.bit();
                    self.in_use += 1;
                    return NonZeroUsize::new(slot.address()).map(|address| FixmapEntry { address });
                }
            }
        }
        None
    }

    /// Gives a slot back; false when it was not taken.
    fn give(&mut self, slot: Slot) -> bool {
        let word = &mut self.tables[slot.table].taken[slot.index / 64];
        let was_taken = *word & slot.bit() != 0;
        *word &= !slot.bit();
        self.in_use -= usize::from(was_taken);
        slot.set_record(Record::Nothing);
        was_taken
    }
}

impl Drop for FixmapEntry {
    fn drop(&mut self) {
        let given = Slot::at(self.address()).is_some_and(|slot| SLOTS.lock().give(slot));
        debug_assert!(given, "a slot exists once");
    }
}

/// Makes an empty page table for the 2 MiB around `address`.
///
/// # Errors
/// `EEXIST` where there is one, `ENOMEM` without memory for one, or Xen's word. Nothing is kept then.
pub fn make_table(address: usize) -> Result<(), Errno> {
    let page = lasting::take().ok_or(Errno::ENOMEM)?;
    // SAFETY: a zeroed page of our own that no other code knows, and a table in which nothing is mapped changes nothing.
    let added = unsafe { paging::add_table(address, page.as_ptr() as usize) };
    // What Xen does not let us write to again is lost.
    if added.is_err() && paging::is_writable(page.as_ptr() as usize) {
        lasting::give_back();
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
    extern crate std;
    use super::*;
    use core::mem::ManuallyDrop;
    use std::vec::Vec;

    #[test]
    fn slots_are_handed_out_once_and_taken_back() {
        let mut slots = Slots { grown: 0, in_use: 0, tables: SLOTS.lock().tables };
        let all: Vec<usize> =
            core::iter::from_fn(|| slots.take().map(|slot| ManuallyDrop::new(slot).address())).collect();
        assert_eq!((all.len(), all[0], all[255]), (256, FIXMAP_BASE, FIXMAP_BASE + 255 * PAGE_SIZE));
        let slot = Slot::at(all[77]).unwrap();
        slot.set_record(Record::Mmio { frame: Mfn(1), note: 0 });
        assert!(slots.give(slot));
        assert_eq!(slot.record(), Some(Record::Nothing));
        assert!(!slots.give(slot), "given twice");
        assert_eq!(slots.take().map(|slot| ManuallyDrop::new(slot).address()), Some(all[77]));
        assert!(Slot::at(0).is_none() && Slot::at(FIXMAP_BASE + 256 * PAGE_SIZE).is_none(), "there are no such slots");
        let last = base_of(TABLES - 1) + 511 * PAGE_SIZE;
        assert_eq!(Slot::at(last).map(|slot| (slot.table, slot.index, slot.address())), Some((TABLES - 1, 511, last)));
        assert!(Slot::at(last + PAGE_SIZE).is_none());
    }

    #[test]
    fn records_read_back_and_a_changed_bit_is_found() {
        let (domain, reference) = (DomId(0x7fef), GrantRef(0xffff_fffe));
        let grant = Record::Grant { domain, reference, handle: 0x1234_5678, port: Port(4095), remote: Port(131_071) };
        for record in [Record::Nothing, grant, Record::Mmio { frame: Mfn(0xb_0028), note: 0x1f7f_0547 }] {
            let packed = record.pack();
            assert_eq!(Record::unpack(packed), Some(record));
            for bit in 0..126 {
                let mut changed = packed;
                changed[bit / 64] ^= 1 << (bit % 64);
                assert_ne!(Record::unpack(changed), Some(record), "bit {bit}");
            }
        }
        assert_eq!(Record::Nothing.pack(), [0; 2], "what the builder fills the records with");
    }
}
