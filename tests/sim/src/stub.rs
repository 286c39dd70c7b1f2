//! The backend under test, with a shell that moves bytes and events for it: whole, or piece by piece.

use std::collections::VecDeque;

use pciback::{Backend, Options, Served};
use xen_types::{DomId, Port};

use crate::xen::{SimPlatform, SimXen};
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
        }
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
        match turn {
            Turn::Send(count) => {
                let (xen, connection) = (&self.xen, self.connection);
                self.backend.with_store(|client| {
                    let bytes = client.outgoing();
                    let bytes = bytes[..count.min(bytes.len())].to_vec();
                    client.sent(bytes.len());
                    xen.store().send(connection, &bytes);
                    !bytes.is_empty()
                })
            }
            Turn::Receive(count) => {
                let bytes = self.xen.store().receive(self.connection, count);
                self.backend.with_store(|client| client.feed(&bytes).expect("whole messages"));
                !bytes.is_empty()
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
        while self.serve_one() {}
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
