//! A page of loom's cells: those words that the protocol uses, each made when the page is.

use std::mem::{offset_of, size_of};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::layout::SharedInfo;

/// Vectors that a page here has; no request of the tests counts more.
const ENTRIES: usize = 2;
const WORDS: usize = offset_of!(SharedInfo, op.msix_entries) / 4;
const AER_WORDS: usize = (size_of::<SharedInfo>() - offset_of!(SharedInfo, aer_op)) / 4;

/// A page of zeros.
#[derive(Debug)]
pub struct Page {
    words: [AtomicU32; WORDS],
    entries: [[AtomicU16; 2]; ENTRIES],
    aer: [AtomicU32; AER_WORDS],
}

impl Page {
    /// As Linux grants it.
    #[expect(clippy::new_without_default, reason = "a page that is granted is no default one")]
    pub fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU32::new(0)),
            entries: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU16::new(0))),
            aer: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// What a guest may do at any time, with the word at byte `offset`.
    pub fn scribble(&self, offset: usize, value: u32) {
        self.words[offset / 4].store(value, Ordering::Relaxed);
    }
}

/// Whatever has a page.
pub trait SharedPage {
    /// The page.
    fn page(&self) -> &Page;
}

impl SharedPage for Arc<Page> {
    fn page(&self) -> &Page {
        self
    }
}

/// As that of `pciif`.
#[derive(Debug)]
pub(crate) struct Cells<P>(pub(crate) P);

impl<P: SharedPage> Cells<P> {
    pub(crate) fn flags(&self) -> &AtomicU32 {
        self.word::<{ offset_of!(SharedInfo, flags) }>()
    }

    pub(crate) fn word<const OFFSET: usize>(&self) -> &AtomicU32 {
        let page = self.0.page();
        let behind = OFFSET.checked_sub(offset_of!(SharedInfo, aer_op));
        behind.map_or_else(|| &page.words[OFFSET / 4], |behind| &page.aer[behind / 4])
    }

    pub(crate) fn entry_vector(&self, index: usize) -> Option<&AtomicU16> {
        Some(&self.0.page().entries.get(index)?[0])
    }

    pub(crate) fn entry_index(&self, index: usize) -> Option<&AtomicU16> {
        Some(&self.0.page().entries.get(index)?[1])
    }
}
