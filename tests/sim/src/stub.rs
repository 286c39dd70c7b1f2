//! The backend under test, with a shell that moves bytes and events for it: whole, or piece by piece.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pciback::{Backend, Options, Served};
use xen_types::{DomId, Port};

use crate::xen::{Crashed, SimPlatform, SimXen};
use xenstored::Connection;

/// One turn of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Sends up to so many bytes to xenstored.
    Send(usize),
    /// Takes in up to so many bytes from xenstored.
    Receive(usize),
    /// Runs the control plane.
    Run,
    /// Serves one port that is pending.
    Serve,
}

/// A stub.
pub struct SimStub {
    /// The backend itself.
    pub backend: Backend<SimPlatform>,
    domid: DomId,
    xen: SimXen,
    connection: Connection,
    pending: VecDeque<Port>,
    options: Options,
    /// How far both streams have come in a message.
    sent: Framing,
    received: Framing,
    /// The rest of a message that a life before has begun to send.
    rest: Vec<u8>,
    /// What comes is the rest of a message that a life before has begun to receive.
    is_in_old_message: bool,
    /// Turns so far that had something to do, and those in which the image crashes.
    turns: usize,
    crash_at: Vec<usize>,
    /// The control plane has something to do.
    has_news: bool,
}

/// How many bytes a turn that the image crashes in has moved before that: half a header, one, or some more.
const MOVED: [usize; 3] = [7, 16, 21];

/// Bytes of a message's header (`xs_wire.h`).
const HEADER: usize = 16;

/// Where in a message a stream is.
#[derive(Clone, Debug, Default)]
struct Framing {
    header: Vec<u8>,
    left: usize,
    /// Messages that have ended.
    messages: usize,
}

impl Framing {
    /// One more byte. True where a message ends with it.
    fn push(&mut self, byte: u8) -> bool {
        if self.header.len() < HEADER {
            self.header.push(byte);
            if let Some(length) = self.header.get(12..HEADER) {
                self.left = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            }
        } else {
            self.left -= 1;
        }
        let is_end = self.header.len() == HEADER && self.left == 0;
        if is_end {
            self.header.clear();
            self.messages += 1;
        }
        is_end
    }

    fn is_inside(&self) -> bool {
        !self.header.is_empty()
    }
}

impl SimStub {
    /// A stub that has not run yet, in a domain that the toolstack has created.
    #[must_use]
    pub fn new(xen: &SimXen, domid: DomId) -> Self {
        Self::with_options(xen, domid, Options::default())
    }

    /// The same with a command line.
    #[must_use]
    pub fn with_options(xen: &SimXen, domid: DomId, options: Options) -> Self {
        Self {
            backend: Backend::new(xen.platform(domid), options),
            domid,
            xen: xen.clone(),
            connection: xen.store().connect(domid),
            pending: VecDeque::new(),
            options,
            sent: Framing::default(),
            received: Framing::default(),
            rest: Vec::new(),
            is_in_old_message: false,
            turns: 0,
            crash_at: Vec::new(),
            has_news: true,
        }
    }

    /// Turns so far that had something to do.
    #[must_use]
    pub const fn turns(&self) -> usize {
        self.turns
    }

    /// Messages to xenstored so far.
    #[must_use]
    pub const fn messages(&self) -> usize {
        self.sent.messages
    }

    /// Has the image crash in the turn with this number, with a message half sent or half received where that turn moves bytes.
    pub fn crash_at(&mut self, turn: usize) {
        self.crash_at.push(turn);
    }

    /// Crashes that have not come do not come.
    pub fn forget_crashes(&mut self) {
        self.crash_at.clear();
    }

    /// The image crashes here and now, and is started again in the same domain.
    pub fn crash(&mut self) {
        self.xen.crash(self.domid, true);
        self.restart();
    }

    /// The image has crashed, and is started again.
    fn restart(&mut self) {
        if self.rest.is_empty() && self.sent.is_inside() {
            self.rest = self.backend.with_store(|client| client.outgoing_message().to_vec());
        }
        self.is_in_old_message = self.received.is_inside();
        self.backend = Backend::new(self.xen.platform(self.domid), self.options);
        self.xen.crash(self.domid, false);
        self.pending.clear();
    }

    /// Its domain.
    #[must_use]
    pub const fn domid(&self) -> DomId {
        self.domid
    }

    /// Its connection to xenstored.
    #[must_use]
    pub const fn connection(&self) -> Connection {
        self.connection
    }

    /// One turn. True when it moved anything.
    ///
    /// # Panics
    /// When the backend does not understand what xenstored says.
    pub fn turn(&mut self, turn: Turn) -> bool {
        let has_news = turn == Turn::Run && (self.has_news || self.is_due());
        let may_crash = self.crash_at.contains(&self.turns);
        let moved = MOVED[self.turns % MOVED.len()];
        let turn = match turn {
            Turn::Send(count) if may_crash => Turn::Send(moved.min(count)),
            Turn::Receive(count) if may_crash => Turn::Receive(moved.min(count)),
            turn => turn,
        };
        match catch_unwind(AssertUnwindSafe(|| self.take_turn(turn))) {
            Ok(moved) => {
                self.has_news = moved || self.has_news && turn != Turn::Run;
                if !moved && !has_news {
                    return false;
                }
                self.turns += 1;
                if !may_crash {
                    return moved;
                }
                self.crash();
            }
            Err(cause) if cause.is::<Crashed>() => self.restart(),
            Err(cause) => resume_unwind(cause),
        }
        self.has_news = true;
        true
    }

    /// Whether the control plane has something to do by itself.
    fn is_due(&self) -> bool {
        self.backend.next_deadline_ns().is_some_and(|deadline_ns| deadline_ns <= self.xen.now_ns())
    }

    fn take_turn(&mut self, turn: Turn) -> bool {
        match turn {
            Turn::Send(count) if !self.rest.is_empty() => {
                let bytes: Vec<u8> = self.rest.drain(..count.min(self.rest.len())).collect();
                for byte in &bytes {
                    self.sent.push(*byte);
                }
                self.xen.store().send(self.connection, &bytes);
                !bytes.is_empty()
            }
            Turn::Send(count) => {
                let sent = &mut self.sent;
                let (xen, connection) = (&self.xen, self.connection);
                self.backend.with_store(|client| {
                    let bytes = client.outgoing();
                    let bytes = bytes[..count.min(bytes.len())].to_vec();
                    client.sent(bytes.len());
                    for byte in &bytes {
                        sent.push(*byte);
                    }
                    xen.store().send(connection, &bytes);
                    !bytes.is_empty()
                })
            }
            Turn::Receive(count) => {
                let mut bytes = self.xen.store().receive(self.connection, count);
                let is_any = !bytes.is_empty();
                let mut old = 0;
                for (index, byte) in bytes.iter().enumerate() {
                    if self.received.push(*byte) && std::mem::take(&mut self.is_in_old_message) {
                        old = index + 1;
                    }
                }
                bytes.drain(..if self.is_in_old_message { bytes.len() } else { old });
                self.backend.with_store(|client| client.feed(&bytes).expect("whole messages"));
                is_any
            }
            Turn::Run => {
                self.backend.run();
                self.pending.extend(self.backend.take_due());
                false
            }
            Turn::Serve => self.serve_one(),
        }
    }

    /// Runs the control plane until it waits for somebody or for the clock.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            self.turn(Turn::Run);
            let sent = self.turn(Turn::Send(usize::MAX));
            if !self.turn(Turn::Receive(usize::MAX)) && !sent {
                return;
            }
        }
        panic!("the stub never comes to rest");
    }

    /// Serves what is pending.
    pub fn serve(&mut self) {
        while self.turn(Turn::Serve) {}
    }

    fn serve_one(&mut self) -> bool {
        for port in self.xen.take_pending(self.domid) {
            if !self.pending.contains(&port) {
                self.pending.push_back(port);
            }
        }
        let Some(port) = self.pending.pop_front() else { return false };
        match self.backend.serve(port) {
            Served::More => self.pending.push_back(port),
            Served::Slow => self.backend.set_aside(port),
            _ => {}
        }
        true
    }
}
