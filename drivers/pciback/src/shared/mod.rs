//! State shared by the control plane's tasks and the data plane.
//!
//! | file | what |
//! |---|---|
//! | [`adoption`], [`adoption_stage`] | taking over what was there before a restart in place, and its stages |
//! | [`watches`] | what we watch in xenstore, and what an event is about |
//! | [`alarms`] | signals that are raised when their time has come |
//! | [`broker_turn`] | the broker's answers, and what it is asked next |
//! | [`statistics`] | how the stub is, for dom0 |

mod adoption;
pub(crate) mod adoption_stage;
pub(crate) mod alarms;
mod broker_turn;
mod statistics;
pub(crate) mod watches;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::task::Waker;

use pcidom_abi::AerValue;
use xen_types::{DomId, Port, Sbdf};
use xenstore::{Client, ReqId, Request, TxId, WatchEvent};

use crate::broker_client::Broker;
use crate::frontend::Frontend;
use crate::frontend::port_table::PortTable;
use crate::frontend::table::Frontends;
use crate::handshake::ShutdownStage;
use crate::options::Options;
use crate::platform::Platform;
use crate::pool::Pool;
use crate::requests::Counters;
use crate::signal::Signal;
use adoption_stage::Adoption;
use alarms::Alarms;
use watches::{Subject, WATCHES, frontend_path, frontend_token, subject};

/// Until what xenstored has refused is asked for again.
const RETRY_NS: u64 = 1_000_000_000;

/// Transactions at a time. Xenstored allows an unprivileged domain ten.
const TRANSACTIONS: u32 = 4;

/// Kind of shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// For good.
    Poweroff,
    /// To be started again.
    Reboot,
}

/// Everything that is not in a task.
pub(crate) struct Core<P: Platform> {
    pub(crate) platform: P,
    pub(crate) options: Options,
    pub(crate) client: Client,
    /// Tasks that wait for answers of xenstored.
    waiting: Vec<(ReqId, Waker)>,
    pub(crate) alarms: Alarms,
    /// Ports that were set aside, and until when.
    aside: Vec<(u64, Port)>,
    pub(crate) free_transactions: u32,
    pub(crate) transaction_queue: Vec<Waker>,
    /// Frontends that have no task yet.
    arrived: Vec<DomId>,
    pub(crate) frontends: Frontends<P>,
    pub(crate) ports: PortTable,
    pub(crate) pool: Pool<P>,
    pub(crate) adoption: Adoption,
    /// Raised when that is over.
    pub(crate) adopted: Rc<Signal>,
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
    /// The requested shutdown, once all frontends are closed.
    pub(crate) shutdown: Option<Shutdown>,
}

impl<P: Platform> Core<P> {
    pub(crate) fn new(platform: P, options: Options) -> Self {
        let lives = platform.restarted().map_or(0, |restarted| restarted.count);
        Self {
            started_ns: platform.now_ns(),
            platform,
            options,
            client: Client::after(lives << 24),
            waiting: Vec::new(),
            alarms: Alarms::NONE,
            aside: Vec::new(),
            free_transactions: TRANSACTIONS,
            transaction_queue: Vec::new(),
            arrived: Vec::new(),
            frontends: Frontends::new(),
            ports: PortTable::default(),
            pool: Pool::new(options.is_direct),
            adoption: if lives > 0 { Adoption::Listing } else { Adoption::Done },
            adopted: Signal::new(),
            broker: Broker::default(),
            list_backends: Signal::new(),
            is_ready: false,
            counters: Counters::default(),
            shutdown_signal: Signal::new(),
            stop: ShutdownStage::No,
            shutdown: None,
        }
    }

    /// Transactions that are open.
    pub(crate) fn transactions(&self) -> usize {
        (TRANSACTIONS - self.free_transactions) as usize
    }

    /// When the next alarm is due, or the broker's time is over.
    pub(crate) fn next_alarm_ns(&self) -> Option<u64> {
        let aside = self.aside.iter().map(|(deadline_ns, _)| *deadline_ns);
        self.alarms.next_ns().into_iter().chain(self.broker.deadline_ns()).chain(aside).min()
    }

    /// Has a port wait for as long as its frontend stands aside.
    pub(crate) fn set_aside(&mut self, port: Port) {
        let owner = self.ports.owner(port).map(|owner| owner.domid);
        if let Some(frontend) = owner.and_then(|domid| self.frontends.get_mut(domid)) {
            self.aside.push((frontend.aside_until_ns(), port));
        }
    }

    /// Ports that have waited long enough.
    pub(crate) fn take_due(&mut self) -> Vec<Port> {
        let mut due = Vec::new();
        if !self.aside.is_empty() {
            let now_ns = self.platform.now_ns();
            while let Some(place) = self.aside.iter().position(|(deadline_ns, _)| *deadline_ns <= now_ns) {
                due.push(self.aside.remove(place).1);
            }
        }
        due
    }

    /// Sets every watch anew, and looks at everything: each begins with an event, and what was missed is seen.
    pub(crate) fn reset_store(&mut self) {
        self.client.reset();
        let domids: Vec<DomId> = self.frontends.iter().map(Frontend::domid).collect();
        // A watch that is there already is as good.
        let mut watch = |path: &str, token: &str| self.tell(TxId::NONE, &Request::Watch { path, token });
        WATCHES.iter().for_each(|(path, token)| watch(path, token));
        domids.into_iter().for_each(|domid| watch(&frontend_path(domid), &frontend_token(domid)));
        self.pool.look_at_all();
        self.look_at_backends();
        self.shutdown_signal.raise();
    }

    /// Asks xenstored for something, whatever is answered.
    #[inline(never)] // its callers are large already
    pub(crate) fn tell(&mut self, tx: TxId, request: &Request<'_>) {
        if let Ok(id) = self.client.submit(tx, request) {
            self.client.forget(id);
        }
    }

    /// A task is to be woken by the answer to a question. Each waits for one at a time, so there are as few as tasks.
    pub(crate) fn wait_for(&mut self, id: ReqId, waker: Waker) {
        self.wait_no_more(id);
        self.waiting.push((id, waker));
    }

    /// Whom the answer to a question was to wake.
    #[inline(never)] // three callers
    pub(crate) fn wait_no_more(&mut self, id: ReqId) -> Option<Waker> {
        let place = self.waiting.iter().position(|(other, _)| *other == id)?;
        Some(self.waiting.swap_remove(place).1)
    }

    /// Raises what is due.
    pub(crate) fn ring_alarms(&mut self) {
        self.alarms.ring(|| self.platform.now_ns());
    }

    /// Passes on what xenstored has said: wakes who waits for an answer, raises the flags that events are about.
    pub(crate) fn dispatch(&mut self) {
        while let Some(id) = self.client.take_answered() {
            if let Some(waker) = self.wait_no_more(id) {
                waker.wake();
            }
        }
        if self.client.take_overflowed() {
            plain_log::warning!("too many watch events at once: looking at everything");
            self.pool.look_at_all();
            self.look_at_backends();
        }
        while let Some(event) = self.client.take_watch_event() {
            self.on_watch_event(&event);
        }
    }

    fn on_watch_event(&mut self, event: &WatchEvent) {
        match subject(event) {
            Subject::Backend(domid) => self.look_at_frontend(domid),
            Subject::AnyBackend => self.look_at_backends(),
            Subject::PoolState(address) => self.pool.look_at_state(address),
            Subject::PoolDevice(address) => self.pool.look_at(address),
            Subject::AnyPoolDevice => self.pool.look_at_all(),
            Subject::Shutdown => self.shutdown_signal.raise(),
            Subject::Query => self.answer(&event.path),
            Subject::Frontend(domid) => {
                if let Some(frontend) = self.frontends.get_mut(domid) {
                    frontend.pacing.is_touched = true;
                    frontend.signal.raise();
                }
            }
            Subject::Nothing => {}
        }
    }

    /// An event was about more than one directory: lists them, and wakes all tasks.
    fn look_at_backends(&mut self) {
        for frontend in self.frontends.iter() {
            frontend.signal.raise();
        }
        self.list_backends.raise();
    }

    /// What could not be done is tried again a second later.
    pub(crate) fn raise_later(&mut self, signal: &Rc<Signal>) {
        self.alarms.set(self.platform.now_ns() + RETRY_NS, signal);
    }

    /// Something about a frontend may have changed. One that is not known yet is to get a task.
    pub(crate) fn look_at_frontend(&mut self, domid: DomId) {
        let Self { frontends, arrived, options, stop, adoption, .. } = self;
        let frontend = frontends.get_or_insert_with(domid, || {
            arrived.push(domid);
            let mut frontend = Frontend::new(domid, *options, *stop);
            frontend.state.is_adopting = adoption.is_before_pool();
            Box::new(frontend)
        });
        frontend.signal.raise();
    }

    /// Frontends that are to get a task.
    pub(crate) fn take_arrived(&mut self) -> Vec<DomId> {
        core::mem::take(&mut self.arrived)
    }

    /// Has all frontends close, and those that come yet.
    pub(crate) fn close_all(&mut self, stop: ShutdownStage) {
        self.stop = stop;
        for frontend in self.frontends.iter_mut() {
            frontend.state.stop = stop;
            frontend.state.is_idle = false;
            frontend.signal.raise();
        }
    }

    /// True when every frontend is closed and every device quiesced, or cannot be.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.frontends.iter().all(|frontend| frontend.state.is_idle) && self.pool.all_leaving().next().is_none()
    }

    /// The nodes of a device were changed that may be assigned: looks whether it is still there.
    pub(crate) fn look_after(&mut self, address: Sbdf) {
        let Some(frontend) = self.pool.holder(address).and_then(|domid| self.frontends.get_mut(domid)) else { return };
        if let Some(device) = frontend.device(address) {
            device.look_after(self.platform.now_ns(), &mut self.broker);
        }
    }

    /// Goes on with what the `aer` node of a device says ([`Frontend::relay`]).
    #[inline(never)] // its caller is a task, in which everything costs more
    pub(crate) fn relay(&mut self, address: Sbdf, value: Option<AerValue>) -> Option<AerValue> {
        let frontend = self.pool.holder(address).and_then(|domid| self.frontends.get_mut(domid))?;
        frontend.relay(&self.platform, address, value)
    }

    /// The pool has changed for the better: frontends that were refused one of its devices ask again.
    pub(crate) fn retry_failed(&mut self, address: Sbdf) {
        for frontend in self.frontends.iter_mut() {
            if frontend.forget_failure(address) {
                frontend.signal.raise();
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
pub(crate) struct Handle<P: Platform>(Shared<P>);

/// The image's core lasts as long as the image, so nothing in it has to count who uses the core, or to know how one is dropped.
#[cfg(feature = "endless")]
type Shared<P> = &'static RefCell<Core<P>>;
#[cfg(not(feature = "endless"))]
type Shared<P> = Rc<RefCell<Core<P>>>;

impl<P: Platform> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self(Shared::clone(&self.0))
    }
}

impl<P: Platform> Handle<P> {
    pub(crate) fn new(core: Core<P>) -> Self {
        let core = RefCell::new(core);
        #[cfg(feature = "endless")]
        let core = &*Box::leak(Box::new(core));
        #[cfg(not(feature = "endless"))]
        let core = Rc::new(core);
        Self(core)
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
    pub(crate) fn sleep_until(&self, deadline_ns: u64) -> impl Future<Output = ()> + use<P> {
        let signal = Signal::new();
        self.with(|core| core.alarms.set(deadline_ns, &signal));
        poll_fn(move |cx| signal.poll_wait(cx))
    }
}
