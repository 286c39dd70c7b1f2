//! The data plane of one frontend: an event, the request in the page, its answer.
//!
//! A request that only the broker can carry out stays in the page. When its turn comes, it is taken from the page as if it were new, so nothing is
//! kept that the frontend could have changed meanwhile.

use core::ops::ControlFlow;

use pciif::{ErrorCode, MsixEntries, Reply, Request};

use super::Frontend;
use super::link::Pending;
use super::served::Served;
use crate::broker_client::{Availability, Broker, InFlight};
use crate::config::Register;
use crate::platform::Platform;
use crate::requests::{self, Answer, BrokerRequest, Cleanup, Counters, Interrupts, LogOnce, ReadOutcome, Verdict};
use crate::topology::DeviceId;

/// Requests that one event may bring before the other frontends get their turn.
const REQUESTS: usize = 16;
/// Time slice of one frontend. A function that answers slowly holds our only CPU.
const TURN_NS: u64 = 1_000_000;
/// Longest time that a frontend is skipped after a turn that took too long; otherwise as long as the turn.
const MAX_ASIDE_NS: u64 = 100_000_000;

impl<P: Platform> Frontend<P> {
    /// Answers what is in the page, and what came meanwhile. What only the broker can do is left there.
    #[inline(always)] // in the one function that serves an event
    pub(crate) fn answer_requests(&mut self, platform: &P, counters: &mut Counters, broker: &mut Broker<P>) -> Served {
        let Some(connected) = self.state.connected_mut() else { return Served::UnknownPort };
        if connected.link.delay.is_some()
            && let Some(served) = self.before_answering(platform)
        {
            return served;
        }
        match self.answer_one(platform, counters, broker, Served::Nothing) {
            ControlFlow::Break(served) => served,
            // Most frontends ask again when they have seen the answer.
            ControlFlow::Continue(served) if !self.has_request() => served,
            ControlFlow::Continue(served) => self.answer_more(platform, counters, broker, served),
        }
    }

    /// Whether its request waits: because it stands aside, and who has set it aside sees to it that there is an event; or until its answer to what it was told
    /// of a device is looked at, if the event may be that.
    #[cold]
    #[inline(never)]
    fn before_answering(&mut self, platform: &P) -> Option<Served> {
        let is_answer = self.tell_losses(platform).is_some();
        let link = &mut self.state.connected_mut()?.link;
        if is_answer && link.take_answer() {
            self.signal.raise();
            return Some(Served::More);
        }
        link.is_aside(platform.now_ns()).then_some(Served::Nothing)
    }

    /// A request is in the page.
    #[inline(always)]
    fn has_request(&self) -> bool {
        self.state.connected().is_some_and(|connected| connected.link.page.is_active())
    }

    /// Answers what is in the page, if there is anything. `before` is what was served until now.
    #[inline(always)]
    fn answer_one(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        before: Served,
    ) -> ControlFlow<Served, Served> {
        let Self { state, exports, .. } = self;
        let Some(connected) = state.connected_mut() else { return ControlFlow::Break(Served::UnknownPort) };
        let link = &mut connected.link;
        if !link.page.is_active() {
            link.leave_queue();
            return ControlFlow::Break(before);
        }
        if !matches!(link.pending, Pending::Broker(_))
            && let Some(request) = link.page.take_read()
        {
            let (topology, find) = exports.parts();
            match requests::read(&request, topology, find, counters) {
                ReadOutcome::Done(err, value) => {
                    link.page.answer(err, value);
                    platform.notify(link.port());
                    link.pending = Pending::Nothing;
                    return ControlFlow::Continue(before.max(Served::Reads));
                }
                ReadOutcome::Absent => {}
                ReadOutcome::Lost(id, value) => {
                    link.page.answer(ErrorCode::Success, value);
                    platform.notify(link.port());
                    link.pending = Pending::Nothing;
                    if let Some(device) = exports.get_mut(id) {
                        device.lose(platform.now_ns(), broker);
                    }
                    return ControlFlow::Continue(Served::Done);
                }
            }
        }
        self.answer_other(platform, counters, broker, before)?;
        ControlFlow::Continue(Served::Done)
    }

    /// The same for what came while the request before was answered, up to [`REQUESTS`] times and for [`TURN_NS`].
    #[cold]
    #[inline(never)]
    fn answer_more(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        mut served: Served,
    ) -> Served {
        let start_ns = platform.now_ns();
        for _ in 1..REQUESTS {
            match self.answer_one(platform, counters, broker, served) {
                ControlFlow::Break(served) => return served,
                ControlFlow::Continue(more) => served = more,
            }
            let now_ns = platform.now_ns();
            let took_ns = now_ns.saturating_sub(start_ns);
            if took_ns > TURN_NS
                && let Some(connected) = self.state.connected_mut()
            {
                connected.link.put_aside(now_ns + took_ns.min(MAX_ASIDE_NS));
                return Served::Slow;
            }
        }
        Served::More
    }

    /// Until when it stands aside, by the platform's clock; 0 where it does not.
    pub(crate) fn aside_until_ns(&self) -> u64 {
        let delay = self.state.connected().and_then(|connected| connected.link.delay);
        delay.map_or(0, |delay| delay.aside_until_ns)
    }

    /// Its place in the broker's queue has come: serves the request that waits for it. False where none does any more.
    pub(crate) fn take_turn(&mut self, platform: &P, counters: &mut Counters, broker: &mut Broker<P>) -> bool {
        let Some(connected) = self.state.connected_mut() else { return false };
        let link = &mut connected.link;
        link.is_queued = false;
        if link.pending != Pending::Turn {
            return false;
        }
        link.pending = Pending::Nothing;
        if link.page.is_active() {
            // Whatever has taken its place meanwhile has an event of its own.
            let _ = self.answer_other(platform, counters, broker, Served::Nothing);
        }
        true
    }

    /// Answers a request that is more than a read, and goes on or ends with what was served. `before` is what was until now.
    #[inline(never)] // out of the way of reads
    fn answer_other(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        before: Served,
    ) -> ControlFlow<Served> {
        let Some(connected) = self.state.connected_mut() else { return ControlFlow::Continue(()) };
        let link = &mut connected.link;
        let Some(request) = link.page.take_request() else { return ControlFlow::Continue(()) };
        if let Pending::Broker(asked) = &link.pending {
            if *asked == request {
                return ControlFlow::Break(before);
            }
            // It has given up on what the broker has, and asks for something else.
            link.pending = Pending::Nothing;
            broker.forget(self.domid);
        }
        let (topology, find) = self.exports.parts();
        let executed = requests::execute(&request, topology, find, counters);
        if let Some(device) = executed.device.and_then(|id| self.exports.get_mut(id)) {
            if executed.is_loss {
                device.lose(platform.now_ns(), broker);
            }
            device.note(false);
        }
        match executed.answer {
            Answer::Now(reply) => {
                link.leave_queue();
                self.reply(platform, &request, reply, executed.notice);
            }
            Answer::Later(job) => {
                if let Some(id) = executed.device
                    && !self.ask(platform, counters, broker, &request, id, job)
                {
                    return ControlFlow::Break(Served::Done);
                }
            }
            Answer::Read => {} // next
        }
        ControlFlow::Continue(())
    }

    /// Gives a job to the broker or has it wait in the page. True when it is done, or cannot be done, and the frontend has its answer.
    fn ask(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        request: &Request,
        id: DeviceId,
        job: BrokerRequest,
    ) -> bool {
        let Some(connected) = self.state.connected_mut() else { return true };
        let link = &mut connected.link;
        let Some(device) = self.exports.get_mut(id) else { return true };
        let mut verdict = Verdict::Away;
        match job {
            // Not before it is quiesced: what is written now would be undone. Not what takes time, or care for bits that clear by ones.
            BrokerRequest::Write { now, then, .. }
                if self.is_direct
                    && !matches!(
                        now.register,
                        Register::PowerState | Register::InterruptControl | Register::Reset | Register::Open
                    )
                    && device.cleanup != Cleanup::Quiesce =>
            {
                [Some(now), then].iter().flatten().for_each(|write| device.write(write));
                verdict = Verdict::Done;
            }
            _ => match broker.availability(platform) {
                Availability::Free if !broker.has_cleanups() => {
                    let entries = link.page.take_entries(request);
                    let entries = entries.as_ref().map_or(&[][..], MsixEntries::as_slice);
                    let (function, hw) = device.parts();
                    if requests::are_entries_valid(function, hw, entries) {
                        device.is_touched = true;
                        if job.is_reset() {
                            device.await_reset(platform.now_ns());
                        }
                        if job.is_enable() {
                            device.cleanup = Cleanup::None; // the broker turns off what is on
                        }
                        device.note(job.is_enable());
                        let what = InFlight { device: device.info().sbdf(), job, frontend: Some(self.domid) };
                        broker.ask(platform, what, entries);
                        link.pending = Pending::Broker(*request);
                        return false;
                    }
                    verdict = Verdict::Impossible;
                }
                Availability::Free | Availability::Busy => {
                    if !core::mem::replace(&mut link.is_queued, true) {
                        broker.queue(self.domid);
                    }
                    link.pending = Pending::Turn;
                    return false;
                }
                Availability::Away => {}
            },
        }
        link.leave_queue();
        if job.is_reset() {
            device.await_reset(platform.now_ns());
            device.queue_cleanup(broker);
            device.note(false);
        }
        if job == BrokerRequest::Disable {
            device.parts().0.interrupts = Interrupts::Off; // as the guest is notified; it happens when the broker is there
            device.cleanup = device.cleanup.max(Cleanup::Disable);
            device.note(false);
        }
        let function = device.parts().0;
        let (reply, notice) = job.reply(verdict, request, function, None, counters);
        let notice = function.news(notice);
        self.reply(platform, request, reply, notice);
        true
    }

    /// The request that the broker had, which it has no more. `None` where the frontend has given up on it.
    pub(crate) fn take_asked(&mut self) -> Option<Request> {
        let link = &mut self.state.connected_mut()?.link;
        let Pending::Broker(request) = link.pending else { return None };
        link.pending = Pending::Nothing;
        Some(request)
    }

    /// Answers a request that the broker had, unless the frontend has given up on it. True when it was answered. It is notified
    /// ([`Frontend::notify`]) when what its device is like now is noted: a life that comes after this one must not know less than the guest.
    pub(crate) fn answer(
        &mut self,
        platform: &P,
        request: &Request,
        reply: Reply<'_>,
        notice: Option<LogOnce>,
    ) -> bool {
        let Some(connected) = self.state.connected() else { return false };
        let is_there = connected.link.page.still_carries(request);
        if is_there {
            connected.link.page.reply(request, reply);
            self.tell(platform, request, notice);
        }
        is_there
    }

    /// Says that there is an answer in the page.
    pub(crate) fn notify(&self, platform: &P) {
        if let Some(connected) = self.state.connected() {
            platform.notify(connected.link.port());
        }
    }

    fn reply(&mut self, platform: &P, request: &Request, reply: Reply<'_>, notice: Option<LogOnce>) {
        let Some(connected) = self.state.connected() else { return };
        connected.link.page.reply(request, reply);
        self.notify(platform);
        self.tell(platform, request, notice);
    }

    fn tell(&mut self, platform: &P, request: &Request, notice: Option<LogOnce>) {
        if let Some(notice) = notice {
            self.say(platform.now_ns(), log::Level::Info, format_args!("{request}: {notice}"));
        }
    }
}
