//! From a page of memory to atomic cells: the only module of this crate that says `unsafe`.
//!
//! The other side of the page may write to it at any moment. So no reference to its bytes ever exists but `&AtomicU32` and
//! `&AtomicU16`, which the language lets change under us, and every access is one load or store of a whole field.
//! A relaxed atomic load yields one value that the compiler may not fetch again, which is all that a snapshot needs.
#![allow(unsafe_code)]

mod owned;

use alloc::sync::Arc;
use core::mem::{offset_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32};

pub use owned::OwnedPage;

use crate::PAGE_SIZE;
use crate::layout::{MAX_VECTORS, MsixEntry, SharedInfo};

/// A page of memory that another domain shares.
///
/// # Safety
/// Who implements this promises, for as long as the value lives:
/// 1. [`SharedPage::base`] returns the same address each time, a multiple of 4096;
/// 2. the 4096 bytes from there may be read and written;
/// 3. this program reaches those bytes through atomic operations only (the other domain may do what it likes).
pub unsafe trait SharedPage {
    /// Where the page starts.
    fn base(&self) -> NonNull<u8>;
}

// SAFETY: a borrowed page keeps the promises of the page it borrows.
unsafe impl<P: SharedPage + ?Sized> SharedPage for &P {
    fn base(&self) -> NonNull<u8> {
        (**self).base()
    }
}

// SAFETY: all owners hold the same page, which lives until the last of them is gone.
unsafe impl<P: SharedPage + ?Sized> SharedPage for Arc<P> {
    fn base(&self) -> NonNull<u8> {
        (**self).base()
    }
}

/// The fields of a page as atomic cells.
#[derive(Debug)]
pub(crate) struct Cells<P>(pub(crate) P);

impl<P: SharedPage> Cells<P> {
    /// `flags`.
    #[inline(always)] // as `word`
    pub(crate) fn flags(&self) -> &AtomicU32 {
        self.word::<{ offset_of!(SharedInfo, flags) }>()
    }

    /// The 32-bit field at byte `OFFSET` of [`SharedInfo`].
    #[inline(always)] // one instruction, many times for each request
    pub(crate) fn word<const OFFSET: usize>(&self) -> &AtomicU32 {
        const {
            let is_before = OFFSET < offset_of!(SharedInfo, op.msix_entries);
            let is_behind = OFFSET >= offset_of!(SharedInfo, aer_op) && OFFSET < size_of::<SharedInfo>();
            assert!(OFFSET.is_multiple_of(4) && (is_before || is_behind));
        };
        let cell = self.0.base().as_ptr().wrapping_add(OFFSET).cast();
        // SAFETY: the page is page-aligned, valid for reads and writes while `self.0` is borrowed and only reached through
        // atomics (the promises of `SharedPage`); the assertion above keeps the word aligned and inside the page. No other
        // accessor reaches these bytes with another size, since `half` keeps to the entries between them.
        unsafe { AtomicU32::from_ptr(cell) }
    }

    /// `vector` of MSI-X entry `index`, `None` past the last.
    pub(crate) fn entry_vector(&self, index: usize) -> Option<&AtomicU16> {
        self.half(index, offset_of!(MsixEntry, vector))
    }

    /// `entry` of MSI-X entry `index`, `None` past the last.
    pub(crate) fn entry_index(&self, index: usize) -> Option<&AtomicU16> {
        self.half(index, offset_of!(MsixEntry, entry))
    }

    fn half(&self, index: usize, field: usize) -> Option<&AtomicU16> {
        if index >= MAX_VECTORS {
            return None;
        }
        let offset = offset_of!(SharedInfo, op.msix_entries) + index * size_of::<MsixEntry>() + field;
        let cell = self.0.base().as_ptr().wrapping_add(offset).cast();
        // SAFETY: as in `word`; `index` was checked, so the field lies inside the entries, and every offset there is even.
        Some(unsafe { AtomicU16::from_ptr(cell) })
    }
}

const _: () = assert!(size_of::<SharedInfo>() <= PAGE_SIZE);
