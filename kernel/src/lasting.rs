//! Pages that stay what they are when the image is started again in place: page tables, the records of the fixmap's growth, the page that the broker
//! maps. They lie in front of the heap and are handed out once each.

use core::ptr::NonNull;

use crate::layout::PAGE_SIZE;
use crate::{start_info, survivor};

/// How many there are: enough for the page tables of all memory (one for 512 pages) and for those of a fixmap that serves as many frontends as the
/// memory has room for (three pages for 512 entries).
fn count() -> usize {
    6 + start_info::get().nr_pages / 128
}

/// First byte behind them.
pub(crate) fn end() -> usize {
    start_info::get().first_free_address() + count() * PAGE_SIZE
}

/// The page with this number.
pub(crate) fn page(number: u64) -> Option<NonNull<u8>> {
    let number = usize::try_from(number).ok().filter(|&number| number < count())?;
    NonNull::new((start_info::get().first_free_address() + number * PAGE_SIZE) as *mut u8)
}

/// A zeroed page, for ever; `None` when there is none.
pub(crate) fn take() -> Option<NonNull<u8>> {
    let page = page(survivor::facts().lasting_pages)?;
    survivor::change(|facts| facts.lasting_pages += 1);
    // SAFETY: one of the pages in front of the heap, mapped writable by the builder, given to nobody before.
    unsafe { page.as_ptr().write_bytes(0, PAGE_SIZE) };
    Some(page)
}

/// Takes back the page that was handed out last.
pub(crate) fn give_back() {
    survivor::change(|facts| facts.lasting_pages -= 1);
}
