//! Blocking client: every call waits for its answer.

use alloc::vec::Vec;
use core::fmt;

use xen_types::Errno;

use crate::client::{Client, Stats};
use crate::error::StoreError;
use crate::events::WatchEvent;
use crate::nodes::{Answers, Nodes, outcome};
use crate::reply;
use crate::request::Request;
use crate::wire::{MAX_LISTING, ReqId, TxId};

/// The bytes' way to xenstored and back.
pub trait Transport {
    /// What can go wrong with it, an interruption by the user included.
    type Error;

    /// Sends the front of `bytes`, waiting while there is no room, and says how much it was: at least one byte. `bytes` is
    /// the rest of one message, unless [`Transport::takes_several`], so that what takes messages whole gets them whole. After an error the request counts as not made; the connection may still be good for others
    /// (Linux reports a refused watch in this way).
    ///
    /// # Errors
    /// The transport's own.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Self::Error>;

    /// Whether it takes more than one request before it gives the answers. Then `bytes` of [`Transport::send`] may be several messages.
    fn takes_several(&self) -> bool {
        false
    }

    /// Receives into the front of `buffer`, waiting until something comes or the time is `deadline_ns` (by the transport's
    /// own clock; `None`: without end). Says how much came; 0 when the deadline has passed.
    ///
    /// # Errors
    /// The transport's own, also when the wait was interrupted or the other end is gone.
    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> Result<usize, Self::Error>;
}

/// A connection to xenstored.
#[derive(Debug)]
pub struct Store<T> {
    client: Client<MAX_LISTING>,
    transport: T,
    deadline_ns: Option<u64>,
}

impl<T: Transport> Store<T> {
    /// How many requests are under way together. Oxenstored takes no more from who has 1,024 answers to read (`quota-maxoutstanding`),
    /// and then neither would go on: we read when everything is sent.
    pub const AT_ONCE: usize = 256;

    /// How often [`Store::transaction`] tries. Every try that fails means that another client's succeeded.
    pub const MAX_TRIES: u32 = 100;

    /// Over a fresh transport. Waits without end until [`Store::set_deadline`].
    #[must_use]
    pub fn new(transport: T) -> Self {
        Self { client: Client::default(), transport, deadline_ns: None }
    }

    /// From when on requests give up waiting, by the transport's clock.
    pub fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        self.deadline_ns = deadline_ns;
    }

    /// The transport.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Counters of dropped messages.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.client.stats()
    }

    /// Asks for events about a node and everything below it; the first comes at once.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), StoreError<T::Error>> {
        self.request(&Request::Watch { path, token }).map(drop)
    }

    /// Ends a watch. Events that came before still wait.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), StoreError<T::Error>> {
        self.request(&Request::Unwatch { path, token }).map(drop)
    }

    /// Waits for a watch event until `deadline_ns` by the transport's clock; `None` when it has passed.
    ///
    /// # Errors
    /// The connection's.
    pub fn next_watch_event(&mut self, deadline_ns: Option<u64>) -> Result<Option<WatchEvent>, StoreError<T::Error>> {
        loop {
            if let Some(event) = self.client.take_watch_event() {
                return Ok(Some(event));
            }
            if !self.receive(deadline_ns)? {
                return Ok(None);
            }
        }
    }

    /// True once after watch events were lost because too many waited: look at everything that is watched. Ask before
    /// waiting in [`Store::next_watch_event`].
    pub fn take_overflowed(&mut self) -> bool {
        self.client.take_overflowed()
    }

    /// Does what `body` does, all of it or nothing, as if there were no other client. `body` runs again from the start when
    /// another client's change came in between, so it should do nothing but work on the nodes. When it fails, its changes
    /// are thrown away.
    ///
    /// # Errors
    /// The body's, or the connection's; `EAGAIN` after [`Store::MAX_TRIES`].
    pub fn transaction<R, F, B>(&mut self, mut body: B) -> Result<R, F>
    where
        B: FnMut(&mut Transaction<'_, T>) -> Result<R, F>,
        F: From<StoreError<T::Error>>,
    {
        let mut tries = 1;
        loop {
            let start = self.request(&Request::TransactionStart)?;
            let tx = reply::transaction_id(&start).map_err(StoreError::Request)?;
            let result = match body(&mut Transaction { store: self, tx }) {
                Ok(result) => result,
                Err(error) => {
                    // The body's error is the one to tell; xenstored ends the transaction with the connection at the latest.
                    let _ = self.request_in(tx, &Request::TransactionEnd { commit: false });
                    return Err(error);
                }
            };
            match self.request_in(tx, &Request::TransactionEnd { commit: true }) {
                Ok(_) => return Ok(result),
                Err(error) if error.is(Errno::EAGAIN) && tries < Self::MAX_TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn request_in(&mut self, tx: TxId, request: &Request<'_>) -> Result<Vec<u8>, StoreError<T::Error>> {
        let id = self.client.submit(tx, request)?;
        if let Err(error) = self.flush() {
            self.client.cancel(id);
            return Err(error);
        }
        self.await_reply(id)
    }

    /// Many requests at once where the transport takes them: xenstored is woken for the first and finds the others.
    fn request_all_in(&mut self, tx: TxId, requests: &[Request<'_>]) -> Answers<T::Error> {
        if !self.transport.takes_several() {
            return requests.iter().map(|request| outcome(self.request_in(tx, request))).collect();
        }
        let mut answers = Vec::with_capacity(requests.len());
        for some in requests.chunks(Self::AT_ONCE) {
            let ids: Vec<_> = some.iter().map(|request| self.client.submit(tx, request)).collect();
            // Where sending or receiving fails, the connection is at its end.
            self.flush()?;
            for id in ids {
                answers.push(match id {
                    Ok(id) => outcome(self.await_reply(id))?,
                    Err(error) => Err(error),
                });
            }
        }
        Ok(answers)
    }

    fn await_reply(&mut self, id: ReqId) -> Result<Vec<u8>, StoreError<T::Error>> {
        loop {
            if let Some(answer) = self.client.take_reply(id) {
                return Ok(answer?);
            }
            match self.receive(self.deadline_ns) {
                Ok(true) => {}
                Ok(false) => {
                    self.client.forget(id);
                    return Err(StoreError::NoAnswer);
                }
                Err(error) => {
                    self.client.forget(id);
                    return Err(error);
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), StoreError<T::Error>> {
        loop {
            let several = self.transport.takes_several();
            let bytes = if several { self.client.outgoing() } else { self.client.outgoing_message() };
            if bytes.is_empty() {
                return Ok(());
            }
            let count = self.transport.send(bytes).map_err(StoreError::Transport)?;
            if count == 0 {
                return Err(StoreError::NoAnswer);
            }
            self.client.sent(count);
        }
    }

    /// False when the deadline has passed.
    fn receive(&mut self, deadline_ns: Option<u64>) -> Result<bool, StoreError<T::Error>> {
        let mut buffer = [0; 1024];
        let count = self.transport.receive(&mut buffer, deadline_ns).map_err(StoreError::Transport)?;
        self.client.feed(buffer.get(..count).unwrap_or(&buffer))?;
        // A late answer may have made the client end a forgotten transaction.
        self.flush()?;
        Ok(count > 0)
    }
}

impl<T: Transport> Nodes for Store<T> {
    type Error = T::Error;

    fn request(&mut self, request: &Request<'_>) -> Result<Vec<u8>, StoreError<T::Error>> {
        self.request_in(TxId::NONE, request)
    }

    fn request_all(&mut self, requests: &[Request<'_>]) -> Answers<T::Error> {
        self.request_all_in(TxId::NONE, requests)
    }
}

/// A running transaction, given to the body of [`Store::transaction`].
pub struct Transaction<'a, T> {
    store: &'a mut Store<T>,
    tx: TxId,
}

impl<T: Transport> Nodes for Transaction<'_, T> {
    type Error = T::Error;

    fn request(&mut self, request: &Request<'_>) -> Result<Vec<u8>, StoreError<T::Error>> {
        self.store.request_in(self.tx, request)
    }

    fn request_all(&mut self, requests: &[Request<'_>]) -> Answers<T::Error> {
        self.store.request_all_in(self.tx, requests)
    }
}

impl<T> fmt::Debug for Transaction<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("tx", &self.tx).finish_non_exhaustive()
    }
}
