//! Grants, between this domain and itself.

use crate::check::{Outcome, check, check_eq, ok};
use alloc::vec::Vec;
use core::ptr::NonNull;
use kernel::grants::{self, GrantError, MapRequest, table::GrantedPage};
use kernel::memory::mapping_of;
use kernel::{fixmap, heap};
use xen_types::{DomId, GrantRef};

const SELF: DomId = DomId::DOM0;

fn request(page: &GrantedPage, writable: bool) -> MapRequest {
    MapRequest { peer: SELF, reference: page.reference(), writable }
}

fn write(page: NonNull<u8>, offset: usize, value: u32) {
    // SAFETY: cases pass pages that are mapped writable, and offsets inside them.
    unsafe { page.as_ptr().wrapping_add(offset).cast::<u32>().write_volatile(value) }
}

fn read(page: NonNull<u8>, offset: usize) -> u32 {
    // SAFETY: as in `write`.
    unsafe { page.as_ptr().wrapping_add(offset).cast::<u32>().read_volatile() }
}

pub(super) fn shared() -> Outcome {
    let page = ok!(GrantedPage::new(SELF, true));
    let mapping = ok!(grants::map(request(&page, true)));
    check!(mapping.base() != page.base(), "a second address");
    for (offset, value) in [(0, 0x1234_5678), (4092, 0xdead_beef)] {
        write(page.base(), offset, value);
        check_eq!(read(mapping.base(), offset), value);
        write(mapping.base(), offset, !value);
        check_eq!(read(page.base(), offset), !value);
    }
    Ok(())
}

pub(super) fn read_only() -> Outcome {
    let page = ok!(GrantedPage::new(SELF, false));
    check!(grants::map(request(&page, true)).is_err(), "a read-only grant was mapped writable");
    let mapping = ok!(grants::map(request(&page, false)));
    check_eq!(mapping_of(mapping.base().addr().get()).map(|mapping| mapping.writable), Some(false));
    Ok(())
}

pub(super) fn batch() -> Outcome {
    let pages = [ok!(GrantedPage::new(SELF, true)), ok!(GrantedPage::new(SELF, true))];
    let bad = MapRequest { peer: SELF, reference: GrantRef(1 << 20), writable: true };
    let nobody = MapRequest { peer: DomId(4711), reference: GrantRef(8), writable: true };
    let results = grants::map_batch(&[request(&pages[0], true), bad, nobody, request(&pages[1], true)]);
    check_eq!(
        results.iter().map(|result| result.as_ref().err().copied()).collect::<Vec<_>>(),
        [None, Some(GrantError::Status(-3)), Some(GrantError::Status(-2)), None]
    );
    let mappings: Vec<_> = results.into_iter().flatten().collect();
    let addresses: Vec<usize> = mappings.iter().map(|mapping| mapping.base().addr().get()).collect();
    grants::unmap_batch(mappings);
    for address in addresses {
        check_eq!(mapping_of(address), None);
    }
    Ok(())
}

pub(super) fn no_leak() -> Outcome {
    // The first use maps the grant table itself, which stays.
    drop(ok!(GrantedPage::new(SELF, true)));
    let before = (fixmap::slots_in_use(), heap::usage().used);
    let mut references = Vec::new();
    for _ in 0..600 {
        let page = ok!(GrantedPage::new(SELF, true));
        drop(ok!(grants::map(request(&page, true))));
        references.push(page.reference());
    }
    references.sort_unstable();
    references.dedup();
    check_eq!(references.len(), 1);
    drop(references);
    check_eq!((fixmap::slots_in_use(), heap::usage().used), before);
    Ok(())
}
