//! The turn of the broker's ring: takes its answer, and sends the next request.
//!
//! An answer of the broker visits the frontends and functions that it is about and no others.

use pciif::Reply;
use xen_types::{DomId, Port, Sbdf};

use crate::broker_client::{Availability, InFlight};
use crate::frontend::table::Frontends;
use crate::frontend::{Frontend, Served};
use crate::platform::Platform;
use crate::pool::{Pool, PoolDevice};
use crate::requests::{BrokerAnswer, BrokerRequest, Cleanup, Verdict};
use crate::shared::Core;

/// The broker's port is registered under our own domain id.
const BROKER: DomId = DomId::SELF;

impl<P: Platform> Core<P> {
    /// Makes the broker's ring.
    pub(crate) fn offer_ring(&mut self) {
        match self.broker.offer(&self.platform) {
            Ok(port) => self.ports.insert(port, BROKER),
            Err(errno) => plain_log::error!("no page or port for the broker ({errno}): guests can only read"),
        }
    }

    /// An event on a port of no frontend at the place that was remembered: the frontend has another place by now, or the port is the broker's.
    #[cold]
    #[inline(never)]
    pub(crate) fn on_other_port(&mut self, port: Port) -> Served {
        let Self { ports, frontends, platform, broker, .. } = self;
        let Some(owner) = ports.owner(port) else { return Served::UnknownPort };
        if let Some(place) = frontends.place(owner.domid).ok().and_then(|place| u16::try_from(place).ok()) {
            owner.place = place;
            return Served::More; // at the right place, the next time
        }
        if owner.domid != BROKER {
            return Served::UnknownPort;
        }
        broker.on_event(platform);
        self.broker_turn();
        Served::Done
    }

    /// Takes the broker's answers and gives it what is next, as long as that is possible without waiting.
    pub(crate) fn broker_turn(&mut self) {
        self.platform.looking_at(None);
        loop {
            if let Some((asked, answer)) = self.broker.poll(&self.platform) {
                if answer.is_none() && asked.frontend.is_some() {
                    self.counters.broker_timeouts.bump();
                }
                self.finish(&asked, answer.as_ref());
                continue;
            }
            if self.broker.is_busy() {
                return;
            }
            self.broker.retry_if_due(&self.platform);
            if !self.broker.is_due() {
                return;
            }
            if self.broker.take_return() {
                self.queue_all_cleanups();
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

    /// Gives the frontend that has waited longest its turn. One frontend: the next one comes with an event of its own.
    fn serve_waiting(&mut self) {
        let Self { frontends, platform, counters, broker, .. } = self;
        while let Some(domid) = broker.next_waiting() {
            if frontends.get_mut(domid).is_some_and(|frontend| frontend.take_turn(platform, counters, broker)) {
                return;
            }
        }
    }

    /// The function with a cleanup to do that has waited longest.
    fn next_cleanup(&mut self) -> Option<InFlight> {
        while let Some(address) = self.broker.next_cleanup() {
            let Some(device) = find(&mut self.frontends, &mut self.pool, address) else { continue };
            if let Some(job) = device.take_cleanup(self.platform.now_ns()) {
                return Some(InFlight { device: address, job, frontend: None });
            }
            device.queue_cleanup(&mut self.broker); // it is looked for once more
            if device.is_absent() {
                self.tell_absent(address);
            }
        }
        None
    }

    /// A device that is looked for is called absent: its frontend's task tells of it, once.
    fn tell_absent(&mut self, address: Sbdf) {
        if let Some(frontend) = self.pool.holder(address).and_then(|domid| self.frontends.get_mut(domid)) {
            frontend.signal.raise();
        }
    }

    /// The broker is there again: takes note of what it was not there for.
    fn queue_all_cleanups(&mut self) {
        let Self { frontends, pool, broker, .. } = self;
        let devices = frontends.iter_mut().flat_map(Frontend::devices).chain(pool.all_leaving());
        devices.for_each(|device| device.queue_cleanup(broker));
    }

    /// No broker can quiesce functions: goes on without, for this one and all that wait. Those that stay with their guest have their
    /// vectors turned off later, those that come back are checked as they are.
    fn give_cleanups_up(&mut self, first: Option<InFlight>) {
        let now_ns = self.platform.now_ns();
        let (mut next, mut last_told) = (first, None);
        while let Some(InFlight { device: address, job, .. }) = next {
            let holder = self.pool.holder(address);
            if matches!(job, BrokerRequest::Quiesce)
                && let Some(device) = find(&mut self.frontends, &mut self.pool, address)
            {
                device.give_up_quiesce();
                let told = core::mem::replace(&mut last_told, holder);
                if let Some(frontend) =
                    holder.filter(|_| told != holder).and_then(|domid| self.frontends.get_mut(domid))
                {
                    let text = format_args!("no broker to quiesce its devices: going on without");
                    frontend.say(now_ns, log::Level::Warn, text);
                }
            }
            if let Some(device) = find(&mut self.frontends, &mut self.pool, address)
                && (job.is_reset() || matches!(job, BrokerRequest::Restore(_)))
            {
                device.finished(&job, Verdict::Away, false, now_ns);
                device.queue_cleanup(&mut self.broker);
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
        let Self { frontends, pool, platform, broker, counters, .. } = self;
        let verdict = asked.job.verdict(answer);
        let mut job = asked.job;
        if let BrokerRequest::Write { now, then, failed } = &mut job {
            *failed |= verdict != Verdict::Done;
            if let (Some(next), true) = (then.take(), answer.is_some() && asked.frontend.is_some()) {
                *now = next;
                broker.ask(platform, InFlight { job, ..*asked }, &[]);
                return;
            }
        }
        let owner = asked.frontend.and_then(|domid| frontends.get_mut(domid));
        let is_delivered = owner.is_some_and(|frontend| {
            let Some(request) = frontend.take_asked() else { return false };
            let Some(device) = frontend.device(asked.device) else {
                frontend.answer(platform, &request, Reply::NO_DEVICE, None);
                return false;
            };
            let function = device.parts().0;
            let (reply, notice) = job.reply(verdict, &request, function, answer, counters);
            let notice = function.news(notice);
            frontend.answer(platform, &request, reply, notice)
        });
        let is_leaving = pool.holder(asked.device).is_none();
        if let Some(device) = find(frontends, pool, asked.device) {
            device.finished(&job, verdict, is_delivered, platform.now_ns());
            match (job, verdict) {
                // A guest that waits for its device to leave waits for no second try: the command does it.
                (BrokerRequest::Disable, Verdict::Refused(_)) if is_leaving && device.cleanup == Cleanup::Disable => {
                    device.cleanup = Cleanup::None;
                }
                (BrokerRequest::Disable, Verdict::Refused(_)) if device.cleanup == Cleanup::Disable => {
                    broker.cleanup_answered(platform, false);
                }
                _ => {
                    if matches!((job, verdict), (BrokerRequest::Disable, Verdict::Done)) {
                        broker.cleanup_answered(platform, true);
                    }
                    device.queue_cleanup(broker);
                }
            }
        }
        let is_absent = find(frontends, pool, asked.device).is_some_and(|device| device.is_absent());
        if is_absent {
            self.tell_absent(asked.device);
        } else if matches!((job, verdict), (BrokerRequest::Restore(_), Verdict::Done)) {
            pool.note_present(asked.device);
        }
        let Self { frontends, pool, platform, .. } = self;
        if let Some(frontend) = asked.frontend.and_then(|domid| frontends.get_mut(domid)) {
            frontend.notify(platform);
        }
        pool.settle(asked.device);
    }
}

/// A function that is with a frontend or on its way back.
fn find<'a, P: Platform>(
    frontends: &'a mut Frontends<P>,
    pool: &'a mut Pool<P>,
    address: Sbdf,
) -> Option<&'a mut PoolDevice<P>> {
    match pool.holder(address) {
        Some(domid) => frontends.get_mut(domid)?.device(address),
        None => pool.leaving(address),
    }
}
