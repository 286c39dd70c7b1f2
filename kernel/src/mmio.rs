//! MMIO frames that dom0 gave us iomem permission for: the ECAM pages of our functions.

use crate::paging::{self, PteFlags};
use crate::window::Slot;
use core::ptr::NonNull;
use volatile::VolatilePtr;
use volatile::access::ReadOnly;
use xen_types::{Errno, Mfn};

/// One mapped MMIO page, read-only. Dropping it unmaps it.
///
/// Reads of the device through it cost one bus access each and no exit to anybody.
#[derive(Debug)]
pub struct MmioPage {
    slot: Slot,
}

impl MmioPage {
    /// Maps the page at machine frame `mfn`, uncached.
    ///
    /// # Errors
    /// `EPERM` where dom0 has not granted the frame (`get_page_from_l1e`, `xen/arch/x86/mm.c`), `ENOMEM`/`ENOSPC` without a free slot.
    pub fn map(mfn: Mfn) -> Result<Self, Errno> {
        let slot = Slot::take()?;
        let flags = PteFlags::PRESENT | PteFlags::NO_EXECUTE | PteFlags::NO_CACHE | PteFlags::USER_ACCESSIBLE;
        // SAFETY: the slot is ours alone and empty. Xen refuses frames that are neither ours nor granted; own memory cannot be reached this
        // way because callers pass MMIO frames, and a second read-only mapping of own memory would be read by volatile loads only.
        unsafe { paging::set_entry(slot.address(), paging::entry(mfn, flags)) }?;
        Ok(Self { slot })
    }

    fn register<T: Copy>(&self, offset: u16) -> VolatilePtr<'_, T, ReadOnly> {
        let offset = usize::from(offset) & (crate::layout::PAGE_SIZE - 1) & !(size_of::<T>() - 1);
        #[expect(clippy::expect_used, reason = "window slots are not at address 0")]
        let pointer = NonNull::new((self.slot.address() + offset) as *mut T).expect("slots are not at 0");
        // SAFETY: the page is mapped readable while `self` lives, the offset is inside and aligned (masked above); volatile loads are
        // the only access to it.
        unsafe { VolatilePtr::new_read_only(pointer) }
    }

    /// Reads a byte.
    #[must_use]
    pub fn read_u8(&self, offset: u16) -> u8 {
        self.register(offset).read()
    }

    /// Reads two bytes; the offset is rounded down to their alignment and stays inside the page.
    #[must_use]
    pub fn read_u16(&self, offset: u16) -> u16 {
        self.register(offset).read()
    }

    /// Reads four bytes; the offset is rounded down to their alignment and stays inside the page.
    #[must_use]
    pub fn read_u32(&self, offset: u16) -> u32 {
        self.register(offset).read()
    }
}

impl Drop for MmioPage {
    fn drop(&mut self) {
        // SAFETY: `self` was the only user of the mapping.
        if let Err(error) = unsafe { paging::set_entry(self.slot.address(), 0) } {
            log::error!("unmapping MMIO at {:#x}: {error}", self.slot.address());
        }
    }
}
