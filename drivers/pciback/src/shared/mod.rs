//! What the tasks of the control plane and the data plane share.

mod broker_turn;
mod statistics;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Waker;

use litemap::LiteMap;
use xen_types::{DomId, Port, Sbdf};
use xenstore::path::key;
use xenstore::{Client, ReqId, Request, TxId, WatchEvent, path};

use crate::Counters;
use crate::Options;
use crate::broker_client::Broker;
use crate::frontend::Guest;
use crate::frontend::port_table::PortTable;
use crate::frontend::table::Guests;
use crate::handshake::ShutdownStage;
use crate::platform::Platform;
use crate::pool::{Pool, PoolDevice};
use crate::signal::Signal;
use crate::tasks::executor::BoxedTask;
use crate::tasks::shutdown::Shutdown;

/// Watch on [`path::relative::BACKEND_ROOT`].
const BACKEND_TOKEN: &str = "backend";
/// Watch on [`path::relative::POOL`].
const POOL_TOKEN: &str = "pool";
/// Watch on [`path::relative::CONTROL_SHUTDOWN`].
const SHUTDOWN_TOKEN: &str = "shutdown";
/// Watch on [`path::relative::QUERY`].
const QUERY_TOKEN: &str = "query";
/// Watches on the frontends' `state` nodes: this and the domain's number.
const FRONTEND_TOKEN: &str = "frontend-";
/// What is watched from the start.
pub(crate) const WATCHES: [(&str, &str); 4] = [
    (path::relative::POOL, POOL_TOKEN),
    (path::relative::BACKEND_ROOT, BACKEND_TOKEN),
    (path::relative::QUERY, QUERY_TOKEN),
    (path::relative::CONTROL_SHUTDOWN, SHUTDOWN_TOKEN),
];

/// The node of a frontend that is watched.
pub(crate) fn frontend_path(domid: DomId) -> String {
    path::child(&path::frontend_dir(domid), key::STATE)
}

/// And the watch's token.
pub(crate) fn frontend_token(domid: DomId) -> String {
    format!("{FRONTEND_TOKEN}{domid}")
}

/// Transactions at a time. Xenstored allows an unprivileged domain ten.
const TRANSACTIONS: u32 = 4;

/// An alarm that was set.
pub(crate) struct Alarm(u64, u64);

/// Everything that is not in a task.
pub(crate) struct Core<P: Platform> {
    pub(crate) platform: P,
    pub(crate) options: Options,
    pub(crate) client: Client,
    /// Who waits for which answer.
    pub(crate) waiting: LiteMap<ReqId, Waker>,
    /// Signals to raise, by time; the second number tells alarms of the same time apart.
    alarms: LiteMap<(u64, u64), Rc<Signal>>,
    last_alarm: u64,
    /// Ports that were set aside, and until when.
    aside: Vec<(u64, Port)>,
    pub(crate) free_transactions: u32,
    pub(crate) transaction_queue: VecDeque<Waker>,
    /// Tasks to be taken over by the executor.
    pub(crate) spawned: Vec<BoxedTask>,
    pub(crate) guests: Guests<P>,
    pub(crate) ports: PortTable,
    pub(crate) pool: Pool<P>,
    pub(crate) broker: Broker<P>,
    /// Raised when `backend/pci` is to be listed.
    pub(crate) list_backends: Rc<Signal>,
    pub(crate) is_ready: bool,
    pub(crate) counters: Counters,
    pub(crate) started_ns: u64,
    /// Raised when `control/shutdown` has changed.
    pub(crate) shutdown_signal: Rc<Signal>,
    /// Whether we are about to obey it.
    stop: ShutdownStage,
    /// What it asked for, when everything is in order for it.
    pub(crate) shutdown: Option<Shutdown>,
}

impl<P: Platform> Core<P> {
    pub(crate) fn new(platform: P, options: Options) -> Self {
        Self {
            started_ns: platform.now_ns(),
            platform,
            options,
            client: Client::new(),
            waiting: LiteMap::new(),
            alarms: LiteMap::new(),
            last_alarm: 0,
            aside: Vec::new(),
            free_transactions: TRANSACTIONS,
            transaction_queue: VecDeque::new(),
            spawned: Vec::new(),
            guests: Guests::new(),
            ports: PortTable::default(),
            pool: Pool::new(options.is_direct),
            broker: Broker::default(),
            list_backends: Signal::new(),
            is_ready: false,
            counters: Counters::default(),
            shutdown_signal: Signal::new(),
            stop: ShutdownStage::No,
            shutdown: None,
        }
    }

    /// Raises `signal` once at `deadline_ns`.
    pub(crate) fn set_alarm(&mut self, deadline_ns: u64, signal: Rc<Signal>) -> Alarm {
        self.last_alarm = self.last_alarm.wrapping_add(1);
        let alarm = Alarm(deadline_ns, self.last_alarm);
        self.alarms.insert((alarm.0, alarm.1), signal);
        alarm
    }

    /// Takes an alarm back that may not have rung. Who wakes for another reason must, or alarms add up.
    pub(crate) fn cancel_alarm(&mut self, alarm: &Alarm) {
        self.alarms.remove(&(alarm.0, alarm.1));
    }

    /// Alarms that have not rung.
    pub(crate) fn alarms(&self) -> usize {
        self.alarms.len()
    }

    /// Transactions that are open.
    pub(crate) fn transactions(&self) -> usize {
        (TRANSACTIONS - self.free_transactions) as usize
    }

    /// When the next alarm is due, or the broker's time is over.
    pub(crate) fn next_alarm_ns(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|((deadline_ns, _), _)| *deadline_ns);
        let aside = self.aside.iter().map(|(deadline_ns, _)| *deadline_ns);
        alarm.into_iter().chain(self.broker.deadline_ns()).chain(aside).min()
    }

    /// Has a port wait for as long as its frontend stands aside.
    pub(crate) fn set_aside(&mut self, port: Port) {
        let owner = self.ports.owner(port).map(|owner| owner.domid);
        if let Some(guest) = owner.and_then(|domid| self.guests.get_mut(domid)) {
            self.aside.push((guest.aside_until_ns(), port));
        }
    }

    /// Ports that have waited long enough.
    pub(crate) fn take_due(&mut self) -> Vec<Port> {
        let mut due = Vec::new();
        if !self.aside.is_empty() {
            let now_ns = self.platform.now_ns();
            self.aside.retain(|(deadline_ns, port)| {
                let is_due = *deadline_ns <= now_ns;
                if is_due {
                    due.push(*port);
                }
                !is_due
            });
        }
        due
    }

    /// Sets every watch anew, and looks at everything: each begins with an event, and what was missed is seen.
    pub(crate) fn reset_store(&mut self) {
        self.client.reset();
        let domids: Vec<DomId> = self.guests.iter().map(Guest::domid).collect();
        WATCHES.iter().for_each(|(path, token)| self.watch(path, token));
        domids.into_iter().for_each(|domid| self.watch(&frontend_path(domid), &frontend_token(domid)));
        self.pool.look_at_all();
        self.look_at_backends();
        self.shutdown_signal.raise();
    }

    /// Sets a watch of which nobody waits for the answer: one that is there already is as good.
    #[inline(never)]
    fn watch(&mut self, path: &str, token: &str) {
        if let Ok(id) = self.client.submit(TxId::NONE, &Request::Watch { path, token }) {
            self.client.forget(id);
        }
    }

    /// Raises what is due.
    pub(crate) fn ring_alarms(&mut self) {
        if self.alarms.is_empty() {
            return;
        }
        let now_ns = self.platform.now_ns();
        while let Some(first) = self.alarms.first().map(|(key, _)| *key).filter(|(due_ns, _)| *due_ns <= now_ns) {
            if let Some(signal) = self.alarms.remove(&first) {
                signal.raise();
            }
        }
    }

    /// Passes on what xenstored has said: wakes who waits for an answer, raises the flags that events are about.
    pub(crate) fn dispatch(&mut self, handle: &Handle<P>) {
        while let Some(id) = self.client.take_answered() {
            if let Some(waker) = self.waiting.remove(&id) {
                waker.wake();
            }
        }
        if self.client.take_overflowed() {
            log::warn!("too many watch events at once: looking at everything");
            self.pool.look_at_all();
            self.look_at_backends();
        }
        while let Some(event) = self.client.take_watch_event() {
            self.watch_event(handle, &event);
        }
    }

    fn watch_event(&mut self, handle: &Handle<P>, event: &WatchEvent) {
        match event.token.as_str() {
            BACKEND_TOKEN => match path::relative::split_backend(&event.path) {
                Some((domid, _)) => self.guest_or_new(handle, domid).signal.raise(),
                None => self.look_at_backends(),
            },
            POOL_TOKEN => match path::relative::split_pool(&event.path) {
                Some((address, key::STATE)) => self.pool.look_at_state(address),
                Some((address, _)) => self.pool.look_at(address),
                None => self.pool.look_at_all(),
            },
            SHUTDOWN_TOKEN => self.shutdown_signal.raise(),
            QUERY_TOKEN => self.answer(&event.path),
            token => {
                let number = token.strip_prefix(FRONTEND_TOKEN).and_then(|domid| domid.parse().ok());
                if let Some(guest) = number.and_then(|domid| self.guests.get_mut(DomId(domid))) {
                    guest.touched = true;
                    guest.signal.raise();
                }
            }
        }
    }

    /// An event was about more than one directory: lists them, and has everybody look again.
    fn look_at_backends(&mut self) {
        for guest in self.guests.iter() {
            guest.signal.raise();
        }
        self.list_backends.raise();
    }

    /// The guest, which gets its task when it is not known yet.
    pub(crate) fn guest_or_new(&mut self, handle: &Handle<P>, domid: DomId) -> &mut Guest<P> {
        let Self { guests, spawned, options, stop, .. } = self;
        guests.get_or_insert_with(domid, || {
            spawned.push(Box::pin(crate::tasks::frontend::run(handle.clone(), domid)));
            let mut guest = Box::new(Guest::new(domid, *options));
            guest.frontend.stop = *stop;
            guest
        })
    }

    /// Has all frontends close, and those that come yet.
    pub(crate) fn close_all(&mut self, stop: ShutdownStage) {
        self.stop = stop;
        for guest in self.guests.iter_mut() {
            guest.frontend.stop = stop;
            guest.frontend.is_idle = false;
            guest.signal.raise();
        }
    }

    /// True when every frontend is closed and every device quiet, or nobody can make it so.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.guests.iter().all(|guest| guest.frontend.is_idle) && self.pool.all_leaving().next().is_none()
    }

    /// Somebody has touched the nodes of a device that may be assigned: looks whether it is still there.
    pub(crate) fn look_after(&mut self, address: Sbdf) {
        let Some(guest) = self.pool.holder(address).and_then(|domid| self.guests.get_mut(domid)) else { return };
        if guest.device(address).is_some_and(PoolDevice::has_vanished) {
            guest.signal.raise();
        }
    }

    /// The pool has changed for the better: guests that were refused one of its devices ask again.
    pub(crate) fn retry_failed(&mut self, address: Sbdf) {
        for guest in self.guests.iter_mut() {
            if guest.forget_failure(address) {
                guest.signal.raise();
            }
        }
    }
}

#[cold]
#[inline(never)]
fn borrowed_twice() -> ! {
    panic!("the core is in use")
}

/// A task's way to the [`Core`].
pub(crate) struct Handle<P: Platform>(Rc<RefCell<Core<P>>>);

impl<P: Platform> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<P: Platform> Handle<P> {
    pub(crate) fn new(core: Core<P>) -> Self {
        Self(Rc::new(RefCell::new(core)))
    }

    /// Works on the core. `work` cannot wait, and gets the core itself and no handle to borrow it a second time with: that,
    /// and that no future is dropped in `work` (they live in the executor), is why the borrow here never fails.
    #[inline(always)] // several times in each turn of the main loop
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Core<P>) -> R) -> R {
        match self.0.try_borrow_mut() {
            Ok(mut core) => work(&mut core),
            Err(_) => borrowed_twice(),
        }
    }

    /// Nanoseconds by the platform's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        self.with(|core| core.platform.now_ns())
    }

    /// Waits until `deadline_ns`.
    pub(crate) async fn sleep_until(&self, deadline_ns: u64) {
        let signal = Signal::new();
        self.with(|core| core.set_alarm(deadline_ns, Rc::clone(&signal)));
        signal.wait().await;
    }
}
