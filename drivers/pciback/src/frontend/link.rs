//! A connection's page and port, and what its request waits for.

use alloc::format;

use pciif::{AerNotification, BackendPage, Reply, Request};
use xen_types::{DomId, Port};

use super::exports::Exports;
use crate::handshake::{Failure, Keys};
use crate::platform::{Grants, Platform};
use crate::pool::{Notified, Relay};

/// The mapped page and the port that goes with it.
pub(crate) struct Link<P: Platform> {
    port: Port,
    pub(super) page: BackendPage<<P as Grants>::Page>,
    /// State of the request in the page.
    pub(super) pending: Pending,
    /// It has a place in the broker's queue. Who gave up and asks again has it still.
    pub(super) is_queued: bool,
    /// Reason to delay the next request, if any.
    pub(super) delay: Option<Delay>,
}

/// State of the request in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing: there is none, or it has not been looked at.
    Nothing,
    /// Its turn with the broker.
    Turn,
    /// The broker, which has it. This is the request as it was then.
    Broker(Request),
}

/// Reasons to delay a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay {
    /// It stands aside until then, by the platform's clock; 0 where it does not.
    pub(super) aside_until_ns: u64,
    /// It is to be told of devices, or to answer what it was told.
    awaits_answer: bool,
}

impl<P: Platform> Link<P> {
    /// Maps the page and binds the port. `has_losses`: some of the devices are gone and the frontend has not been told.
    ///
    /// # Errors
    /// Which of the two Xen has refused, and why.
    pub(super) fn open(platform: &P, domid: DomId, keys: Keys, has_losses: bool) -> Result<Self, Failure> {
        let page = platform.map_grant(domid, keys.gref).map_err(|errno| Failure {
            errno,
            text: format!("cannot map the page that it granted as {}", keys.gref),
        })?;
        // From here on a failure drops the page, which unmaps it.
        let port = platform
            .bind_interdomain(domid, keys.port)
            .map_err(|errno| Failure { errno, text: format!("cannot bind its event channel {}", keys.port) })?;
        let delay = has_losses.then_some(Delay { aside_until_ns: 0, awaits_answer: true });
        Ok(Self { port, page: BackendPage::new(page), pending: Pending::Nothing, is_queued: false, delay })
    }

    /// Answers what is still in the page, closes the port and unmaps the page.
    pub(super) fn close(self, platform: &P) {
        // NetBSD and mini-os wait for ever for an answer (docs/protocol.md §7).
        if self.page.is_active() {
            self.page.answer(Reply::NO_DEVICE.err, Reply::NO_DEVICE.value);
            platform.notify(self.port);
        }
        platform.close(self.port);
    }

    /// Our end of the event channel.
    #[inline(always)]
    pub(super) const fn port(&self) -> Port {
        self.port
    }

    /// The request in the page does not wait for its turn with the broker any more. What the broker has it still has.
    #[inline(always)]
    pub(super) fn leave_queue(&mut self) {
        if self.pending == Pending::Turn {
            self.pending = Pending::Nothing;
        }
    }

    /// Has the frontend stand aside until then.
    pub(super) fn put_aside(&mut self, aside_until_ns: u64) {
        let awaits_answer = self.delay.is_some_and(|delay| delay.awaits_answer);
        self.delay = Some(Delay { aside_until_ns, awaits_answer });
    }

    /// The frontend is to be told of devices as soon as its page is free, or to answer what it was told: its events are looked at for that.
    pub(super) fn await_answer(&mut self) {
        let aside_until_ns = self.delay.map_or(0, |delay| delay.aside_until_ns);
        self.delay = Some(Delay { aside_until_ns, awaits_answer: true });
    }

    /// An answer is about to be looked at: no event is looked at for it until [`Link::await_answer`]. False where none was.
    pub(super) fn take_answer(&mut self) -> bool {
        self.delay.as_mut().is_some_and(|delay| core::mem::take(&mut delay.awaits_answer))
    }

    /// Tells the frontend of one device that is gone; of the next when it has answered, which nothing waits for.
    pub(super) fn tell_losses(&mut self, platform: &P, exports: &mut Exports<P>) {
        let Self { port, page, delay, .. } = self;
        let Some(delay) = delay else { return };
        let relay = exports.devices().map(|device| device.relay).max().unwrap_or_default();
        let mut awaits_answer = delay.awaits_answer && relay != Relay::Nothing;
        exports.visit(|virtual_address, device| {
            if device.notified == Notified::Toolstack {
                if relay == Relay::Notified {
                    return false; // until its answer is taken, which stays in the page
                }
                match page.tell_gone(virtual_address) {
                    AerNotification::Busy => {
                        awaits_answer = true;
                        return false;
                    }
                    AerNotification::Deaf => {}
                    AerNotification::Sent => platform.notify(*port),
                }
                device.notified = Notified::Guest;
            }
            true
        });
        delay.awaits_answer = awaits_answer;
    }

    /// Whether the request in the page waits, after a turn that took too long: who has set the frontend aside sees to it that there is an event.
    pub(super) fn is_aside(&mut self, now_ns: u64) -> bool {
        let Some(Delay { aside_until_ns, awaits_answer }) = self.delay else { return false };
        let waits = now_ns < aside_until_ns;
        if !waits && !awaits_answer {
            self.delay = None;
        }
        waits
    }
}
