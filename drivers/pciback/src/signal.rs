//! A flag that a task waits for, set when it has to look again.

use alloc::rc::Rc;
use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::task::{Context, Poll, Waker};

/// Raised any number of times, seen once: however often a guest touches a watched node, there is one flag for it and never a
/// queue (XSA-349).
#[derive(Default)]
pub(crate) struct Signal {
    raised: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Signal {
    /// A signal and its sharer's handle.
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self::default())
    }

    /// Raises the flag and wakes who waits.
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }

    /// Lowers the flag without waiting. True when it was up.
    pub(crate) fn lower(&self) -> bool {
        self.raised.replace(false)
    }

    /// Waits until the flag is raised and lowers it.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| self.poll_wait(cx))
    }

    /// As [`Signal::wait`].
    pub(crate) fn poll_wait(&self, cx: &Context<'_>) -> Poll<()> {
        if self.lower() {
            return Poll::Ready(());
        }
        self.waiter.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}
