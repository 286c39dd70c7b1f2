//! The data plane: one event, the request in the page, its answer; and the queue of what only the broker can do.
//!
//! The queue has frontends, not requests. A request that must wait stays in its frontend's page, and when the frontend's turn comes
//! the request is taken from the page as if it were new. So nothing is kept that a frontend could have changed meanwhile, and one that gave up
//! is passed over. Cleanups, which are flags of functions and have a queue of their own, come first.
//!
//! Serving an event or an answer of the broker visits the guests and functions that it is about and no others.

use pciif::Reply;
use xen_types::{DomId, Port, Sbdf};

use crate::backend::Served;
use crate::broker_client::{Availability, Cleanup, InFlight};
use crate::frontend::Guest;
use crate::frontend::table::Guests;
use crate::platform::Platform;
use crate::pool::{Pool, PoolDevice};
use crate::requests::{BrokerAnswer, BrokerRequest, Interrupts, Verdict};
use crate::shared::Core;

/// Whose the broker's port is in the table of ports: ours.
const BROKER: DomId = DomId::SELF;

impl<P: Platform> Core<P> {
    /// Makes the broker's ring.
    pub(crate) fn offer_ring(&mut self) {
        match self.broker.offer(&self.platform) {
            Ok(port) => self.ports.insert(port, BROKER),
            Err(errno) => log::error!("no page or port for the broker ({errno}): guests can only read"),
        }
    }

    #[inline(always)] // in the one function that serves an event
    pub(crate) fn serve(&mut self, port: Port) -> Served {
        let Self { ports, guests, platform, counters, broker, .. } = self;
        let Some(owner) = ports.owner(port) else { return Served::UnknownPort };
        let Some(guest) = guests.at(owner.place.into(), owner.domid) else { return self.serve_elsewhere(port) };
        counters.events.bump();
        guest.serve(platform, counters, broker)
    }

    /// Serves a port of nobody at the place that was remembered.
    #[cold]
    #[inline(never)]
    fn serve_elsewhere(&mut self, port: Port) -> Served {
        let Self { ports, guests, platform, broker, .. } = self;
        let Some(owner) = ports.owner(port) else { return Served::UnknownPort };
        if let Some(place) = guests.place(owner.domid).ok().and_then(|place| u16::try_from(place).ok()) {
            owner.place = place;
            return Served::More; // at the right place, the next time
        }
        if owner.domid != BROKER {
            return Served::UnknownPort;
        }
        broker.on_event(platform);
        self.turn();
        Served::Done
    }

    /// Takes the broker's answers and gives it what is next, as long as that is possible without waiting.
    pub(crate) fn turn(&mut self) {
        loop {
            if let Some((asked, answer)) = self.broker.poll(&self.platform) {
                if answer.is_none() && asked.guest.is_some() {
                    self.counters.broker_timeouts.bump();
                }
                self.finish(&asked, answer.as_ref());
                continue;
            }
            if self.broker.is_busy() || !self.broker.is_due() {
                return;
            }
            if self.broker.take_return() {
                self.note_all();
            }
            let cleanup = self.next_cleanup();
            if cleanup.is_none() && !self.broker.is_due() {
                return;
            }
            match (self.broker.availability(&self.platform), cleanup) {
                (Availability::Free, Some(asked)) => self.broker.ask(&self.platform, asked, &[]),
                (Availability::Free, None) => self.serve_waiting(),
                // It is not busy.
                (_, asked) => {
                    self.give_cleanups_up(asked);
                    self.serve_waiting();
                }
            }
        }
    }

    /// Serves the frontend that has waited longest.
    fn serve_waiting(&mut self) {
        let Self { guests, platform, counters, broker, .. } = self;
        while let Some(domid) = broker.next_waiting() {
            let Some(guest) = guests.get_mut(domid) else { continue };
            guest.is_queued = false;
            if core::mem::take(&mut guest.is_waiting) {
                // One: the next one comes with an event of its own.
                return guest.serve_waiting(platform, counters, broker);
            }
        }
    }

    /// The function with a cleanup to do that has waited longest.
    fn next_cleanup(&mut self) -> Option<InFlight> {
        while let Some(address) = self.broker.next_cleanup() {
            let Some(device) = find(&mut self.guests, &mut self.pool, address) else { continue };
            device.is_noted = false;
            if let Some(job) = device.cleanup.job() {
                return Some(InFlight { device: address, job, guest: None });
            }
        }
        None
    }

    /// The broker is there again: takes note of what it was not there for.
    fn note_all(&mut self) {
        let Self { guests, pool, broker, .. } = self;
        guests.iter_mut().flat_map(Guest::devices).chain(pool.all_leaving()).for_each(|device| broker.note(device));
    }

    /// Nobody can make functions quiet: goes on without, for this one and all that wait. Those that stay with their guest have their
    /// vectors turned off later, those that come back are looked at as they are.
    fn give_cleanups_up(&mut self, first: Option<InFlight>) {
        let now_ns = self.platform.now_ns();
        let (mut next, mut last_told) = (first, None);
        while let Some(InFlight { device: address, job, .. }) = next {
            let holder = self.pool.holder(address);
            if job == BrokerRequest::Quiesce
                && let Some(device) = find(&mut self.guests, &mut self.pool, address)
            {
                device.give_up_quiet();
                let told = core::mem::replace(&mut last_told, holder);
                if let Some(guest) = holder.filter(|_| told != holder).and_then(|domid| self.guests.get_mut(domid)) {
                    let text = format_args!("no broker to make its devices quiet: going on without");
                    guest.say(now_ns, log::Level::Warn, text);
                }
            }
            if let Some(device) = self.pool.leaving(address) {
                device.cleanup = Cleanup::None;
                self.pool.settle(address);
            }
            next = self.next_cleanup();
        }
    }

    /// A job is at its end: with an answer, or without.
    fn finish(&mut self, asked: &InFlight, answer: Option<&BrokerAnswer>) {
        let Self { guests, pool, platform, broker, counters, .. } = self;
        let verdict = asked.job.verdict(answer);
        let mut job = asked.job;
        if let BrokerRequest::Write { now, then, failed } = &mut job {
            *failed |= verdict != Verdict::Done;
            if let (Some(next), true) = (then.take(), answer.is_some() && asked.guest.is_some()) {
                *now = next;
                broker.ask(platform, InFlight { job, ..*asked }, &[]);
                return;
            }
        }
        let owner = asked.guest.and_then(|domid| guests.get_mut(domid));
        let is_delivered = owner.is_some_and(|guest| {
            let Some(request) = guest.asked.take() else { return false };
            let Some(device) = guest.device(asked.device) else {
                guest.answer(platform, &request, Reply::NO_DEVICE, None);
                return false;
            };
            let function = device.parts().0;
            let (reply, notice) = job.reply(verdict, &request, function, answer, counters);
            let notice = function.news(notice);
            guest.answer(platform, &request, reply, notice)
        });
        if let Some(device) = find(guests, pool, asked.device) {
            device.finished(&job, verdict, is_delivered);
            broker.note(device);
        }
        pool.settle(asked.device);
    }
}

/// A function that is with a frontend or on its way back.
fn find<'a, P: Platform>(
    guests: &'a mut Guests<P>,
    pool: &'a mut Pool<P>,
    address: Sbdf,
) -> Option<&'a mut PoolDevice<P>> {
    match pool.holder(address) {
        Some(domid) => guests.get_mut(domid)?.device(address),
        None => pool.leaving(address),
    }
}

impl<P: Platform> PoolDevice<P> {
    /// Takes note of what a job did to it.
    fn finished(&mut self, job: &BrokerRequest, verdict: Verdict, is_delivered: bool) {
        self.is_touched = true;
        let (interrupts, cleanup) = match (job, verdict) {
            (BrokerRequest::Write { .. }, _) => return,
            (BrokerRequest::Quiesce, Verdict::Done) => {
                self.is_touched = false;
                (Interrupts::Off, Cleanup::None)
            }
            (BrokerRequest::Quiesce, _) => return self.give_up_quiet(),
            (BrokerRequest::EnableMsi(_), Verdict::Done) if is_delivered => (Interrupts::Msi, self.cleanup),
            (BrokerRequest::EnableMsix(_), Verdict::Done) if is_delivered => (Interrupts::MsiX, self.cleanup),
            // A quiesce that was asked for meanwhile stays asked for.
            (BrokerRequest::Disable, Verdict::Done | Verdict::Refused(_)) if self.cleanup == Cleanup::Disable => {
                (Interrupts::Off, Cleanup::None)
            }
            (BrokerRequest::Disable, Verdict::Done | Verdict::Refused(_)) => (Interrupts::Off, self.cleanup),
            // On or half on, and the guest does not know: off with it.
            _ => (Interrupts::Off, self.cleanup.max(Cleanup::Disable)),
        };
        self.cleanup = cleanup;
        self.parts().0.interrupts = interrupts;
    }
}
