//! The page and the port that the broker serves.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{clock, events};
use pciif::layout::MsixEntry;
use pciif::{FrontendPage, Request, SharedPage as _};
use platform::OfferedPage;
use xen_types::{DomId, Errno, Port};

/// The case that starts us writes the broker's table after we are there.
const FIRST_PATIENCE_NS: u64 = 60_000_000_000;
/// The broker answers within a second.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Events without a request.
const STORM: u32 = 10_000;

/// Our end.
pub(crate) struct Ring {
    page: FrontendPage<OfferedPage>,
    reference: u32,
    flags: NonNull<u8>,
    port: Port,
}

impl Ring {
    /// Grants a page to dom0 and offers it a port.
    pub(crate) fn offer() -> Result<Self, Errno> {
        let page = OfferedPage::new(DomId::DOM0)?;
        let port = events::alloc_unbound(DomId::DOM0)?;
        let (reference, flags) = (page.reference().0, page.base());
        Ok(Self { page: FrontendPage::new(page), reference, flags, port })
    }

    /// The grant's number.
    pub(crate) fn reference(&self) -> u32 {
        self.reference
    }

    /// The port's number.
    pub(crate) fn port(&self) -> u32 {
        self.port.0
    }

    /// Waits until the broker says that it is there.
    pub(crate) fn wait_for_broker(&mut self) -> Result<(), &'static str> {
        self.wait_for_event(clock::now_ns() + FIRST_PATIENCE_NS, "no broker came")
    }

    /// Asks, waits, and returns the answer's error number.
    pub(crate) fn ask(&mut self, request: &Request, entries: &[MsixEntry]) -> Result<i32, &'static str> {
        self.page.publish_with_entries(request, entries);
        self.answer()
    }

    /// As [`Ring::ask`], with these flags in the page.
    pub(crate) fn ask_with_flags(&mut self, request: &Request, flags: u32) -> Result<i32, &'static str> {
        self.page.publish(request);
        // SAFETY: `flags` is the first word of the page (`pciif.h`), which lives as long as `self` and is reached through atomics only.
        unsafe { AtomicU32::from_ptr(self.flags.as_ptr().cast()) }.store(flags, Ordering::Release);
        self.answer()
    }

    /// Raises the port very often, with nothing to do behind it, and then with a request that changes under the broker's eyes
    /// (all of them with commands that there are not).
    pub(crate) fn storm(&mut self, request: &Request) -> Result<(), &'static str> {
        for turn in 0..STORM {
            if turn > STORM / 2 {
                self.page.publish(&Request { cmd: turn, offset: turn.cast_signed(), ..*request });
            }
            events::notify(self.port).map_err(|_| "the port is gone")?;
        }
        // Whatever the answer is: the next request must not meet the last of these.
        self.answer().map(drop)
    }

    fn answer(&mut self) -> Result<i32, &'static str> {
        let deadline = clock::now_ns() + PATIENCE_NS;
        events::notify(self.port).map_err(|_| "the port is gone")?;
        loop {
            if let Some(response) = self.page.response() {
                return Ok(response.err);
            }
            self.wait_for_event(deadline, "the broker does not answer")?;
        }
    }

    fn wait_for_event(&mut self, deadline: u64, otherwise: &'static str) -> Result<(), &'static str> {
        while !events::clear(self.port) {
            if clock::now_ns() >= deadline {
                return Err(otherwise);
            }
            events::wait(&[self.port], Some(deadline)).map_err(|_| "waiting is refused")?;
        }
        Ok(())
    }
}
