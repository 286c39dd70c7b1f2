//! The data plane: one event, the request in the page, its answer; and the queue of what only the broker can do.
//!
//! The queue has no places of its own. A request that must wait stays in its frontend's page, and the frontend draws a ticket; when its
//! turn comes the request is taken from the page as if it were new. So nothing is kept that a frontend could have changed
//! meanwhile, and one that gave up is not in the queue any more. Cleanups, which are flags of functions, come first.

use alloc::boxed::Box;

use litemap::LiteMap;

use pciif::Reply;
use xen_types::{DomId, Port};

use crate::backend::Served;
use crate::broker::{Asked, Availability, Cleanup};
use crate::control::core::Core;
use crate::guest::Guest;
use crate::ops::{BrokerAnswer, Interrupts, Job, Verdict};
use crate::platform::Platform;
use crate::pool::{Pool, PoolDevice};

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

    pub(crate) fn serve(&mut self, port: Port) -> Served {
        let Self { ports, guests, platform, counters, broker, .. } = self;
        let Some(owner) = ports.owner(port) else { return Served::UnknownPort };
        match guests.get_mut(&owner) {
            Some(guest) => {
                counters.events.bump();
                guest.serve(platform, counters, broker, crate::guest::REQUESTS)
            }
            None if owner == BROKER => {
                broker.on_event(platform);
                self.turn();
                Served::Done
            }
            None => Served::UnknownPort,
        }
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
            let cleanup = if self.broker.has_cleanups { self.next_cleanup() } else { None };
            self.broker.has_cleanups = cleanup.is_some();
            if !self.broker.is_due() {
                return;
            }
            match (self.broker.availability(&self.platform), cleanup) {
                (Availability::Busy, _) => return,
                (Availability::Free, Some(asked)) => self.broker.ask(&self.platform, asked, &[]),
                (Availability::Free, None) => self.serve_waiting(),
                (Availability::Away, _) => {
                    self.give_cleanups_up();
                    self.serve_waiting();
                }
            }
        }
    }

    /// Serves the frontend that has waited longest.
    fn serve_waiting(&mut self) {
        let Self { guests, platform, counters, broker, .. } = self;
        let waiting = guests
            .iter_mut()
            .map(|(_, guest)| guest)
            .filter(|guest| guest.ticket.is_some())
            .min_by_key(|guest| guest.ticket);
        match waiting {
            Some(guest) => {
                guest.ticket = None;
                // One: the next one comes with an event of its own.
                guest.serve(platform, counters, broker, 1);
            }
            None => broker.has_waiting = false,
        }
    }

    fn next_cleanup(&mut self) -> Option<Asked> {
        let Self { guests, pool, .. } = self;
        let mut next = None;
        visit(guests, pool, &mut |device| {
            next = device.cleanup.job().map(|job| Asked { device: device.info().sbdf(), job, guest: None });
            next.is_some()
        });
        next
    }

    /// Nobody can make functions quiet: goes on without. Those that stay with their guest have their vectors turned off later,
    /// those that come back are looked at as they are.
    fn give_cleanups_up(&mut self) {
        let Self { guests, pool, platform, broker, .. } = self;
        let now_ns = platform.now_ns();
        for (_, guest) in guests.iter_mut() {
            let mut has_given_up = false;
            for device in guest.devices().filter(|device| device.cleanup == Cleanup::Quiesce) {
                has_given_up = true;
                device.give_up_quiet();
            }
            if has_given_up {
                guest.say(
                    now_ns,
                    log::Level::Warn,
                    format_args!("no broker to make its devices quiet: going on without"),
                );
            }
        }
        for device in pool.leaving() {
            if device.cleanup == Cleanup::Quiesce {
                device.give_up_quiet();
            }
            device.cleanup = Cleanup::None;
        }
        pool.settle_leaving();
        broker.has_cleanups = false;
    }

    /// A job is at its end: with an answer, or without.
    fn finish(&mut self, asked: &Asked, answer: Option<&BrokerAnswer>) {
        let Self { guests, pool, platform, broker, counters, .. } = self;
        let verdict = asked.job.verdict(answer);
        let mut job = asked.job;
        if let Job::Write { now, then, failed } = &mut job {
            *failed |= verdict != Verdict::Done;
            if let (Some(next), true) = (then.take(), answer.is_some() && asked.guest.is_some()) {
                *now = next;
                broker.ask(platform, Asked { job, ..*asked }, &[]);
                return;
            }
        }
        let owner = asked.guest.and_then(|domid| guests.get_mut(&domid));
        let is_delivered = owner.is_some_and(|guest| {
            let Some(request) = guest.asked.take() else { return false };
            let Some(device) = guest.devices().find(|device| device.info().sbdf() == asked.device) else {
                guest.answer(platform, &request, Reply::NO_DEVICE, None);
                return false;
            };
            let function = device.parts().0;
            let (reply, notice) = job.reply(verdict, &request, function, answer, counters);
            let notice = function.news(notice);
            guest.answer(platform, &request, reply, notice)
        });
        visit(guests, pool, &mut |device| {
            let is_it = device.info().sbdf() == asked.device;
            if is_it {
                device.finished(&job, verdict, is_delivered);
                broker.has_cleanups |= device.cleanup != Cleanup::None;
            }
            is_it
        });
        pool.settle_leaving();
    }
}

/// Visits the functions that are with a frontend or on their way back, until one is the right one.
fn visit<P: Platform>(
    guests: &mut LiteMap<DomId, Box<Guest<P>>>,
    pool: &mut Pool<P>,
    is_it: &mut dyn FnMut(&mut PoolDevice<P>) -> bool,
) {
    if !guests.iter_mut().any(|(_, guest)| guest.devices().any(&mut *is_it)) {
        pool.leaving().any(is_it);
    }
}

impl<P: Platform> PoolDevice<P> {
    /// Takes note of what a job did to it.
    fn finished(&mut self, job: &Job, verdict: Verdict, is_delivered: bool) {
        self.is_touched = true;
        let (interrupts, cleanup) = match (job, verdict) {
            (Job::Write { .. }, _) => return,
            (Job::Quiesce, Verdict::Done) => {
                self.is_touched = false;
                (Interrupts::Off, Cleanup::None)
            }
            (Job::Quiesce, _) => return self.give_up_quiet(),
            (Job::EnableMsi(_), Verdict::Done) if is_delivered => (Interrupts::Msi, self.cleanup),
            (Job::EnableMsix(_), Verdict::Done) if is_delivered => (Interrupts::MsiX, self.cleanup),
            // A quiesce that was asked for meanwhile stays asked for.
            (Job::Disable, Verdict::Done | Verdict::Refused(_)) if self.cleanup == Cleanup::Disable => {
                (Interrupts::Off, Cleanup::None)
            }
            (Job::Disable, Verdict::Done | Verdict::Refused(_)) => (Interrupts::Off, self.cleanup),
            // On or half on, and the guest does not know: off with it.
            _ => (Interrupts::Off, self.cleanup.max(Cleanup::Disable)),
        };
        self.cleanup = cleanup;
        self.parts().0.interrupts = interrupts;
    }
}
