//! A page of our own memory, for both ends of a page in one program: tests and simulations.

use alloc::boxed::Box;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::{PAGE_SIZE, SharedPage};

const WORDS: usize = PAGE_SIZE / 4;

#[repr(C, align(4096))]
struct Frame([AtomicU32; WORDS]);

/// A page on the heap. Share it between its two ends with [`Arc`](alloc::sync::Arc) or by reference.
pub struct OwnedPage(Box<Frame>);

impl OwnedPage {
    /// A page of zeros, as Linux grants it.
    #[must_use]
    pub fn new() -> Self {
        Self::filled(0)
    }

    /// A page full of one word, for frontends that do not clear what they grant.
    #[must_use]
    pub fn filled(word: u32) -> Self {
        Self(Box::new(Frame(core::array::from_fn(|_| AtomicU32::new(word)))))
    }

    /// The word at byte `offset`; `None` where that is no aligned word of the page.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<u32> {
        self.cell(offset).map(|cell| cell.load(Ordering::Acquire))
    }

    /// Scribbles over the word at byte `offset`, as a frontend may at any time. False where that is no aligned word of the page.
    pub fn set_word(&self, offset: usize, value: u32) -> bool {
        self.cell(offset).map(|cell| cell.store(value, Ordering::Release)).is_some()
    }

    fn cell(&self, offset: usize) -> Option<&AtomicU32> {
        if offset.is_multiple_of(4) { self.0.0.get(offset / 4) } else { None }
    }
}

impl Default for OwnedPage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for OwnedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedPage({:p})", self.base())
    }
}

// SAFETY: the box holds one page-aligned frame of 4096 bytes and is never replaced while the page lives; its content is
// nothing but atomic cells, so every other access in this program is atomic too.
unsafe impl SharedPage for OwnedPage {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }
}
