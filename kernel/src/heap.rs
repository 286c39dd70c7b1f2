//! The heap: all memory of the domain behind the builder's page tables.

use crate::layout::PAGE_SIZE;
use crate::{lasting, paging, start_info};
use alloc::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap as List;
use spin::Mutex;
use xen_types::{Errno, Pfn};

/// The allocator behind `alloc`, and the most bytes that ever were in use. One vCPU and no upcalls: the lock is never contended, it
/// only makes the static sound.
struct Heap(Mutex<(List, usize)>);

#[cfg_attr(not(test), global_allocator)]
static HEAP: Heap = Heap(Mutex::new((List::empty(), 0)));

// SAFETY: `List` hands out disjoint blocks of memory that `init` and `extend_ram` gave it, of at least the asked size and alignment;
// it never unwinds (panic = abort).
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (list, peak) = &mut *self.0.lock();
        let block = list.allocate_first_fit(layout);
        *peak = list.used().max(*peak);
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(pointer) {
            // SAFETY: the caller's contract: `pointer` came from `alloc` with the same layout.
            unsafe { self.0.lock().0.deallocate(block, layout) }
        }
    }
}

/// Bytes of the heap in use and in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes handed out, allocator overhead included.
    pub used: usize,
    /// The most that ever were in use.
    pub peak: usize,
    /// Bytes the heap has.
    pub total: usize,
}

/// Heap usage.
#[must_use]
pub fn usage() -> Usage {
    let (list, peak) = &*HEAP.0.lock();
    Usage { used: list.used(), peak: *peak, total: list.size() }
}

/// Gives the heap everything behind the builder's page tables and the lasting pages, and maps memory that the builder left unmapped.
///
/// # Errors
/// What Xen says to the new page tables; the heap works without that memory.
///
/// # Safety
/// Called once in each life of the image, before any allocation, when the builder's boot stack is no longer in use.
pub(crate) unsafe fn init() -> Result<(), Errno> {
    let info = start_info::get();
    let start = lasting::end();
    let mut end = start;
    while end < info.memory_end() && paging::is_mapped(end) {
        end += PAGE_SIZE;
    }
    // SAFETY: [start, end) is own memory, mapped writable by the builder, and nothing lies there but the boot stack that was left.
    unsafe { HEAP.0.lock().0.init(start as *mut u8, end - start) };
    extend_ram(end)
}

/// Maps own frames from `address` (2 MiB aligned) on and adds them to the heap.
fn extend_ram(mut address: usize) -> Result<(), Errno> {
    const TABLE_SPAN: usize = 512 * PAGE_SIZE;
    let end = start_info::get().memory_end();
    while address < end {
        let pages = (end - address).min(TABLE_SPAN) / PAGE_SIZE;
        let table = lasting::take().ok_or(Errno::ENOMEM)?;
        let first = Pfn(((address - crate::layout::VIRT_BASE) / PAGE_SIZE) as u64);
        // SAFETY: a zeroed page of our own, aligned for u64, that no other code knows.
        paging::fill_linear_table(unsafe { table.cast().as_mut() }, first, pages)?;
        // SAFETY: the page is ours and given up; its entries map frames that nothing has mapped yet.
        unsafe { paging::add_table(address, table.as_ptr() as usize) }?;
        // SAFETY: the `pages` pages at `address` have just been mapped, directly behind the heap's end.
        unsafe { HEAP.0.lock().0.extend(pages * PAGE_SIZE) };
        address += pages * PAGE_SIZE;
    }
    Ok(())
}

const PAGE: Layout = match Layout::from_size_align(PAGE_SIZE, PAGE_SIZE) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// A zeroed page of the heap, page aligned; `None` when there is none.
pub(crate) fn allocate_page() -> Option<NonNull<u8>> {
    // SAFETY: the layout's size is not zero.
    NonNull::new(unsafe { alloc::alloc::alloc_zeroed(PAGE) })
}

/// Gives back a page.
///
/// # Safety
/// `page` came from [`allocate_page`] and it is not used any more.
pub(crate) unsafe fn free_page(page: NonNull<u8>) {
    // SAFETY: the caller's promise; the layout is the one of `allocate_page`.
    unsafe { alloc::alloc::dealloc(page.as_ptr(), PAGE) }
}
