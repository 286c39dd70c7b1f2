//! Frames, mappings and address slots.

use crate::check::{Outcome, check, check_eq, ok};
use alloc::vec::Vec;
use kernel::fixmap::{self, FixmapEntry};
use kernel::layout::PAGE_SIZE;
use kernel::memory::{self, mapping_of};
use xen_types::Pfn;

pub(super) fn frame_list() -> Outcome {
    for pfn in (0..kernel::start_info::get().nr_pages as u64).map(Pfn) {
        let address = memory::address_of(pfn);
        check_eq!(memory::pfn_of_address(address), Some(pfn));
        if let Some(mapping) = mapping_of(address) {
            check_eq!(Some(mapping.mfn), memory::mfn_of(pfn));
        }
    }
    let last = Pfn(kernel::start_info::get().nr_pages as u64);
    check_eq!(memory::mfn_of(last), None);
    check_eq!(memory::pfn_of_address(memory::address_of(last)), None);
    Ok(())
}

pub(super) fn protection() -> Outcome {
    let segments = memory::segments();
    for (range, writable, executable) in
        [(segments.text, false, true), (segments.rodata, false, false), (segments.data, true, false)]
    {
        check!(!range.is_empty(), "{range:x?} is empty");
        for page in range.step_by(PAGE_SIZE) {
            let rights = mapping_of(page).map(|mapping| (mapping.writable, mapping.executable));
            let want = (page != segments.stack_guard).then_some((writable, executable));
            check!(rights == want, "page {page:#x}: {rights:?}, want {want:?}");
        }
    }
    Ok(())
}

pub(super) fn all_mapped() -> Outcome {
    let pages = kernel::start_info::get().nr_pages as u64;
    let unmapped: Vec<usize> =
        (0..pages).map(|pfn| memory::address_of(Pfn(pfn))).filter(|&address| mapping_of(address).is_none()).collect();
    check_eq!(unmapped, [memory::segments().stack_guard]);
    Ok(())
}

pub(super) fn fixmap_growth() -> Outcome {
    let before = fixmap::slots_in_use();
    let mut addresses: Vec<usize> = Vec::new();
    let mut slots = Vec::new();
    for _ in 0..900 {
        let slot = ok!(FixmapEntry::take());
        check!(mapping_of(slot.address()).is_none(), "slot {:#x} is not empty", slot.address());
        addresses.push(slot.address());
        slots.push(slot);
    }
    addresses.sort_unstable();
    addresses.dedup();
    check_eq!(addresses.len(), 900);
    check_eq!(fixmap::slots_in_use(), before + 900);
    // A table where there is one already: the page for it is given back.
    let used = kernel::heap::usage().used;
    for slot in slots.iter().take(10) {
        check_eq!(fixmap::make_table(slot.address()), Err(xen_types::Errno::EEXIST));
    }
    check_eq!(kernel::heap::usage().used, used);
    drop(slots);
    check_eq!(fixmap::slots_in_use(), before);
    Ok(())
}
