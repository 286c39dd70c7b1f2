//! All-ones detector: a function that reads as ones may have been removed.

use core::cell::Cell;

use crate::config::is_absent;
use crate::platform::{ConfigSpace, Width};

/// A function's registers, while one request is executed.
pub(super) struct AllOnesDetector<'a, H> {
    hw: &'a H,
    has_read_ones: Cell<bool>,
}

impl<'a, H: ConfigSpace> AllOnesDetector<'a, H> {
    pub(super) const fn new(hw: &'a H) -> Self {
        Self { hw, has_read_ones: Cell::new(false) }
    }

    /// True when it was read as ones, and that is no accident. Costs nothing where it was not.
    #[inline(always)]
    pub(super) fn is_absent(&self) -> bool {
        self.has_read_ones.get() && is_absent(self.hw)
    }
}

impl<H: ConfigSpace> ConfigSpace for AllOnesDetector<'_, H> {
    #[inline(always)] // on the way of each read
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        let value = self.hw.read_config(offset, width);
        if value == width.bits() {
            self.has_read_ones.set(true);
        }
        value
    }
}
