//! Just enough of a xenstored, as a transport, to test a client against.

use std::collections::{BTreeMap, VecDeque};

use xen_types::Errno;
use xenstore::wire::{Header, MAX_PAYLOAD, Message, MessageType, ReqId, TxId};
use xenstore::{Parser, Transport};

type Tree = BTreeMap<String, Node>;

#[derive(Clone, Default)]
struct Node {
    value: Vec<u8>,
    permissions: Vec<u8>,
}

/// The transport's error: a send that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// Nodes, transactions as copies of all nodes, and the ways to misbehave that the tests ask for.
#[derive(Default)]
pub(crate) struct Fake {
    parser: Parser,
    inbox: VecDeque<u8>,
    tree: Tree,
    transactions: BTreeMap<TxId, Tree>,
    last_tx: u32,
    /// All that was asked.
    pub(crate) log: Vec<(MessageType, TxId)>,
    /// Most bytes per send and receive; 0 for any number.
    pub(crate) piece: usize,
    /// How many commits to answer with EAGAIN.
    pub(crate) conflicts: usize,
    /// An event to send before the next answer.
    pub(crate) event_before_answer: Option<(String, String)>,
    /// Refuse to send messages of this type.
    pub(crate) refuse: Option<MessageType>,
    /// Take requests but hold back what there is to receive.
    pub(crate) silent: bool,
    /// Take several messages at once.
    pub(crate) several: bool,
    /// How often something was received.
    pub(crate) receives: u32,
    /// What becomes of listings that do not fit into a message.
    pub(crate) long: Long,
    /// How often a node is added between two parts of a listing.
    pub(crate) additions: u32,
    added: u32,
    /// Most answers that were there unread.
    pub(crate) most_answers: usize,
    answers: usize,
}

/// Kinds of xenstored, and of ways to them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Long {
    /// xenstored.
    #[default]
    InParts,
    /// oxenstored over its socket.
    Whole,
    /// oxenstored over a ring.
    Refused,
}

impl Fake {
    pub(crate) fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    fn push(&mut self, kind: MessageType, to: Option<&Message>, payload: &[u8]) {
        let (req_id, tx_id) = to.map_or((ReqId(0), TxId::NONE), |request| (request.req_id, request.tx_id));
        let length = u32::try_from(payload.len()).unwrap();
        self.inbox.extend(Header { kind, req_id, tx_id, length }.encode());
        self.inbox.extend(payload);
        self.answers += 1;
        self.most_answers = self.most_answers.max(self.answers);
    }

    fn push_event(&mut self, path: &str, token: &str) {
        self.push(MessageType::WATCH_EVENT, None, format!("{path}\0{token}\0").as_bytes());
    }

    fn handle(&mut self, request: &Message) {
        self.log.push((request.kind, request.tx_id));
        if let Some((path, token)) = self.event_before_answer.take() {
            self.push_event(&path, &token);
        }
        match self.carry_out(request) {
            Ok(payload) => self.push(request.kind, Some(request), &payload),
            Err(errno) => self.push(MessageType::ERROR, Some(request), format!("{errno}\0").as_bytes()),
        }
        if request.kind == MessageType::WATCH {
            let (path, rest) = split(&request.payload);
            self.push_event(&path, &split(rest).0);
        }
    }

    fn carry_out(&mut self, request: &Message) -> Result<Vec<u8>, Errno> {
        let ok = Ok(b"OK\0".to_vec());
        let (path, rest) = split(&request.payload);
        match request.kind {
            MessageType::TRANSACTION_START => {
                self.last_tx += 1;
                self.transactions.insert(TxId(self.last_tx), self.tree.clone());
                return Ok(format!("{}\0", self.last_tx).into_bytes());
            }
            MessageType::TRANSACTION_END => {
                let tree = self.transactions.remove(&request.tx_id).ok_or(Errno::ENOENT)?;
                if path == "F" {
                    return ok;
                }
                if self.conflicts > 0 {
                    self.conflicts -= 1;
                    return Err(Errno::EAGAIN);
                }
                self.tree = tree;
                return ok;
            }
            MessageType::WATCH | MessageType::UNWATCH => return ok,
            _ => {}
        }
        let tree = match request.tx_id {
            TxId::NONE => &mut self.tree,
            tx => self.transactions.get_mut(&tx).ok_or(Errno::ENOENT)?,
        };
        let below = format!("{path}/");
        match request.kind {
            MessageType::READ => tree.get(&path).map(|node| node.value.clone()).ok_or(Errno::ENOENT),
            MessageType::GET_PERMISSIONS => tree.get(&path).map(|node| node.permissions.clone()).ok_or(Errno::ENOENT),
            MessageType::SET_PERMISSIONS => {
                tree.get_mut(&path).ok_or(Errno::ENOENT)?.permissions = rest.to_vec();
                ok
            }
            MessageType::DIRECTORY => {
                let listing = list(tree, &path)?;
                if listing.len() > MAX_PAYLOAD && self.long != Long::Whole { Err(Errno::E2BIG) } else { Ok(listing) }
            }
            MessageType::DIRECTORY_PART if self.long == Long::InParts => {
                let offset: usize = split(rest).0.parse().unwrap();
                if offset > 0 && self.additions > 0 {
                    self.additions -= 1;
                    self.added += 1;
                    tree.insert(format!("{path}/added-{}", self.added), Node::default());
                }
                let listing = list(tree, &path)?;
                let rest = listing.get(offset..).unwrap_or_default();
                let mut part = format!("generation {}\0", self.added).into_bytes();
                for name in rest.split_inclusive(|byte| *byte == 0) {
                    if part.len() + name.len() >= MAX_PAYLOAD {
                        return Ok(part);
                    }
                    part.extend(name);
                }
                part.push(0);
                Ok(part)
            }
            MessageType::WRITE => {
                tree.entry(path).or_default().value = rest.to_vec();
                ok
            }
            MessageType::MKDIR => {
                tree.entry(path).or_default();
                ok
            }
            MessageType::REMOVE => {
                let before = tree.len();
                tree.retain(|key, _| *key != path && !key.starts_with(&below));
                if tree.len() == before { Err(Errno::ENOENT) } else { ok }
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn limit(&self, length: usize) -> usize {
        if self.piece == 0 { length } else { length.min(self.piece) }
    }
}

impl Transport for Fake {
    type Error = Refused;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        if self.refuse.is_some_and(|kind| bytes.starts_with(&kind.0.to_le_bytes())) {
            return Err(Refused);
        }
        let taken = &bytes[..self.limit(bytes.len())];
        let mut rest = taken;
        while let Some(request) = self.parser.next_message(&mut rest).unwrap() {
            self.handle(&request);
        }
        Ok(taken.len())
    }

    fn takes_several(&self) -> bool {
        self.several
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> Result<usize, Refused> {
        self.receives += 1;
        self.answers = 0;
        if self.silent || self.inbox.is_empty() {
            assert!(deadline_ns.is_some(), "would wait for ever");
            return Ok(0);
        }
        let count = self.limit(buffer.len().min(self.inbox.len()));
        for (place, byte) in buffer.iter_mut().zip(self.inbox.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }
}

/// The names of a node's children, each with a NUL behind it.
fn list(tree: &Tree, path: &str) -> Result<Vec<u8>, Errno> {
    let below = format!("{path}/");
    let children = tree.keys().filter_map(|key| key.strip_prefix(&below)).filter(|key| !key.contains('/'));
    let listing = children.flat_map(|name| [name, "\0"]).collect::<String>();
    if listing.is_empty() && !tree.contains_key(path) { Err(Errno::ENOENT) } else { Ok(listing.into()) }
}

/// A string and what is behind its NUL.
fn split(payload: &[u8]) -> (String, &[u8]) {
    let end = payload.iter().position(|byte| *byte == 0).unwrap();
    (String::from_utf8(payload[..end].to_vec()).unwrap(), &payload[end + 1..])
}
