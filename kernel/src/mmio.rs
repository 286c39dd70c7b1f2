//! MMIO frames that dom0 gave us iomem permission for: the ECAM pages of our functions.

use crate::fixmap::{self, FixmapEntry, Record};
use crate::memory;
use crate::paging::{self, PteFlags};
use core::ptr::NonNull;
use volatile::VolatilePtr;
use volatile::access::{ReadOnly, ReadWrite};
use xen_types::{Errno, Mfn};

/// One mapped MMIO page. Dropping it unmaps it.
///
/// Accesses to the device through it cost one bus access each and no exit.
#[derive(Debug)]
pub struct MmioPage {
    slot: FixmapEntry,
    is_writable: bool,
}

impl MmioPage {
    /// Maps the page at machine frame `mfn`, uncached and read-only.
    ///
    /// # Errors
    /// `EPERM` where dom0 has not granted the frame (`get_page_from_l1e`, `xen/arch/x86/mm.c`), `ENOMEM`/`ENOSPC` without a free slot.
    pub fn map(mfn: Mfn) -> Result<Self, Errno> {
        Self::map_with(mfn, PteFlags::empty())
    }

    /// As [`MmioPage::map`], and writable where Xen lets it be: configuration space is so with `mmcfg=0` only. Otherwise Xen takes
    /// the write bit off without a word, which is what [`MmioPage::is_writable`] tells.
    ///
    /// # Errors
    /// As [`MmioPage::map`].
    pub fn map_writable(mfn: Mfn) -> Result<Self, Errno> {
        Self::map_with(mfn, PteFlags::WRITABLE)
    }

    fn map_with(mfn: Mfn, rights: PteFlags) -> Result<Self, Errno> {
        // A life before may have mapped it already, with the same rights: the image has not changed, nor has Xen.
        let before = fixmap::claim(&|record| matches!(record, Record::Mmio { frame, .. } if frame == mfn));
        if let Some((slot, _)) = before {
            return Ok(Self::mapped(slot));
        }
        let slot = FixmapEntry::take()?;
        let flags = rights | PteFlags::PRESENT | PteFlags::NO_EXECUTE | PteFlags::NO_CACHE | PteFlags::USER_ACCESSIBLE;
        // SAFETY: the slot is ours alone and empty. Xen refuses frames that are neither ours nor granted; own memory cannot be reached this
        // way because callers pass MMIO frames, and a second read-only mapping of own memory would be read by volatile loads only.
        unsafe { paging::set_entry(slot.address(), paging::entry(mfn, flags)) }?;
        slot.set_record(Record::Mmio { frame: mfn, note: 0 });
        Ok(Self::mapped(slot))
    }

    fn mapped(slot: FixmapEntry) -> Self {
        let is_writable = memory::mapping_of(slot.address()).is_some_and(|mapping| mapping.writable);
        Self { slot, is_writable }
    }

    /// What [`MmioPage::set_note`] was told last, in this life or the one before; 0 at first.
    #[must_use]
    pub fn note(&self) -> u32 {
        match self.slot.record() {
            Record::Mmio { note, .. } => note,
            _ => 0,
        }
    }

    /// Notes something about the page that a restart in place does not forget.
    pub fn set_note(&self, note: u32) {
        if let Record::Mmio { frame, note: before } = self.slot.record()
            && before != note
        {
            self.slot.set_record(Record::Mmio { frame, note });
        }
    }

    /// True where stores reach the device.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    #[inline(always)]
    fn pointer<T>(&self, offset: u16) -> NonNull<T> {
        self.slot.place(usize::from(offset) & (crate::layout::PAGE_SIZE - 1) & !(size_of::<T>() - 1))
    }

    #[inline(always)]
    fn register<T: Copy>(&self, offset: u16) -> VolatilePtr<'_, T, ReadOnly> {
        // SAFETY: the page is mapped readable while `self` lives, the offset is inside and aligned (masked above); volatile loads are
        // the only access to it.
        unsafe { VolatilePtr::new_read_only(self.pointer(offset)) }
    }

    fn write<T: Copy>(&self, offset: u16, value: T) {
        if self.is_writable {
            // SAFETY: as in `register`, and the entry was read back writable; the device stands behind it, not memory of ours.
            let register: VolatilePtr<'_, T, ReadWrite> = unsafe { VolatilePtr::new(self.pointer(offset)) };
            register.write(value);
        }
    }

    /// Writes a byte, where the page is writable.
    pub fn write_u8(&self, offset: u16, value: u8) {
        self.write(offset, value);
    }

    /// Writes two bytes, where the page is writable; the offset is rounded down to their alignment.
    pub fn write_u16(&self, offset: u16, value: u16) {
        self.write(offset, value);
    }

    /// Writes four bytes, where the page is writable; the offset is rounded down to their alignment.
    pub fn write_u32(&self, offset: u16, value: u32) {
        self.write(offset, value);
    }

    /// Reads a byte.
    #[must_use]
    #[inline(always)] // as those below: on the way of each request
    pub fn read_u8(&self, offset: u16) -> u8 {
        self.register(offset).read()
    }

    /// Reads two bytes; the offset is rounded down to their alignment and stays inside the page.
    #[must_use]
    #[inline(always)]
    pub fn read_u16(&self, offset: u16) -> u16 {
        self.register(offset).read()
    }

    /// Reads four bytes; the offset is rounded down to their alignment and stays inside the page.
    #[must_use]
    #[inline(always)]
    pub fn read_u32(&self, offset: u16) -> u32 {
        self.register(offset).read()
    }
}

impl Drop for MmioPage {
    fn drop(&mut self) {
        // SAFETY: `self` was the only user of the mapping.
        if let Err(error) = unsafe { paging::set_entry(self.slot.address(), 0) } {
            plain_log::error!("unmapping MMIO at {:#x}: {error}", self.slot.address());
        }
    }
}
