//! A write to an attribute that the kernel takes long over.

use std::io;

/// A write under way.
pub(crate) struct Pending(Box<dyn FnOnce() -> io::Result<()>>);

impl Pending {
    /// One whose end `wait` waits for.
    pub(super) fn new(wait: impl FnOnce() -> io::Result<()> + 'static) -> Self {
        Self(Box::new(wait))
    }

    pub(super) fn wait(self) -> io::Result<()> {
        self.0()
    }
}
