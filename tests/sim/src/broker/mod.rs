//! dom0's real broker as a process of the simulated machine: stopped and killed at any of its calls, started anew, and with what it
//! answers changed on the way.
//!
//! What the simulated Xen checks meanwhile fails the test: vectors that are mapped twice (`vectors.rs`), ports that are closed twice.

mod outside;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dom0::store::Connection as StoreConnection;
use dom0::sysfs::{SYSFS, Sysfs};
use dom0::{Console as _, Dom0};
use pci_config::{Policy, permitted_writes};
use pcidom_abi::{ProcessId, paths};
use pcidom_broker::{Broker, DeviceResources, Reclaimer, quiesce_device, vectors};
use pciif::{BackendPage, ErrorCode, FrontendPage, OwnedPage, Reply, Request};
use xen_types::{DomId, GrantRef, Port, Sbdf};

use crate::process::{Moment, Process, Rest, Signal, Syscalls};
use crate::tool::ecam;
use crate::xen::SimXen;
use outside::{Lines, Outside, SimRings, Socket};
use xenstored::Connection;

/// Something that goes wrong with the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// dom0's kernel does not let the broker have the device's configuration space: it answers with `OpFailed` and `EIO`, and nothing is done.
    NoConfig,
    /// It is done, and the stub finds these words instead of the answer's, in the vectors too: a broker that lies.
    Lie {
        /// `err`, in the place of a success.
        err: i32,
        /// `value`, and each vector by its lower half.
        value: u32,
        /// `info`.
        info: u32,
    },
    /// The process gets a signal.
    Signal(Signal, Moment),
}

impl Fault {
    /// It is taken, and the broker is stopped before it does anything.
    pub const STOP_BEFORE: Self = Self::Signal(Signal::Stop, TAKEN);
    /// It is done, and the broker is stopped before it answers.
    pub const STOP_AFTER: Self = Self::Signal(Signal::Stop, DONE);
    /// The broker is killed before it does anything.
    pub const DIE_BEFORE: Self = Self::Signal(Signal::Kill, TAKEN);
    /// The broker is killed between the last step and the answer.
    pub const DIE_AFTER: Self = Self::Signal(Signal::Kill, DONE);
}

/// The broker measures how long each request takes: it looks at the clock when it has taken it and before it answers.
const TAKEN: Moment = Moment::Clock(1);
const DONE: Moment = Moment::Clock(2);

/// The process, when there is one.
#[derive(Debug)]
struct Running {
    process: Process,
    /// The connection that its watches are on.
    watches: Connection,
    /// It has something to do then, whatever happens; by the machine's clock.
    due_ns: Option<u64>,
    /// It was stopped in the middle of a turn.
    is_interrupted: bool,
}

/// The broker, running or not.
#[derive(Debug)]
pub struct SimBroker {
    xen: SimXen,
    stub: DomId,
    running: Option<Running>,
    is_stopped: bool,
    lines: Lines,
    /// A request that was taken, and a lie about it.
    lie: Option<(Request, Fault)>,
    /// What goes wrong with the next requests.
    pub faults: VecDeque<Fault>,
    /// It watches for hangs from its next start on.
    pub is_watchdog: bool,
    /// It may end by an error: something below it is made to fail. Who started it starts it again.
    pub may_end: bool,
    /// Commands that were taken from the page, with the devices.
    pub log: Vec<(u32, Sbdf)>,
}

impl SimBroker {
    /// A broker that is not started.
    #[must_use]
    pub fn new(xen: SimXen, stub: DomId) -> Self {
        Self {
            xen,
            stub,
            running: None,
            is_stopped: false,
            lines: Lines::default(),
            lie: None,
            faults: VecDeque::new(),
            is_watchdog: false,
            may_end: false,
            log: Vec::new(),
        }
    }

    /// True while the process is there and has not been stopped.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some() && !self.is_stopped
    }

    /// True while there is a process, stopped or not.
    #[must_use]
    pub const fn has_process(&self) -> bool {
        self.running.is_some()
    }

    /// What it has said since it was started, or since the last call.
    #[must_use]
    pub fn take_lines(&self) -> Vec<String> {
        self.lines.take()
    }

    /// Starts the process and lets it put right what another left half-done, and connect to the stub.
    ///
    /// # Panics
    /// When it runs, or does not start.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "one broker");
        self.lines.take();
        let [requests, watches] = [(), ()].map(|()| self.xen.store().connect_socket());
        let (xen, lines, is_watchdog) = (self.xen.clone(), self.lines.clone(), self.is_watchdog);
        let main = move |syscalls: &Rc<Syscalls>| {
            let outside = Outside { xen, syscalls: Rc::clone(syscalls) };
            serve(&outside, requests, watches, lines, is_watchdog).map_err(|error| error.to_string())
        };
        let process = Process::start(main);
        self.running = Some(Running { process, watches, due_ns: None, is_interrupted: false });
        self.is_stopped = false;
        self.turn(None);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.lie = None;
        if let Some(running) = self.running.take() {
            running.process.kill();
        }
    }

    /// SIGSTOP.
    pub const fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// SIGCONT.
    pub const fn go_on(&mut self) {
        self.is_stopped = false;
    }

    /// Lets it do what there is to do: one turn of its loop. True when there was anything.
    ///
    /// # Panics
    /// When it ends by itself.
    pub fn step(&mut self) -> bool {
        let Some(running) = self.running.as_ref().filter(|_| !self.is_stopped) else { return false };
        if running.is_interrupted {
            self.turn(None);
            return true;
        }
        let is_due = running.due_ns.is_some_and(|due_ns| due_ns <= self.xen.now_ns());
        if !is_due && !self.xen.has_pending(DomId::DOM0) && !self.xen.store().has_output(running.watches) {
            return false;
        }
        // One request in a turn: the one that is there now.
        let request = self.ring().and_then(|page| BackendPage::new(page).take_request());
        let fault = request.as_ref().and_then(|_| self.faults.pop_front());
        self.log.extend(request.as_ref().and_then(|request| Some((request.cmd, device(request)?))));
        let signal = match fault {
            Some(Fault::Signal(signal, moment)) => Some((signal, moment)),
            Some(Fault::NoConfig) => {
                self.xen.fail_next("open_config", xen_types::Errno::EIO);
                None
            }
            Some(lie @ Fault::Lie { .. }) => {
                self.lie = request.map(|request| (request, lie));
                None
            }
            None => None,
        };
        self.turn(signal);
        true
    }

    fn turn(&mut self, signal: Option<(Signal, Moment)>) {
        let Some(running) = &mut self.running else { return };
        match running.process.go_on(signal) {
            Rest::Waiting(idle) => {
                let due_ns =
                    |idle: Duration| self.xen.now_ns() + u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX / 2);
                running.due_ns = idle.map(due_ns);
                running.is_interrupted = false;
            }
            Rest::Stopped => {
                running.is_interrupted = true;
                self.is_stopped = true;
                return;
            }
            Rest::Ended(None) => {
                self.running = None;
                self.lie = None;
                return;
            }
            Rest::Ended(Some(error)) if self.may_end => {
                self.lines.note(&format!("the broker has ended: {error}"));
                self.running = None;
                self.lie = None;
                return;
            }
            Rest::Ended(Some(error)) => panic!("the broker has ended: {error}"),
        }
        self.tell_lie();
    }

    /// Puts other words in the place of an answer that the stub has not seen yet.
    fn tell_lie(&mut self) {
        let Some((request, Fault::Lie { err, value, info })) = self.lie.take() else { return };
        let Some(page) = self.ring() else { return };
        let front = FrontendPage::new(Arc::clone(&page));
        let Some(answer) = front.response() else { return };
        // Nobody could see through a failure that looks like a success. Only `pciif.h`'s numbers fit the type.
        let err = if answer.err == 0 { err } else { answer.err };
        let err = ErrorCode::from_raw(err).unwrap_or(ErrorCode::OpFailed);
        let [low, high, ..] = value.to_le_bytes();
        let vectors = vec![u16::from_le_bytes([low, high]); pciif::layout::MAX_VECTORS];
        BackendPage::new(page).reply_with_info(&request, Reply { err, value, vectors: &vectors }, info);
    }

    /// The page that the stub has announced, while the broker is connected to it.
    fn ring(&self) -> Option<Arc<OwnedPage>> {
        let number = |path: String| self.xen.store().peek(&path)?.parse().ok();
        let (gref, port) = (number(paths::ring_ref_node(self.stub))?, number(paths::ring_port_node(self.stub))?);
        self.xen.ring(self.stub, GrantRef(gref), Port(port))
    }
}

/// The device that a request names.
fn device(request: &Request) -> Option<Sbdf> {
    let number = |word: u32| u8::try_from(word).ok();
    let segment = u16::try_from(request.domain).ok()?;
    Some(Sbdf::from_devfn(segment, number(request.bus)?, number(request.devfn)?))
}

/// dom0 as one of its processes sees it.
fn open(outside: &Outside, requests: Connection, lines: Lines) -> Dom0 {
    let store = StoreConnection::new(Socket::new(outside.clone(), requests));
    Dom0::new(
        Rc::new(outside.clone()),
        Sysfs::new(SYSFS, Rc::new(outside.clone())),
        Rc::new(store),
        Box::new(outside.clone()),
        Box::new(lines),
    )
}

/// What a command does with a device that a guest has left, or that its stub could not quiesce: with the broker's own code.
///
/// # Panics
/// When it fails.
pub(crate) fn quiesce(xen: &SimXen, guest: DomId, device: Sbdf) {
    let requests = xen.store().connect_socket();
    let list = xen.with_function(ecam(device), |function| permitted_writes(function, &Policy::default()));
    let capabilities = list.map(|list| list.capabilities).unwrap_or_default();
    let xen = xen.clone();
    let main = move |syscalls: &Rc<Syscalls>| {
        let outside = Outside { xen, syscalls: Rc::clone(syscalls) };
        let host = open(&outside, requests, Lines::default());
        let resources = DeviceResources::gather(&host, device).map_err(|error| error.to_string())?;
        let settle = |other: Sbdf| vectors::load(&host, other);
        quiesce_device(&host, guest, &resources, &capabilities, &settle).map_err(|error| error.to_string())
    };
    let end = Process::start(main).go_on(None);
    assert!(matches!(end, Rest::Ended(None)), "{device} cannot be quiesced: {end:?}");
}

/// `pcidom serve`, but for what it opens.
fn serve(
    outside: &Outside,
    requests: Connection,
    watches: Connection,
    lines: Lines,
    is_watchdog: bool,
) -> Result<(), dom0::Error> {
    let host = open(outside, requests, lines);
    let watches = StoreConnection::new(Socket::new(outside.clone(), watches));
    let rings = SimRings::new(outside.clone());
    let mut broker = Broker::start(pcidom_broker::Outside {
        host: &host,
        physdev: outside,
        rings: &rings,
        watches: &watches,
        processes: &NoProcesses,
        reclaimer: &NoReclaimer,
    })?;
    if is_watchdog {
        broker.watch_for_hangs();
    }
    loop {
        outside.syscalls.poll(broker.idle());
        broker.turn()?;
    }
}

/// There are no commands here that could die; `SimTool` is the toolstack.
struct NoProcesses;

impl dom0::process::Processes for NoProcesses {
    fn runs(&self, _: ProcessId) -> bool {
        true
    }
}

/// What dead guests leave the tests themselves take back, as commands would.
struct NoReclaimer;

impl Reclaimer for NoReclaimer {
    fn start(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn is_busy(&self) -> bool {
        false
    }
}
