//! The client: turns requests into bytes and bytes into answers and events. It does no I/O and never waits.

use alloc::vec::Vec;

use litemap::LiteMap;

use crate::error::{Error, ProtocolError};
use crate::events::{EventQueue, Queued, WatchEvent};
use crate::outgoing::Outgoing;
use crate::parser::Parser;
use crate::reply;
use crate::request::Request;
use crate::wire::{Header, MAX_PAYLOAD, Message, MessageType, ReqId, TxId};

/// Counters of unexpected messages, which were dropped. All zero on a healthy connection, but for `coalesced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers to questions that are not open: never asked, or answered and taken already.
    pub unknown_id: u64,
    /// Second answers while the first had not been taken yet.
    pub duplicate: u64,
    /// Answers of another type than the question.
    pub wrong_type: u64,
    /// Watch events that are not two strings.
    pub malformed_event: u64,
    /// Watch events equal to one that still waited.
    pub coalesced: u64,
    /// Watch events that did not fit into the queue; [`Client::take_overflowed`] tells of them too.
    pub overflowed: u64,
}

/// State of a request.
#[derive(Debug)]
enum Open {
    Waiting(MessageType),
    /// The caller gave up; the id must not be used again until the answer has come.
    Forgotten(MessageType),
    Answered(MessageType, Result<Vec<u8>, Error>),
}

/// One connection to xenstored, with any number of requests in flight.
///
/// The owner of the transport sends [`Client::outgoing`] and reports it with [`Client::sent`], gives what arrives to
/// [`Client::feed`], and calls [`Client::reset`] when the connection is made anew. `LONGEST` are the bytes that an answer may have.
#[derive(Debug, Default)]
pub struct Client<const LONGEST: usize = MAX_PAYLOAD> {
    parser: Parser<LONGEST>,
    outgoing: Outgoing,
    requests: LiteMap<ReqId, Open>,
    /// In order of the answers; all of them are `Open::Answered`. Queues here are vectors: they are short, and each type in a `VecDeque` is some hundred
    /// bytes of the stub's image.
    answered: Vec<ReqId>,
    events: EventQueue,
    last_id: u32,
    watches: usize,
    stats: Stats,
}

impl Client {
    /// On a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// On a connection that another client has used, of the same transport: the first request gets the number behind `last_id`, and answers to
    /// others are none of ours.
    #[must_use]
    pub fn after(last_id: u32) -> Self {
        Self { last_id, ..Self::default() }
    }
}

impl<const LONGEST: usize> Client<LONGEST> {
    /// Queues a request for sending. `tx` is [`TxId::NONE`] outside of transactions and for beginning one.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] or [`Error::TooLong`] for a request that cannot be right; nothing is queued then.
    pub fn submit(&mut self, tx: TxId, request: &Request<'_>) -> Result<ReqId, Error> {
        let payload = request.payload()?;
        let length = u32::try_from(payload.len()).map_err(|_| Error::TooLong)?;
        let header = Header { kind: request.kind(), req_id: self.free_id(), tx_id: tx, length };
        self.outgoing.push(header.req_id, &header.encode(), &payload);
        self.requests.insert(header.req_id, Open::Waiting(header.kind));
        Ok(header.req_id)
    }

    /// Bytes that want to be sent, oldest first. More may follow at any [`Client::submit`], [`Client::feed`] or [`Client::forget`].
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.all()
    }

    /// The front of [`Client::outgoing`]: what is unsent of the oldest message. For transports that want one message at a
    /// time, as Linux's `/dev/xen/xenbus` does.
    #[must_use]
    pub fn outgoing_message(&self) -> &[u8] {
        self.outgoing.first_message()
    }

    /// The first `count` bytes of [`Client::outgoing`] are sent.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.sent(count);
    }

    /// Takes in bytes in whatever pieces they come. Afterwards look at [`Client::take_answered`] and
    /// [`Client::take_watch_event`].
    ///
    /// # Errors
    /// The stream cannot be understood any more, now and at every later call until [`Client::reset`]. What came before the
    /// broken place was taken in.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while let Some(message) = self.parser.next_message(&mut bytes)? {
            if message.kind == MessageType::WATCH_EVENT {
                self.watch_event(message.payload);
            } else {
                self.answer(message);
            }
        }
        Ok(())
    }

    /// The answer to a request, once it is there and once only: the payload, or why not.
    pub fn take_reply(&mut self, id: ReqId) -> Option<Result<Vec<u8>, Error>> {
        self.take(id).map(|(_, answer)| answer)
    }

    /// The answer is not wanted any more. The request itself is not taken back: xenstored still carries it out, except that
    /// a transaction whose beginning was forgotten is ended as soon as its id is known.
    pub fn forget(&mut self, id: ReqId) {
        if let Some(open) = self.requests.get_mut(&id)
            && let Open::Waiting(kind) = *open
        {
            *open = Open::Forgotten(kind);
        } else if let Some((kind, answer)) = self.take(id) {
            self.discard(kind, answer);
        }
    }

    /// A request that was answered since the last call, in order of the answers, for an executor that has to know
    /// whom to wake. The answer itself stays for [`Client::take_reply`].
    pub fn take_answered(&mut self) -> Option<ReqId> {
        if self.answered.is_empty() { None } else { Some(self.answered.remove(0)) }
    }

    /// The oldest watch event.
    pub fn take_watch_event(&mut self) -> Option<WatchEvent> {
        self.events.pop()
    }

    /// True once after watch events were lost because too many waited: look at everything that is watched, then go on
    /// with the events. Ask before looking, so that a loss in between is noticed the next time.
    pub fn take_overflowed(&mut self) -> bool {
        self.events.take_overflowed()
    }

    /// Watches that xenstored has of this connection.
    #[must_use]
    pub const fn watches(&self) -> usize {
        self.watches
    }

    /// Requests that are not answered yet, or whose answers were not taken.
    #[must_use]
    pub fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// Counters of dropped messages.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// The connection is made anew. All open requests are answered with [`Error::Disconnected`], those not sent yet too.
    /// Watches and transactions are gone; events that came before still wait.
    pub fn reset(&mut self) {
        self.parser = Parser::default();
        self.outgoing = Outgoing::default();
        self.watches = 0;
        self.requests.retain(|_, open| !matches!(open, Open::Forgotten(_)));
        for (id, open) in self.requests.iter_mut() {
            match open {
                Open::Waiting(kind) => {
                    *open = Open::Answered(*kind, Err(Error::Disconnected));
                    self.answered.push(*id);
                }
                // The id in the answer may soon be another's transaction.
                Open::Answered(MessageType::TRANSACTION_START, answer) => *answer = Err(Error::Disconnected),
                _ => {}
            }
        }
    }

    /// Takes back a request that the transport refused to send. If part of it was sent, the stream is broken anyway.
    pub(crate) fn cancel(&mut self, id: ReqId) {
        self.outgoing.cancel(id);
        self.requests.remove(&id);
    }

    /// Never 0, which stands in watch events and in Linux's own answers.
    fn free_id(&mut self) -> ReqId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = ReqId(self.last_id);
            if id.0 != 0 && !self.requests.contains_key(&id) {
                return id;
            }
        }
    }

    fn watch_event(&mut self, payload: Vec<u8>) {
        if WatchEvent::decode(&payload).is_none() {
            self.stats.malformed_event += 1;
            return;
        }
        match self.events.push(payload) {
            Queued::New => {}
            Queued::Coalesced => self.stats.coalesced += 1,
            Queued::Overflowed => self.stats.overflowed += 1,
        }
    }

    fn answer(&mut self, message: Message) {
        let id = self.addressee(&message);
        let Some(open) = self.requests.get_mut(&id) else {
            self.stats.unknown_id += 1;
            return;
        };
        let (kind, wanted) = match *open {
            Open::Waiting(kind) => (kind, true),
            Open::Forgotten(kind) => (kind, false),
            Open::Answered(..) => {
                self.stats.duplicate += 1;
                return;
            }
        };
        let answer = match message.kind {
            MessageType::ERROR => Err(Error::from_reply(&message.payload)),
            same if same == kind => {
                match kind {
                    MessageType::WATCH => self.watches += 1,
                    MessageType::UNWATCH => self.watches = self.watches.saturating_sub(1),
                    _ => {}
                }
                Ok(message.payload)
            }
            _ => {
                self.stats.wrong_type += 1;
                return;
            }
        };
        if wanted {
            *open = Open::Answered(kind, answer);
            self.answered.push(id);
        } else {
            self.requests.remove(&id);
            self.discard(kind, answer);
        }
    }

    fn take(&mut self, id: ReqId) -> Option<(MessageType, Result<Vec<u8>, Error>)> {
        if !matches!(self.requests.get(&id), Some(Open::Answered(..))) {
            return None;
        }
        self.answered.retain(|other| *other != id);
        match self.requests.remove(&id) {
            Some(Open::Answered(kind, answer)) => Some((kind, answer)),
            _ => None,
        }
    }

    /// No caller waits for this answer. But a transaction that it opened must be ended: xenstored allows a guest only a few
    /// at a time.
    fn discard(&mut self, kind: MessageType, answer: Result<Vec<u8>, Error>) {
        if kind == MessageType::TRANSACTION_START
            && let Ok(tx) = answer.and_then(|payload| reply::transaction_id(&payload))
            && let Ok(id) = self.submit(tx, &Request::TransactionEnd { commit: false })
        {
            self.forget(id);
        }
    }

    /// Whose answer it is. Linux answers WATCH and UNWATCH through `/dev/xen/xenbus` itself and sets no id
    /// (`drivers/xen/xenbus/xenbus_dev_frontend.c`); it does so in order, so they belong to the oldest such request.
    fn addressee(&self, message: &Message) -> ReqId {
        if message.req_id.0 != 0 || !matches!(message.kind, MessageType::WATCH | MessageType::UNWATCH) {
            return message.req_id;
        }
        let asks = |open: &Open| matches!(open, Open::Waiting(kind) | Open::Forgotten(kind) if *kind == message.kind);
        let oldest = self
            .requests
            .iter()
            .filter(|(_, open)| asks(open))
            .map(|(id, _)| *id)
            // By age and not by number, which wraps.
            .max_by_key(|id| self.last_id.wrapping_sub(id.0));
        oldest.unwrap_or(message.req_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_wrap_past_zero_and_past_open_requests() {
        let mut client = Client { last_id: u32::MAX - 1, ..Client::new() };
        let watch =
            |client: &mut Client| client.submit(TxId::NONE, &Request::Watch { path: "a", token: "t" }).map(|id| id.0);
        assert_eq!([(); 3].map(|()| watch(&mut client)), [Ok(u32::MAX), Ok(1), Ok(2)]);
        client.last_id = 0;
        assert_eq!(watch(&mut client), Ok(3));
    }

    #[test]
    fn the_oldest_watch_is_found_across_the_wrap() {
        let mut client = Client { last_id: u32::MAX - 1, ..Client::new() };
        let watch = Request::Watch { path: "a", token: "t" };
        let ids = [(); 3].map(|()| client.submit(TxId::NONE, &watch).unwrap());
        let answer =
            Message { kind: MessageType::WATCH, req_id: ReqId(0), tx_id: TxId::NONE, payload: b"OK\0".to_vec() };
        for id in ids {
            client.feed(&answer.encode().unwrap()).unwrap();
            assert_eq!(client.take_answered(), Some(id));
        }
    }
}
