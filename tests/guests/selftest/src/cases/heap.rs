//! The allocator.

use crate::check::{Outcome, check, check_eq};
use alloc::alloc::{Layout, alloc, dealloc};
use alloc::vec::Vec;
use kernel::heap::usage;

pub(super) fn blocks() -> Outcome {
    let before = usage().used;
    let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
    for round in 0..200u8 {
        let size = usize::from(round) * 7 + 1;
        let align = 1 << (round % 13);
        let Ok(layout) = Layout::from_size_align(size, align) else { continue };
        // SAFETY: the size is not zero.
        let block = unsafe { alloc(layout) };
        check!(!block.is_null() && block.addr() % align == 0, "{size} bytes aligned to {align}: {block:p}");
        // SAFETY: freshly allocated with this size.
        unsafe { block.write_bytes(round, size) };
        blocks.push((block, layout, round));
    }
    for &(block, layout, value) in &blocks {
        // SAFETY: allocated and written above.
        let content = unsafe { core::slice::from_raw_parts(block, layout.size()) };
        check!(content.iter().all(|&byte| byte == value), "block {value} was overwritten");
    }
    for (block, layout, _) in blocks.drain(..) {
        // SAFETY: allocated above with this layout, freed once.
        unsafe { dealloc(block, layout) };
    }
    drop(blocks);
    check_eq!(usage().used, before);
    Ok(())
}

pub(super) fn covers_memory() -> Outcome {
    let all = kernel::start_info::get().nr_pages * kernel::layout::PAGE_SIZE;
    let total = usage().total;
    // Image (208 KiB for any, linker.ld) and page tables, and the lasting pages: a 128th.
    check!(total <= all && total + 320 * 1024 + all / 128 >= all, "heap of {total} bytes in a domain of {all}");
    Ok(())
}
