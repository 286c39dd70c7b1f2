//! The domain's own frames: where each is in the linear mapping, and which machine frame is behind it.

use crate::layout::{PAGE_SIZE, VIRT_BASE};
use crate::start_info;
use xen_types::{Mfn, Pfn};

/// Virtual address of an own frame in the linear mapping, whether or not it is mapped there.
#[must_use]
pub const fn address_of(pfn: Pfn) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide on the only target")]
    let page = pfn.0 as usize;
    VIRT_BASE + page * PAGE_SIZE
}

/// The own frame that holds `address`, if the address is in the domain's memory.
#[must_use]
pub fn pfn_of_address(address: usize) -> Option<Pfn> {
    let page = address.checked_sub(VIRT_BASE)? / PAGE_SIZE;
    (page < start_info::get().nr_pages).then_some(Pfn(page as u64))
}

/// The machine frame behind an own frame.
#[must_use]
pub fn mfn_of(pfn: Pfn) -> Option<Mfn> {
    let info = start_info::get();
    let index = usize::try_from(pfn.0).ok().filter(|&index| index < info.nr_pages)?;
    let entry = (info.frame_list as *const u64).wrapping_add(index);
    // SAFETY: the builder's frame list has `nr_pages` entries at `frame_list` (xen.h, struct start_info), is mapped, lies below the
    // heap and is not written.
    Some(Mfn(unsafe { *entry }))
}

/// The machine frame behind an address of the domain's own memory.
#[must_use]
pub fn mfn_of_address(address: usize) -> Option<Mfn> {
    mfn_of(pfn_of_address(address)?)
}

/// Xen's table of the frame behind each machine frame, which every PV guest can read (`MACH2PHYS_VIRT_START`, `arch-x86/xen-x86_64.h`).
const MACHINE_TO_PHYS: usize = 0xffff_8000_0000_0000;

/// The own frame behind a machine frame, for one that a page table of ours or `start_info` names.
#[must_use]
pub(crate) fn pfn_of(mfn: Mfn) -> Option<Pfn> {
    let index = usize::try_from(mfn.0).ok()?;
    // SAFETY: Xen maps the table with an entry for each frame of the machine's memory, and both sources name only such.
    let pfn = Pfn(unsafe { (MACHINE_TO_PHYS as *const u64).wrapping_add(index).read_volatile() });
    (mfn_of(pfn) == Some(mfn)).then_some(pfn)
}

/// Address of an own frame that Xen names by its machine number (xenstore and console rings, page tables).
pub(crate) fn address_of_own_mfn(mfn: Mfn) -> Option<usize> {
    pfn_of(mfn).map(address_of)
}
