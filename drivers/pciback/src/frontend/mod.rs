//! One frontend: what it holds, and its page.

pub(crate) mod port_table;
pub(crate) mod table;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;

use pciif::{AerNotification, BackendPage, MsixEntries, Reply, Request};
use xen_types::{DomId, Errno, Port, Sbdf};

use crate::backend::{Options, Served};
use crate::broker_client::{Availability, Broker, Cleanup, InFlight};
use crate::config::Register;
use crate::frontend::port_table::PortTable;
use crate::platform::{Grants, Platform};
use crate::pool::device_info::DeviceId;
use crate::pool::{Notified, Pool, PoolDevice};
use crate::rate::{Lines, TokenBucket};
use crate::requests::{self, Answer, BrokerRequest, Counters, HasRead, Interrupts, LogOnce, Verdict};
use crate::signal::Signal;
use crate::topology::{ExportMode, Topology};
use xenstore::XenbusState::{Connected, Reconfigured, Reconfiguring};

use crate::handshake::{Failure, FrontendState, InvalidKey, Keys, Nodes, Outcome, Peer, ShutdownStage, makes_sense};

/// Looks at its nodes that a frontend may cause at once, and how often after that. Reading them takes about a millisecond, and
/// a handshake needs a dozen.
const LOOKS: TokenBucket = TokenBucket::new(128, 100_000_000);
/// What it can owe of them at most, so that the toolstack's business with it waits for a few seconds at most.
const MAX_DEBT: u32 = 64;

/// The mapped page and the port that goes with it.
struct Session<P: Platform> {
    port: Port,
    page: BackendPage<<P as Grants>::Page>,
}

/// A frontend and everything that is held for it.
pub(crate) struct Guest<P: Platform> {
    domid: DomId,
    /// "Look at the nodes again."
    pub(crate) signal: Rc<Signal>,
    /// The frontend has touched its `state` since the last look.
    pub(crate) touched: bool,
    /// What is done about its nodes now was its idea: nobody had asked it for the state that it is in.
    is_at_work: bool,
    /// Looks that it has caused and not paid for.
    debt: u32,
    /// The same as the fields below, as decisions see it.
    pub(crate) frontend: FrontendState,
    session: Option<Session<P>>,
    topology: Topology,
    /// By [`DeviceId`].
    devices: Vec<Option<Box<PoolDevice<P>>>>,
    /// Its side when it was last looked at.
    last_peer: Option<Peer>,
    /// The request that the broker has.
    pub(crate) asked: Option<Request>,
    /// The request in the page waits for its turn with the broker.
    pub(crate) is_waiting: bool,
    /// It has a place in the broker's queue.
    pub(crate) is_queued: bool,
    /// It is to be told of a device that is gone.
    has_losses: bool,
    /// It stands aside until then.
    aside_until_ns: u64,
    /// Either is so: one flag to look at before each request.
    is_delayed: bool,
    /// Where its own directory does not choose.
    export: ExportMode,
    is_direct: bool,
    looks: TokenBucket,
    lines: Lines,
    /// How many of its devices were visited one after the other, where somebody counts.
    visited: u64,
}

impl<P: Platform> Guest<P> {
    pub(crate) fn new(domid: DomId, options: Options) -> Self {
        Self {
            domid,
            signal: Signal::new(),
            touched: false,
            is_at_work: false,
            debt: 0,
            frontend: FrontendState::default(),
            session: None,
            topology: Topology::new(options.export).named_by(options.domain),
            devices: Vec::new(),
            last_peer: None,
            asked: None,
            is_waiting: false,
            is_queued: false,
            has_losses: false,
            aside_until_ns: 0,
            is_delayed: false,
            export: options.export,
            is_direct: options.is_direct,
            looks: LOOKS,
            lines: Lines::NEW,
            visited: 0,
        }
    }

    /// Its domain.
    pub(crate) const fn domid(&self) -> DomId {
        self.domid
    }

    /// Whether its nodes may be looked at now: always, unless it has caused too many looks. Then: when.
    pub(crate) fn may_look(&mut self, now_ns: u64) -> Result<(), u64> {
        // The stub's own end does not wait for what the guest owes.
        if self.frontend.stop != ShutdownStage::No {
            self.debt = 0;
        }
        while let Some(left) = self.debt.checked_sub(1) {
            self.looks.take(now_ns)?;
            self.debt = left;
        }
        Ok(())
    }

    /// A piece of work, which the frontend pays for if it has caused it.
    fn charge(&mut self) {
        self.debt = (self.debt + u32::from(self.is_at_work)).min(MAX_DEBT);
    }

    /// All is as it should be: what comes next has a cause of its own.
    pub(crate) const fn settled(&mut self) {
        self.is_at_work = false;
    }

    /// Takes note of what the nodes say, before deciding on them.
    pub(crate) fn observe(&mut self, nodes: &Nodes, now_ns: u64) {
        self.frontend.observe(nodes);
        self.topology.choose(nodes.export.unwrap_or(self.export));
        self.frontend.observe_roots(nodes, self.topology.roots());
        let is_news = self.last_peer.replace(nodes.peer) != Some(nodes.peer);
        if core::mem::take(&mut self.touched) || is_news {
            // What we had asked for is the toolstack's doing.
            let is_answer = matches!(
                (nodes.own, nodes.peer.state),
                (Some(Reconfiguring), Some(Reconfiguring)) | (Some(Reconfigured), Some(Connected))
            );
            self.is_at_work = !(is_news && is_answer);
        }
        self.charge();
        if !is_news {
            return;
        }
        if !makes_sense(nodes.own, nodes.peer.state) {
            let (own, peer) = (name(nodes.own), name(nodes.peer.state));
            self.say(now_ns, log::Level::Warn, format_args!("ignoring its state {peer} while ours is {own}"));
        }
    }

    /// A line in the log that the frontend has caused. Too many are counted instead.
    pub(crate) fn say(&mut self, now_ns: u64, level: log::Level, text: fmt::Arguments<'_>) {
        let Some(unsaid) = self.lines.take(now_ns) else { return };
        if unsaid > 0 {
            log::warn!("frontend {}: {unsaid} more lines like these", self.domid);
        }
        log::log!(level, "frontend {}: {text}", self.domid);
    }

    /// Takes a device from the pool and gives it a virtual address, or notes why not.
    pub(crate) fn take(&mut self, pool: &mut Pool<P>, address: Sbdf, requested_slot: Option<u8>) {
        self.charge();
        let outcome = match self.try_take(pool, address, requested_slot) {
            Ok(virtual_address) => Outcome::Exported(virtual_address),
            Err(failure) => Outcome::Failed(failure),
        };
        self.frontend.devices.insert(address, outcome);
    }

    fn try_take(&mut self, pool: &mut Pool<P>, address: Sbdf, requested_slot: Option<u8>) -> Result<Sbdf, Failure> {
        let mut device = pool.assign(address, self.domid)?;
        device.reset();
        device.show_alone(self.topology.shows_single_functions());
        let index = self.devices.iter().position(Option::is_none).unwrap_or(self.devices.len());
        let added = match u16::try_from(index) {
            Ok(id) => self
                .topology
                .add(DeviceId(id), address, device.traits(), requested_slot.map(|devfn| devfn >> 3))
                .map_err(|error| Failure { errno: Errno::ENOSPC, text: format!("{address}: {error}") }),
            Err(_) => Err(Failure { errno: Errno::ENOSPC, text: format!("{address}: too many devices") }),
        };
        if added.is_err() {
            pool.decline(device);
        } else if let Some(free) = self.devices.get_mut(index) {
            *free = Some(device);
        } else {
            self.devices.push(Some(device));
        }
        added
    }

    /// Gives one device back. One that was taken by force leaves a driver behind that drives whatever comes to its virtual address, so nothing
    /// does while the connection lasts.
    pub(crate) fn release(&mut self, pool: &mut Pool<P>, broker: &mut Broker<P>, address: Sbdf, by_force: bool) {
        self.charge();
        let id = self.id(address);
        self.frontend.devices.remove(&address);
        let Some(id) = id else { return };
        if by_force {
            self.topology.retire(id);
        } else {
            self.topology.remove(id);
        }
        if let Some(device) = self.devices.get_mut(usize::from(id.0)).and_then(Option::take) {
            pool.give_back(device, broker);
        }
    }

    /// Gives all devices back.
    pub(crate) fn release_all(&mut self, pool: &mut Pool<P>, broker: &mut Broker<P>) {
        while let Some(address) = self.frontend.devices.last().map(|(address, _)| *address) {
            self.release(pool, broker, address, false);
        }
    }

    /// Makes the virtual devices new for the next connection.
    pub(crate) fn renew(&mut self) {
        self.devices.iter_mut().flatten().for_each(|device| device.reset());
        self.frontend.devices.retain(|_, outcome| matches!(outcome, Outcome::Exported(_)));
        self.frontend.renewed = true;
    }

    /// A device that could not be had may be had now. True when this guest had wanted it.
    pub(crate) fn forget_failure(&mut self, address: Sbdf) -> bool {
        let failed = matches!(self.frontend.devices.get(&address), Some(Outcome::Failed(_)));
        if failed {
            self.frontend.devices.remove(&address);
        }
        failed
    }

    /// Maps the page and binds the port, or notes why not.
    pub(crate) fn connect(&mut self, platform: &P, ports: &mut PortTable, keys: Keys) {
        self.frontend.renewed = false;
        self.frontend.refused = match self.open(platform, keys) {
            Ok(session) => {
                ports.insert(session.port, self.domid);
                self.session = Some(session);
                self.frontend.connection = Some(keys);
                None
            }
            Err(failure) => Some((Ok(keys), failure)),
        };
    }

    fn open(&self, platform: &P, keys: Keys) -> Result<Session<P>, Failure> {
        let page = platform.map_grant(self.domid, keys.gref).map_err(|errno| Failure {
            errno,
            text: format!("cannot map the page that it granted as {}", keys.gref),
        })?;
        // From here on a failure drops the page, which unmaps it.
        let port = platform
            .bind_interdomain(self.domid, keys.port)
            .map_err(|errno| Failure { errno, text: format!("cannot bind its event channel {}", keys.port) })?;
        Ok(Session { port, page: BackendPage::new(page) })
    }

    /// Notes keys that nobody could connect with.
    pub(crate) fn refuse(&mut self, invalid: InvalidKey) {
        let failure = Failure { errno: invalid.errno(), text: invalid.to_string() };
        self.frontend.refused = Some((Err(invalid), failure));
    }

    /// Answers what is still in the page, closes the port and lets the page go. The devices are to become quiet.
    pub(crate) fn disconnect(&mut self, platform: &P, ports: &mut PortTable, broker: &mut Broker<P>) {
        (self.asked, self.is_waiting) = (None, false);
        // What the old connection has to wait for is not the next one's.
        (self.aside_until_ns, self.is_delayed) = (0, self.has_losses);
        broker.forget(self.domid);
        for device in self.devices() {
            device.let_go();
            broker.note(device);
        }
        self.topology.forget_retired();
        self.frontend.connection = None;
        self.frontend.announced = false;
        self.frontend.peer_was_connected = false;
        let Some(Session { port, page }) = self.session.take() else { return };
        // NetBSD and mini-os wait for ever for an answer (docs/protocol.md §7).
        if page.is_active() {
            page.answer(Reply::NO_DEVICE.err, Reply::NO_DEVICE.value);
            platform.notify(port);
        }
        ports.remove(port);
        platform.close(port);
    }
}

/// Requests that one event may bring before the other frontends get their turn.
const REQUESTS: usize = 16;
/// How long these may take. A function that answers slowly holds our only CPU meanwhile.
const TURN_NS: u64 = 1_000_000;
/// How long a frontend stands aside at most after a turn that took longer: as long as the turn.
const MAX_ASIDE_NS: u64 = 100_000_000;

impl<P: Platform> Guest<P> {
    /// Serves the request that has waited for the broker, if it is still there.
    pub(crate) fn serve_waiting(&mut self, platform: &P, counters: &mut Counters, broker: &mut Broker<P>) {
        let is_active = self.session.as_ref().is_some_and(|session| session.page.is_active());
        if is_active {
            // Whatever has taken its place meanwhile has an event of its own.
            let _ = self.serve_other(platform, counters, broker, Served::Nothing);
        }
    }

    /// Answers what is in the page, and what came meanwhile. What only the broker can do is left there.
    #[inline(always)] // in the one function that serves an event
    pub(crate) fn serve(&mut self, platform: &P, counters: &mut Counters, broker: &mut Broker<P>) -> Served {
        if self.is_delayed && self.delay(platform) {
            return Served::Nothing;
        }
        match self.serve_one(platform, counters, broker, Served::Nothing) {
            ControlFlow::Break(served) => served,
            // Most frontends ask again when they have seen the answer.
            ControlFlow::Continue(served) if !self.is_asked() => served,
            ControlFlow::Continue(served) => self.serve_more(platform, counters, broker, served),
        }
    }

    /// A request is in the page.
    #[inline(always)]
    fn is_asked(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.page.is_active())
    }

    /// Serves what is in the page, if there is anything. `before` is what was served until now.
    #[inline(always)]
    fn serve_one(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        before: Served,
    ) -> ControlFlow<Served, Served> {
        let Self { session, asked, topology, devices, .. } = self;
        let Some(Session { port, page }) = session else { return ControlFlow::Break(Served::UnknownPort) };
        if !page.is_active() {
            self.is_waiting = false;
            return ControlFlow::Break(before);
        }
        if asked.is_none()
            && let Some(request) = page.take_read()
        {
            let executed = requests::read(
                &request,
                topology,
                |id| Some(devices.get_mut(usize::from(id.0))?.as_mut()?.parts()),
                counters,
            );
            match executed {
                HasRead::Done(err, value) => {
                    page.answer(err, value);
                    platform.notify(*port);
                    self.is_waiting = false;
                    return ControlFlow::Continue(before.max(Served::Reads));
                }
                HasRead::Absent => {}
                HasRead::Lost => self.signal.raise(),
            }
        }
        self.serve_other(platform, counters, broker, before)?;
        ControlFlow::Continue(Served::Done)
    }

    /// The same for what came while the request before was served, up to [`REQUESTS`] times and for [`TURN_NS`].
    #[cold]
    #[inline(never)]
    fn serve_more(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        mut served: Served,
    ) -> Served {
        let start_ns = platform.now_ns();
        for _ in 1..REQUESTS {
            match self.serve_one(platform, counters, broker, served) {
                ControlFlow::Break(served) => return served,
                ControlFlow::Continue(more) => served = more,
            }
            let now_ns = platform.now_ns();
            let took_ns = now_ns.saturating_sub(start_ns);
            if took_ns > TURN_NS {
                self.aside_until_ns = now_ns.saturating_add(took_ns.min(MAX_ASIDE_NS));
                self.is_delayed = true;
                return Served::Slow;
            }
        }
        Served::More
    }

    /// Until when it stands aside.
    pub(crate) const fn aside_until_ns(&self) -> u64 {
        self.aside_until_ns
    }

    /// What comes before a request, seldom: devices that are gone, and a turn that took too long. True where the request waits; who has set it
    /// aside sees to it that there is an event.
    #[cold]
    #[inline(never)]
    fn delay(&mut self, platform: &P) -> bool {
        if self.has_losses {
            self.tell_losses(platform); // the event may be its answer to the one before
        }
        let waits = platform.now_ns() < self.aside_until_ns;
        self.is_delayed = waits || self.has_losses;
        waits
    }

    /// Serves a request that is more than a read, and goes on or ends with what was served. `before` is what was until now.
    #[inline(never)] // out of the way of reads
    fn serve_other(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        before: Served,
    ) -> ControlFlow<Served> {
        let Some(Session { page, .. }) = &self.session else { return ControlFlow::Continue(()) };
        let Some(request) = page.take_request() else { return ControlFlow::Continue(()) };
        if let Some(asked) = &self.asked {
            if *asked == request {
                return ControlFlow::Break(before);
            }
            // It has given up on what the broker has, and asks for something else.
            self.asked = None;
            broker.forget(self.domid);
        }
        let devices = &mut self.devices;
        let executed = requests::execute(
            &request,
            &self.topology,
            |id| Some(devices.get_mut(usize::from(id.0))?.as_mut()?.parts()),
            counters,
        );
        if executed.is_loss {
            self.signal.raise();
        }
        match executed.answer {
            Answer::Now(reply) => {
                self.is_waiting = false;
                self.reply(platform, &request, reply, executed.notice);
            }
            Answer::Later(job) => {
                if !self.ask(platform, counters, broker, &request, executed.device, job) {
                    return ControlFlow::Break(Served::Done);
                }
            }
            Answer::Read => {} // next
        }
        ControlFlow::Continue(())
    }

    /// Gives a job to the broker or has it wait in the page. True when it is done, or cannot be done, and the guest has its answer.
    fn ask(
        &mut self,
        platform: &P,
        counters: &mut Counters,
        broker: &mut Broker<P>,
        request: &Request,
        id: Option<DeviceId>,
        job: BrokerRequest,
    ) -> bool {
        let Some(Session { page, .. }) = &self.session else { return true };
        let device = id.and_then(|id| self.devices.get_mut(usize::from(id.0))?.as_mut());
        let Some(device) = device else { return true };
        let mut verdict = Verdict::Away;
        match job {
            // Not before it is quiet: what is written now would be undone. Not what takes time, or care for bits that clear by ones.
            BrokerRequest::Write { now, then, .. }
                if self.is_direct
                    && !matches!(now.register, Register::PowerState | Register::Open)
                    && device.cleanup != Cleanup::Quiesce =>
            {
                [Some(now), then].iter().flatten().for_each(|write| device.write(write));
                verdict = Verdict::Done;
            }
            _ => match broker.availability(platform) {
                Availability::Free if !broker.has_cleanups() => {
                    let entries = page.take_entries(request);
                    let entries = entries.as_ref().map_or(&[][..], MsixEntries::as_slice);
                    let (function, hw) = device.parts();
                    if requests::are_entries_valid(function, hw, entries) {
                        device.is_touched = true;
                        if job.is_enable() {
                            device.cleanup = Cleanup::None; // the broker turns off what is on
                        }
                        let what = InFlight { device: device.info().sbdf(), job, guest: Some(self.domid) };
                        broker.ask(platform, what, entries);
                        (self.asked, self.is_waiting) = (Some(*request), false);
                        return false;
                    }
                    verdict = Verdict::Impossible;
                }
                Availability::Free | Availability::Busy => {
                    // Who gave up and asks again has its place still.
                    if !core::mem::replace(&mut self.is_queued, true) {
                        broker.queue(self.domid);
                    }
                    self.is_waiting = true;
                    return false;
                }
                Availability::Away => {}
            },
        }
        if job == BrokerRequest::Disable {
            device.parts().0.interrupts = Interrupts::Off; // as the guest is notified; it happens when the broker is there
            device.cleanup = device.cleanup.max(Cleanup::Disable);
        }
        let function = device.parts().0;
        let (reply, notice) = job.reply(verdict, request, function, None, counters);
        let notice = function.news(notice);
        self.is_waiting = false;
        self.reply(platform, request, reply, notice);
        true
    }

    /// Answers a request that the broker had, unless the frontend has given up on it. True when it was answered.
    pub(crate) fn answer(
        &mut self,
        platform: &P,
        request: &Request,
        reply: Reply<'_>,
        notice: Option<LogOnce>,
    ) -> bool {
        let is_there = self.session.as_ref().is_some_and(|session| session.page.still_carries(request));
        if is_there {
            self.reply(platform, request, reply, notice);
        }
        is_there
    }

    fn reply(&mut self, platform: &P, request: &Request, reply: Reply<'_>, notice: Option<LogOnce>) {
        let Some(Session { port, page }) = &self.session else { return };
        page.reply(request, reply);
        platform.notify(*port);
        if let Some(notice) = notice {
            self.say(platform.now_ns(), log::Level::Info, format_args!("{request}: {notice}"));
        }
    }

    /// The devices that were found to be gone and that nobody was told of, as one reason for the error node.
    pub(crate) fn take_losses(&mut self, pool: &mut Pool<P>) -> Option<Failure> {
        let mut text = String::new();
        for device in self.devices().filter(|device| device.is_gone() && device.notified == Notified::Nobody) {
            device.notified = Notified::Toolstack;
            let address = device.info().sbdf();
            pool.vanished(address);
            let separator = if text.is_empty() { "" } else { "; " };
            text = format!("{text}{separator}{address} is gone: it does not answer any more");
        }
        self.has_losses |= !text.is_empty();
        self.is_delayed |= self.has_losses;
        (!text.is_empty()).then_some(Failure { errno: Errno::ENODEV, text })
    }

    /// Tells the frontend of one device that is gone; of the next when it has answered, which nobody waits for.
    pub(crate) fn tell_losses(&mut self, platform: &P) {
        let Self { session: Some(Session { port, page }), topology, devices, has_losses, .. } = self else { return };
        for entry in topology.iter() {
            let device = devices.get_mut(usize::from(entry.id.0)).and_then(Option::as_mut);
            let Some(device) = device.filter(|device| device.notified == Notified::Toolstack) else { continue };
            match page.tell_gone(entry.address) {
                AerNotification::Busy => return,
                AerNotification::Deaf => {}
                AerNotification::Sent => platform.notify(*port),
            }
            device.notified = Notified::Guest;
        }
        *has_losses = false;
    }

    /// One of its devices, by the real address.
    pub(crate) fn device(&mut self, address: Sbdf) -> Option<&mut PoolDevice<P>> {
        let id = self.id(address)?;
        self.devices.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    fn id(&self, address: Sbdf) -> Option<DeviceId> {
        match self.frontend.devices.get(&address)? {
            Outcome::Exported(virtual_address) => self.topology.search(*virtual_address),
            Outcome::Failed(_) => None,
        }
    }

    /// How many devices were visited one after the other.
    pub(crate) const fn visited(&self) -> u64 {
        self.visited
    }

    /// The devices that it has, one after the other: for what concerns all of them, never for a request about one.
    pub(crate) fn devices(&mut self) -> impl Iterator<Item = &mut PoolDevice<P>> {
        if cfg!(debug_assertions) {
            self.visited += self.devices.len() as u64;
        }
        self.devices.iter_mut().flatten().map(|device| &mut **device)
    }
}

fn name(state: Option<xenstore::XenbusState>) -> &'static str {
    state.map_or("nonsense", xenstore::XenbusState::name)
}
