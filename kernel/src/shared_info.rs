//! The page that Xen shares with the domain: pending events and time (`struct shared_info`, `xen/include/public/xen.h`).

use crate::fixmap::FixmapEntry;
use crate::layout::PAGE_SIZE;
use crate::paging::{self, PteFlags};
use crate::start_info;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64};
use spin::Once;
use volatile::VolatilePtr;
use volatile::access::ReadOnly;
use xen_types::{Errno, Mfn};

const _: () = assert!(offset_of!(xen_sys::shared_info, evtchn_pending) == 2048);
const _: () = assert!(offset_of!(xen_sys::shared_info, evtchn_mask) == 2560);
const _: () = assert!(offset_of!(xen_sys::vcpu_info, evtchn_pending_sel) == 8);
const _: () = assert!(offset_of!(xen_sys::vcpu_info, arch) == 16);
const _: () = assert!(offset_of!(xen_sys::vcpu_info, time) == 32);
const _: () = assert!(size_of::<xen_sys::vcpu_time_info>() == 32);

/// Words of the two-level bitmaps: 64 × 64 ports.
pub(crate) const EVENT_WORDS: usize = 64;

static PAGE: Once<SharedInfo> = Once::new();

/// The mapped page. It stays mapped for ever.
pub(crate) struct SharedInfo {
    slot: FixmapEntry,
}

impl SharedInfo {
    /// One word of the pending bitmap: set by Xen, cleared by us.
    pub(crate) fn pending(&self, word: usize) -> &AtomicU64 {
        self.word(offset_of!(xen_sys::shared_info, evtchn_pending) + word % EVENT_WORDS * 8)
    }

    /// One word of the mask bitmap.
    pub(crate) fn mask(&self, word: usize) -> &AtomicU64 {
        self.word(offset_of!(xen_sys::shared_info, evtchn_mask) + word % EVENT_WORDS * 8)
    }

    /// The words of the pending bitmap that Xen has touched since this was last cleared (vCPU 0).
    pub(crate) fn pending_selector(&self) -> &AtomicU64 {
        self.word(offset_of!(xen_sys::vcpu_info, evtchn_pending_sel))
    }

    /// Non-zero when an unmasked port became pending (vCPU 0).
    pub(crate) fn upcall_pending(&self) -> &AtomicU8 {
        // SAFETY: offset 0 is `evtchn_upcall_pending` of vCPU 0; see `word`.
        unsafe { AtomicU8::from_ptr(self.slot.base().as_ptr()) }
    }

    #[inline(always)] // in each turn of the main loop
    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped writable for ever, offsets are those of aligned u64 fields (asserted above) inside it, and both
        // sides access them atomically (xen.h: "set and cleared using atomic operations").
        unsafe { AtomicU64::from_ptr(self.slot.place(offset).as_ptr()) }
    }

    /// The time record of vCPU 0.
    pub(crate) fn time(&self) -> VolatilePtr<'_, xen_sys::vcpu_time_info, ReadOnly> {
        // SAFETY: mapped for ever, aligned (asserted offset), written by Xen only.
        unsafe { VolatilePtr::new_read_only(self.slot.place(offset_of!(xen_sys::vcpu_info, time))) }
    }

    /// The address that the last page fault was about (`arch.cr2` of vCPU 0).
    pub(crate) fn fault_address(&self) -> u64 {
        // SAFETY: `arch_vcpu_info.cr2` is its first field; written by Xen before the fault is delivered.
        unsafe { self.slot.place::<u64>(offset_of!(xen_sys::vcpu_info, arch)).as_ptr().read_volatile() }
    }
}

/// Maps the page.
pub(crate) fn init() -> Result<(), Errno> {
    let slot = FixmapEntry::take()?;
    let mfn = Mfn(start_info::get().shared_info_address / PAGE_SIZE as u64);
    let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::NO_EXECUTE | PteFlags::USER_ACCESSIBLE;
    // SAFETY: the slot is ours and empty; the frame is the one Xen named for this purpose.
    unsafe { paging::set_entry(slot.address(), paging::entry(mfn, flags)) }?;
    PAGE.call_once(|| SharedInfo { slot });
    Ok(())
}

/// The page; `None` before [`init`].
pub(crate) fn try_get() -> Option<&'static SharedInfo> {
    PAGE.get()
}

/// The page, after [`init`].
#[inline(always)] // in each turn of the main loop
pub(crate) fn get() -> &'static SharedInfo {
    #[expect(clippy::expect_used, reason = "order of initialisation is fixed in entry.rs")]
    PAGE.get().expect("shared_info is mapped first")
}
