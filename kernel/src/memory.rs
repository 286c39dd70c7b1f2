//! The domain's own memory: its frames, how an address is mapped, and protection of the image's segments.

use crate::layout::PAGE_SIZE;
use crate::paging::{self, PteFlags};
use core::ops::Range;
use xen_types::{Errno, Mfn};

pub(crate) use crate::frames::address_of_own_mfn;
pub use crate::frames::{address_of, mfn_of, mfn_of_address, pfn_of_address};

/// How an address is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The machine frame behind it.
    pub mfn: Mfn,
    /// Stores are possible.
    pub writable: bool,
    /// Code can run there.
    pub executable: bool,
}

/// How `address` is mapped, by the page tables as Xen left them (it takes the write bit off MMIO that must not be written); `None` where
/// nothing is.
#[must_use]
pub fn mapping_of(address: usize) -> Option<Mapping> {
    let entry = paging::read_entry(address);
    let flags = PteFlags::from_bits_truncate(entry);
    flags.contains(PteFlags::PRESENT).then(|| Mapping {
        mfn: paging::mfn_in(entry),
        writable: flags.contains(PteFlags::WRITABLE),
        executable: !flags.contains(PteFlags::NO_EXECUTE),
    })
}

// `linker.ld` sets these at page boundaries.
unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    static __stack_guard: u8;
}

fn address(symbol: *const u8) -> usize {
    symbol as usize
}

/// The image's own segments, page aligned: code, constants, data, and the unmapped page below the stack.
#[derive(Clone, Debug)]
pub struct Segments {
    /// Code: executable, read-only.
    pub text: Range<usize>,
    /// Constants: read-only.
    pub rodata: Range<usize>,
    /// Data: writable.
    pub data: Range<usize>,
    /// The guard page, inside `data`.
    pub stack_guard: usize,
}

/// Where the linker put the segments.
#[must_use]
pub fn segments() -> Segments {
    let text = address(&raw const __text_start)..address(&raw const __text_end);
    let rodata = text.end..address(&raw const __rodata_end);
    let data = rodata.end..address(&raw const __image_end);
    Segments { text, rodata, data, stack_guard: address(&raw const __stack_guard) }
}

/// Takes away what the image does not need: code becomes read-only, everything else not executable, the page below the stack
/// disappears. The builder had mapped all of it writable and executable.
///
/// # Errors
/// What Xen says to one of the changes; the image would still run, unprotected.
pub(crate) fn protect_image() -> Result<(), Errno> {
    let Segments { text, rodata, data, stack_guard } = segments();
    remap(text, PteFlags::PRESENT)?;
    remap(rodata, PteFlags::PRESENT | PteFlags::NO_EXECUTE)?;
    remap(data, PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::NO_EXECUTE)?;
    // SAFETY: the guard page is reserved by linker.ld and no object lies in it.
    unsafe { paging::set_entry(stack_guard, 0) }
}

fn remap(range: Range<usize>, flags: PteFlags) -> Result<(), Errno> {
    for page in range.step_by(PAGE_SIZE) {
        let mfn = mfn_of_address(page).ok_or(Errno::EINVAL)?;
        // SAFETY: the same frame stays at the same address; code is only executed, constants only read, data not executed, as the
        // linker's sections promise.
        unsafe { paging::set_entry(page, paging::entry(mfn, flags)) }?;
    }
    Ok(())
}
