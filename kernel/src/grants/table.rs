//! Our own grant table: pages that we give to others (the broker's ring, the self-test's page).

use super::GrantError;
use crate::fixmap::FixmapEntry;
use crate::hypercall::{hypercall5, number};
use crate::layout::PAGE_SIZE;
use crate::memory;
use crate::paging::{self, PteFlags};
use crate::{heap, lasting, survivor};
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering};
use spin::Mutex;
use xen_types::{DomId, Errno, GrantRef, Mfn, Port};

const GNTTABOP_SETUP_TABLE: u64 = 2;
const GTF_PERMIT_ACCESS: u16 = 1;
const GTF_READONLY: u16 = 1 << 2;
/// `GTF_reading | GTF_writing`: set by Xen while the other side has the page mapped.
const GTF_IN_USE: u16 = 1 << 3 | 1 << 4;
/// The first entries belong to the toolstack (`GNTTAB_NR_RESERVED_ENTRIES`: console, xenstore).
const RESERVED_ENTRIES: usize = 8;

/// `struct grant_entry_v1`.
#[repr(C)]
struct Entry {
    flags: u16,
    domain: u16,
    frame: u32,
}

/// Entries in the one frame of table that we use.
const ENTRIES: usize = PAGE_SIZE / size_of::<Entry>();
const _: () = assert!(ENTRIES == 512 && offset_of!(Entry, frame) == 4);

/// `struct gnttab_setup_table`.
#[repr(C)]
struct SetupArgument {
    domain: u16,
    frames: u32,
    status: i16,
    frame_list: u64,
}

const _: () = assert!(offset_of!(SetupArgument, frame_list) == 16);

/// The mapped table and which entries are taken.
struct Table {
    slot: FixmapEntry,
    taken: [u64; ENTRIES / 64],
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

impl Table {
    fn map() -> Result<Self, GrantError> {
        let slot = FixmapEntry::take().map_err(GrantError::Call)?;
        let mut frame = 0u64;
        let mut argument = SetupArgument {
            domain: DomId::SELF.0,
            frames: 1,
            status: 0,
            frame_list: core::ptr::from_mut(&mut frame) as u64,
        };
        let pointer = core::ptr::from_mut(&mut argument) as u64;
        // SAFETY: one argument; its list has room for the one frame asked for.
        unsafe { hypercall5(number::GRANT_TABLE_OP, GNTTABOP_SETUP_TABLE, pointer, 1, 0, 0) }
            .map_err(GrantError::Call)?;
        GrantError::check(argument.status)?;
        let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::NO_EXECUTE | PteFlags::USER_ACCESSIBLE;
        // SAFETY: the slot is ours and empty; Xen named the frame as our grant table.
        unsafe { paging::set_entry(slot.address(), paging::entry(Mfn(frame), flags)) }.map_err(GrantError::Call)?;
        let mut taken = [0; ENTRIES / 64];
        taken[0] = (1 << RESERVED_ENTRIES) - 1;
        Ok(Self { slot, taken })
    }

    /// Address of a field of an entry, always inside the mapped table.
    fn field<T>(&self, reference: GrantRef, offset: usize) -> *mut T {
        let index = reference.0 as usize % ENTRIES;
        (self.slot.address() + index * size_of::<Entry>() + offset) as *mut T
    }

    /// The word that Xen and we change at the same time.
    fn flags(&self, reference: GrantRef) -> &AtomicU16 {
        // SAFETY: inside the mapped table (index below ENTRIES), aligned; the header asks for atomic access ("SMP-safe CMPXCHG").
        unsafe { AtomicU16::from_ptr(self.field(reference, offset_of!(Entry, flags))) }
    }

    fn take(&mut self) -> Option<GrantRef> {
        let (index, word) = self.taken.iter_mut().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        u32::try_from(index * 64).ok().map(|base| GrantRef(base + bit))
    }

    /// Takes this entry, which is in use already.
    fn keep(&mut self, reference: GrantRef) {
        if let Some(word) = self.taken.get_mut(reference.0 as usize / 64) {
            *word |= 1 << (reference.0 % 64);
        }
    }

    /// Lets `peer` map a page.
    fn grant(&mut self, page: NonNull<u8>, peer: DomId, writable: bool) -> Result<GrantRef, GrantError> {
        let frame = memory::mfn_of_address(page.as_ptr() as usize).and_then(|mfn| u32::try_from(mfn.0).ok());
        let (Some(frame), Some(reference)) = (frame, self.take()) else {
            return Err(GrantError::Call(Errno::ENOSPC));
        };
        // SAFETY: a free entry inside the mapped table; Xen does not look at it before the flags say so.
        unsafe { self.field::<u32>(reference, offset_of!(Entry, frame)).write_volatile(frame) };
        // SAFETY: as above.
        unsafe { self.field::<u16>(reference, offset_of!(Entry, domain)).write_volatile(peer.0) };
        let flags = GTF_PERMIT_ACCESS | if writable { 0 } else { GTF_READONLY };
        // Release: frame and domain are visible before the permission (grant_table.h, "Introducing a valid entry").
        self.flags(reference).store(flags, Ordering::Release);
        Ok(reference)
    }

    fn give(&mut self, reference: GrantRef) {
        let index = reference.0 as usize;
        if let Some(word) = self.taken.get_mut(index / 64) {
            *word &= !(1 << (index % 64));
        }
    }
}

/// The page that is granted to a domain, and the port that goes with it, through all lives of the image. It is none of the heap's, and nothing ever
/// ends the grant: unlike a [`GrantedPage`] it has no `Drop`.
#[derive(Debug)]
pub struct LastingPage {
    page: NonNull<u8>,
    /// The numbers to tell the peer.
    pub reference: GrantRef,
    /// Our port.
    pub port: Port,
}

impl LastingPage {
    /// Grants a page of [`lasting`] to `peer`, with the port that `make_port` makes for it; in later lives, what the first one has granted and made.
    ///
    /// # Errors
    /// As [`GrantedPage::new`], and those of `make_port`.
    pub fn take(peer: DomId, make_port: impl FnOnce() -> Result<Port, Errno>) -> Result<Self, GrantError> {
        let mut table = TABLE.lock();
        if table.is_none() {
            *table = Some(Table::map()?);
        }
        let Some(table) = table.as_mut() else { return Err(GrantError::Call(Errno::ENOMEM)) };
        if let Some((reference, port)) = survivor::ring() {
            table.keep(reference);
            let page = lasting::page(survivor::facts().ring_page).ok_or(GrantError::Call(Errno::ENOMEM))?;
            return Ok(Self { page, reference, port });
        }
        let number = survivor::facts().lasting_pages;
        let page = lasting::take().ok_or(GrantError::Call(Errno::ENOMEM))?;
        let reference = table.grant(page, peer, true)?;
        let port = make_port().map_err(GrantError::Call)?;
        survivor::keep_ring(reference, port, number);
        Ok(Self { page, reference, port })
    }

    /// The page, which is there for ever and shared with the peer.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.page
    }
}

/// A zeroed page of our own that another domain may map. Dropping it ends the grant; while the peer has it mapped, page and
/// entry are kept (and lost), since Xen would refuse to reuse them safely.
#[derive(Debug)]
pub struct GrantedPage {
    page: NonNull<u8>,
    reference: GrantRef,
}

impl GrantedPage {
    /// Takes a page and grants it to `peer`.
    ///
    /// # Errors
    /// No memory, no free entry, or Xen's word on the table.
    pub fn new(peer: DomId, writable: bool) -> Result<Self, GrantError> {
        let mut table = TABLE.lock();
        if table.is_none() {
            *table = Some(Table::map()?);
        }
        let Some(table) = table.as_mut() else { return Err(GrantError::Call(Errno::ENOMEM)) };
        let page = heap::allocate_page().ok_or(GrantError::Call(Errno::ENOMEM))?;
        match table.grant(page, peer, writable) {
            Ok(reference) => Ok(Self { page, reference }),
            Err(error) => {
                // SAFETY: just allocated, known to no other code.
                unsafe { heap::free_page(page) };
                Err(error)
            }
        }
    }

    /// The number to tell the peer.
    #[must_use]
    pub fn reference(&self) -> GrantRef {
        self.reference
    }

    /// The page: valid while `self` lives, shared with the peer.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.page
    }
}

impl Drop for GrantedPage {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        let Some(table) = table.as_mut() else { return };
        let flags = table.flags(self.reference);
        let ended = flags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| (value & GTF_IN_USE == 0).then_some(0))
            .is_ok();
        if ended {
            table.give(self.reference);
            // SAFETY: ours, and the peer can neither use nor map it any more: the entry was not in use and is invalid now.
            unsafe { heap::free_page(self.page) };
        } else {
            plain_log::warning!("grant {} is still mapped by its peer: page lost", self.reference);
        }
    }
}
