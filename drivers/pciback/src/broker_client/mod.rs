//! Client of the broker's ring (`docs/broker.md`): one request at a time, whether a broker is there, and the queue of frontends.
//!
//! The queue has frontends, not requests: what waits is in their pages. Cleanups, which are flags of functions and have a queue of their own, come
//! first.
//!
//! A request that has waited for a second and a half waits no longer, but a late answer must never be taken for that of the next request. So a
//! request that took too long stays in the page as a `query` of the same device, and nothing else is asked before the page is
//! free again: whichever of the two is answered then, and by which broker, a broker is there.

use alloc::vec::Vec;

use pcidom_abi::BrokerCommand;
use pciif::layout::MsixEntry;
use pciif::{FrontendPage, Request};
use xen_types::{DomId, Errno, GrantRef, Port, Sbdf};

use crate::config::{HardwareWrite, Register};
use crate::platform::{self, Platform, Width};
use crate::requests::{BrokerAnswer, BrokerRequest};

/// Time-out of a request. Guests give up after 2 s (xen-pcifront); this leaves time for the answer, and a dom0 that is busy as much as can be had.
const PATIENCE_NS: u64 = 1_500_000_000;

/// Time until a refused clean-up is asked for again: twice as long each time, up to 64 times.
const RETRY_NS: u64 = 1_000_000_000;
const MAX_RETRY_SHIFT: u32 = 6;

/// A job that the broker has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// The function's real address.
    pub(crate) device: Sbdf,
    /// What is to be done.
    pub(crate) job: BrokerRequest,
    /// The frontend that waits for it; `None` for a cleanup, or when the frontend has given up.
    pub(crate) frontend: Option<DomId>,
}

enum State {
    Idle,
    Asked {
        what: InFlight,
        request: Request,
        deadline_ns: u64,
    },
    /// It did not answer in time, and the query is in the page. It may still do the job, late, to the guest that has the function then.
    Silent {
        late: InFlight,
    },
}

/// Whether something can be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Yes.
    Free,
    /// Not before what it has is done.
    Busy,
    /// No broker is there.
    Away,
}

/// The broker, as far as we see it.
pub(crate) struct Broker<P: Platform> {
    ring: Option<Ring<P>>,
    state: State,
    // The queues are vectors: they are short, and each type in a `VecDeque` is some hundred bytes of the image.
    /// Functions with a cleanup to do, each once: all but those that it was not there for, and some that need none any more.
    cleanups: Vec<Sbdf>,
    /// Functions that are away, and when each is looked at next. Some are not away any more.
    looked_for: Vec<(u64, Sbdf)>,
    /// Frontends in the order in which they came, each once. Some wait no longer.
    waiting: Vec<DomId>,
    /// The log says that it is not there.
    is_absence_logged: bool,
    /// It is there again, or may do now what it refused, and what is still to be done is to be looked for.
    has_returned: bool,
    /// When it is asked once more for the clean-ups that it has refused.
    retry_ns: Option<u64>,
    /// How many it has refused since the last one that it did.
    refusals: u32,
}

struct Ring<P: Platform> {
    gref: GrantRef,
    port: Port,
    page: FrontendPage<<P as platform::Broker>::Ring>,
}

impl<P: Platform> Default for Broker<P> {
    fn default() -> Self {
        let (cleanups, looked_for, waiting) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            ring: None,
            state: State::Idle,
            cleanups,
            looked_for,
            waiting,
            is_absence_logged: false,
            has_returned: false,
            retry_ns: None,
            refusals: 0,
        }
    }
}

impl<P: Platform> Broker<P> {
    /// Makes the ring. Once, at the start.
    pub(crate) fn offer(&mut self, platform: &P) -> Result<Port, Errno> {
        let platform::RingOffer { page, gref, port } = platform.offer_ring()?;
        let page = FrontendPage::new(page);
        if page.is_active() {
            platform.notify(port); // it may not have been told yet
            // It is at what a life before has asked, which is asked again by who wants it: its answer is waited for, and that is all.
            let none = HardwareWrite { register: Register::Command, offset: 0, width: Width::Byte, mask: 0, value: 0 };
            let job = BrokerRequest::Write { now: none, then: None, failed: false };
            let device = Sbdf::from_devfn(0, 0, 0);
            let what = InFlight { device, job, frontend: None };
            let deadline_ns = platform.now_ns() + PATIENCE_NS;
            self.state = State::Asked { what, request: job.request(device), deadline_ns };
        }
        self.ring = Some(Ring { gref, port, page });
        Ok(port)
    }

    /// What to announce.
    pub(crate) fn offered(&self) -> Option<(GrantRef, Port)> {
        self.ring.as_ref().map(|ring| (ring.gref, ring.port))
    }

    /// When [`Broker::poll`] has something to do by itself; 0 for at once.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        match self.state {
            State::Asked { deadline_ns, .. } => Some(deadline_ns),
            State::Idle | State::Silent { .. } if self.is_due() => Some(0),
            State::Idle => self.retry_ns.into_iter().chain(self.next_look_ns()).min(),
            State::Silent { .. } => self.next_look_ns(),
        }
    }

    /// True while it has something to do.
    pub(crate) const fn is_busy(&self) -> bool {
        matches!(self.state, State::Asked { .. })
    }

    /// True when there is something to ask or to answer.
    pub(crate) fn is_due(&self) -> bool {
        self.has_cleanups() || !self.waiting.is_empty()
    }

    /// True when some function may have a cleanup to do.
    pub(crate) fn has_cleanups(&self) -> bool {
        self.has_returned || !self.cleanups.is_empty()
    }

    /// Makes room for so many functions and their frontends, so that answering requests takes no memory.
    pub(crate) fn make_room(&mut self, functions: usize) {
        self.cleanups.reserve(2 * functions);
        self.looked_for.reserve(functions);
        self.waiting.reserve(functions);
    }

    /// Takes note of a function that has a cleanup to do, and is not noted yet.
    pub(crate) fn queue_cleanup(&mut self, device: Sbdf) {
        self.cleanups.push(device);
    }

    /// Has a function that is away looked at then.
    pub(crate) fn look_for(&mut self, device: Sbdf, at_ns: u64) {
        self.looked_for.push((at_ns, device));
    }

    /// When the next one is looked at.
    fn next_look_ns(&self) -> Option<u64> {
        self.looked_for.iter().map(|(at_ns, _)| *at_ns).min()
    }

    /// The function that has waited longest for its cleanup, not to be asked about again. The caller clears its `is_queued`.
    pub(crate) fn next_cleanup(&mut self) -> Option<Sbdf> {
        take_first(&mut self.cleanups)
    }

    /// It has done a clean-up, or has refused one that it is to be asked for again.
    pub(crate) fn cleanup_answered(&mut self, platform: &P, is_done: bool) {
        if is_done {
            self.refusals = 0;
            return;
        }
        let wait_ns = RETRY_NS << self.refusals.min(MAX_RETRY_SHIFT);
        self.refusals = self.refusals.saturating_add(1);
        let at_ns = platform.now_ns() + wait_ns;
        // One device's refusals put off no other's.
        self.retry_ns = Some(self.retry_ns.map_or(at_ns, |earlier| earlier.min(at_ns)));
    }

    /// Has what was refused, and what is away, looked for when its time has come.
    pub(crate) fn retry_if_due(&mut self, platform: &P) {
        while let Some(place) = self.looked_for.iter().position(|(at_ns, _)| *at_ns <= platform.now_ns()) {
            let (_, device) = self.looked_for.swap_remove(place);
            self.cleanups.push(device);
        }
        if let Some(at_ns) = self.retry_ns
            && at_ns <= platform.now_ns()
        {
            self.retry_ns = None;
            self.has_returned = true;
        }
    }

    /// Gives a frontend the last place in the queue.
    pub(crate) fn queue(&mut self, domid: DomId) {
        self.waiting.push(domid);
    }

    /// The frontend that has waited longest. The caller clears its `is_queued`.
    pub(crate) fn next_waiting(&mut self) -> Option<DomId> {
        take_first(&mut self.waiting)
    }

    /// True once after it has come back: functions may have cleanups to do that were not noted.
    pub(crate) const fn take_return(&mut self) -> bool {
        core::mem::replace(&mut self.has_returned, false)
    }

    /// Whether something can be asked now. Says so in the log, once, where no broker is there.
    pub(crate) fn availability(&mut self, platform: &P) -> Availability {
        let reason = match (&self.state, &self.ring) {
            (State::Asked { .. }, _) => return Availability::Busy,
            (State::Idle, Some(ring)) if platform.is_connected(ring.port) => return Availability::Free,
            (State::Idle, _) => "is not connected",
            (State::Silent { .. }, _) => "has not answered within 1.5 s",
        };
        if !core::mem::replace(&mut self.is_absence_logged, true) {
            plain_log::warning!("the broker {reason}: writes and MSI fail until `pcidom serve` is there");
        }
        Availability::Away
    }

    /// Puts a job into the page, with its MSI-X entries. Only where [`Broker::availability`] says that it is free.
    pub(crate) fn ask(&mut self, platform: &P, what: InFlight, entries: &[MsixEntry]) {
        let Some(ring) = &self.ring else { return };
        let request = what.job.request(what.device);
        ring.page.publish_with_entries(&request, entries);
        platform.notify(ring.port);
        self.state = State::Asked { what, request, deadline_ns: platform.now_ns() + PATIENCE_NS };
    }

    /// A frontend is disconnected: it waits for nothing any more.
    pub(crate) fn remove(&mut self, domid: DomId) {
        self.forget(domid);
        if let Some(place) = self.waiting.iter().position(|waiting| *waiting == domid) {
            self.waiting.remove(place);
        }
    }

    /// A frontend has given up waiting for what was asked.
    pub(crate) fn forget(&mut self, domid: DomId) {
        if let State::Asked { what, .. } = &mut self.state
            && what.frontend == Some(domid)
        {
            what.frontend = None;
        }
    }

    /// The next job that came to an end, and its answer; none where that did not come in time. Such a job comes to its end
    /// once more when the broker is there again, with no request waiting for it, because it may have been done only then.
    pub(crate) fn poll(&mut self, platform: &P) -> Option<(InFlight, Option<BrokerAnswer>)> {
        let Self { ring: Some(ring), state, .. } = self else { return None };
        let (what, answer) = match state {
            State::Idle => return None,
            State::Silent { late } => {
                ring.page.response()?;
                let late = *late;
                *state = State::Idle;
                self.is_here();
                return Some((late, None));
            }
            State::Asked { what, request, deadline_ns } => {
                let answer = ring.page.response();
                if answer.is_none() && platform.now_ns() < *deadline_ns {
                    return None;
                }
                if answer.is_none() {
                    ring.page.cancel();
                    ring.page.publish(&Request { cmd: BrokerCommand::Query.raw(), ..*request });
                    platform.notify(ring.port);
                }
                (*what, answer)
            }
        };
        let Some(response) = answer else {
            let job = if matches!(what.job, BrokerRequest::Quiesce) { BrokerRequest::Disable } else { what.job };
            *state = State::Silent { late: InFlight { job, frontend: None, ..what } };
            self.availability(platform); // for the log
            return Some((what, None));
        };
        let mut answer =
            BrokerAnswer { err: response.err, value: response.value, info: ring.page.info(), vectors: [0; _] };
        if let BrokerRequest::EnableMsix(entries) = what.job {
            for ((index, vector), _) in answer.vectors.iter_mut().enumerate().zip(0..entries) {
                *vector = ring.page.entry(index).map_or(0, |entry| entry.vector);
            }
        }
        *state = State::Idle;
        self.is_here();
        Some((what, Some(answer)))
    }

    /// The broker's event: it has answered, or it is new.
    pub(crate) fn on_event(&mut self, platform: &P) {
        if self.is_absence_logged && self.availability(platform) == Availability::Free {
            self.is_here();
        }
    }

    fn is_here(&mut self) {
        if core::mem::take(&mut self.is_absence_logged) {
            plain_log::info!("the broker is there again");
            self.has_returned = true;
        }
    }
}

/// The first of a queue.
fn take_first<T>(queue: &mut Vec<T>) -> Option<T> {
    if queue.is_empty() { None } else { Some(queue.remove(0)) }
}
