//! A simulated xenstored for host tests: requests in, answers and events out, as bytes, with permissions, watches, transactions and quotas.
//!
//! Tests of the driver domain, of the broker and of the commands all use this one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![forbid(unsafe_code)]

mod tree;
mod wire;

use std::collections::BTreeMap;

use xen_types::DomId;

pub use tree::{Access, Node, Refusal};
use tree::{Change, Overlay, Tree};

pub use tree::NODE_QUOTA;
use wire::{Header, kind};

/// Watches that a guest may set (`quota-maxwatch`).
pub const WATCH_QUOTA: usize = 100;
/// Transactions that a guest may have open (`quota-transaction`).
pub const TRANSACTION_QUOTA: usize = 10;

/// Nodes that a guest may touch in one transaction (`quota_trans_nodes` of xenstored).
pub const TRANSACTION_NODE_QUOTA: usize = 1024;
/// Requests that a guest may make in one transaction (`quota-maxrequests` of oxenstored).
pub const REQUEST_QUOTA: usize = 1024;

/// Which of the two daemons it is, where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// The one in C: transactions are bounded by the nodes that they touch, long directories come in parts.
    #[default]
    Xenstored,
    /// The one in OCaml: transactions are bounded by their requests. Long directories come in one message that is longer than any other may
    /// be, but over sockets only, and there are no parts.
    Oxenstored,
}

/// A connection. Each domain has one, dom0 may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(u32);

#[derive(Clone, Debug)]
struct Peer {
    domid: DomId,
    is_socket: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Overlay>,
    /// Events that it is told of twice.
    doubled: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Watch {
    /// As it was given; events name paths in the same way.
    path: String,
    absolute: String,
    token: String,
}

/// A request of a guest that shall be answered with an error though nothing is wrong with it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Message type, `None` for any.
    pub kind: Option<u32>,
    /// How its (absolute) path ends; empty for any request. The end of a transaction has `T` or `F` for a path.
    pub path_end: String,
    /// The error's name on the wire.
    pub error: &'static str,
    /// How many requests.
    pub times: u32,
}

/// The daemon.
#[derive(Clone, Debug, Default)]
pub struct Xenstored {
    tree: Tree,
    peers: BTreeMap<Connection, Peer>,
    last_connection: u32,
    last_transaction: u32,
    faults: Vec<Fault>,
    requests: u64,
    failing_request: Option<u64>,
    flavour: Flavour,
}

impl Xenstored {
    /// With `/local/domain` and nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Is the other daemon from now on.
    pub fn set_flavour(&mut self, flavour: Flavour) {
        self.flavour = flavour;
    }

    /// A new connection of a domain, over its ring.
    pub fn connect(&mut self, domid: DomId) -> Connection {
        self.last_connection += 1;
        let connection = Connection(self.last_connection);
        let peer = Peer {
            domid,
            is_socket: false,
            input: Vec::new(),
            output: Vec::new(),
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            doubled: 0,
        };
        self.peers.insert(connection, peer);
        connection
    }

    /// A new connection of dom0, over the daemon's socket.
    pub fn connect_socket(&mut self) -> Connection {
        let connection = self.connect(DomId::DOM0);
        if let Some(peer) = self.peers.get_mut(&connection) {
            peer.is_socket = true;
        }
        connection
    }

    /// Ends a connection with its watches and transactions.
    pub fn disconnect(&mut self, connection: Connection) {
        self.peers.remove(&connection);
    }

    /// Forgets a connection's watches, as a daemon that was started anew.
    pub fn forget_watches(&mut self, connection: Connection) {
        if let Some(peer) = self.peers.get_mut(&connection) {
            peer.watches.clear();
        }
    }

    /// Bytes from a domain, in any pieces; whole requests are carried out at once.
    ///
    /// # Panics
    /// On a message that is longer than the protocol allows: a real daemon ends the connection.
    pub fn send(&mut self, connection: Connection, bytes: &[u8]) {
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        peer.input.extend_from_slice(bytes);
        while let Some((header, payload)) = self.peers.get_mut(&connection).and_then(|peer| wire::take(&mut peer.input))
        {
            self.requests += 1;
            self.handle(connection, &header, &payload);
        }
    }

    /// At most `count` of the bytes for a domain.
    pub fn receive(&mut self, connection: Connection, count: usize) -> Vec<u8> {
        let Some(peer) = self.peers.get_mut(&connection) else { return Vec::new() };
        let count = count.min(peer.output.len());
        peer.output.drain(..count).collect()
    }

    /// True when there are bytes for a domain.
    #[must_use]
    pub fn has_output(&self, connection: Connection) -> bool {
        self.peers.get(&connection).is_some_and(|peer| !peer.output.is_empty())
    }

    /// Requests so far, over all connections.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }

    /// Has the request with this number ([`Xenstored::requests`]) fail, whoever makes it: the end of a transaction as if somebody had been quicker, a
    /// change for want of room, anything else because the daemon cannot read what it has.
    pub const fn fail_request(&mut self, number: Option<u64>) {
        self.failing_request = number;
    }

    /// Whether such a request has not come yet.
    #[must_use]
    pub const fn will_fail(&self) -> bool {
        self.failing_request.is_some()
    }

    /// Tells a connection of the next so many events twice.
    pub fn double_events(&mut self, connection: Connection, events: u32) {
        if let Some(peer) = self.peers.get_mut(&connection) {
            peer.doubled = events;
        }
    }

    /// Has requests fail that match.
    pub fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Forgets faults that have not struck.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Watches of a connection: path and token.
    #[must_use]
    pub fn watches(&self, connection: Connection) -> Vec<(String, String)> {
        let peer = self.peers.get(&connection);
        peer.map(|peer| peer.watches.iter().map(|watch| (watch.path.clone(), watch.token.clone())).collect())
            .unwrap_or_default()
    }

    /// Open transactions of a connection.
    #[must_use]
    pub fn open_transactions(&self, connection: Connection) -> usize {
        self.peers.get(&connection).map_or(0, |peer| peer.transactions.len())
    }

    /// All nodes that a domain owns.
    #[must_use]
    pub fn owned_by(&self, domid: DomId) -> Vec<String> {
        self.tree.owned_by(domid)
    }

    /// A node's value, whoever may read it.
    #[must_use]
    pub fn peek(&self, path: &str) -> Option<String> {
        self.tree.get(path).map(|node| String::from_utf8_lossy(&node.value).into_owned())
    }

    /// A node, whoever may read it.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.tree.get(path).map(|node| &**node)
    }

    /// All nodes with their paths, in the order of the paths.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.tree.nodes()
    }

    /// Everything, one line a node, for comparing and for looking at.
    #[must_use]
    pub fn dump(&self) -> Vec<String> {
        self.tree.dump()
    }

    /// What a domain does without a connection of its own in the test: several changes as one, seen by others at once.
    ///
    /// # Errors
    /// The first refusal; nothing is done then.
    pub fn change<T>(
        &mut self,
        domid: DomId,
        work: impl FnOnce(&mut Direct<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut overlay = Overlay::default();
        let result = work(&mut Direct { tree: &self.tree, overlay: &mut overlay, domid })?;
        let changes = self.tree.commit(overlay, NODE_QUOTA).ok_or(Refusal::Again)?;
        self.fire(&changes);
        Ok(result)
    }

    /// Tells dom0's watchers of one of the special events: `@introduceDomain`, `@releaseDomain`.
    pub fn announce(&mut self, event: &str) {
        for peer in self.peers.values_mut().filter(|peer| peer.domid == DomId::DOM0) {
            for watch in peer.watches.iter().filter(|watch| watch.path == event) {
                peer.output.extend_from_slice(&wire::event(event, &watch.token));
            }
        }
    }

    fn handle(&mut self, connection: Connection, header: &Header, payload: &[u8]) {
        let answer = self.answer(connection, header, payload);
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        let is_long = |payload: &Vec<u8>| payload.len() > wire::PAYLOAD_MAX;
        let may_be_long = peer.is_socket && self.flavour == Flavour::Oxenstored;
        let (kind, payload) = match &answer {
            Ok(payload) if is_long(payload) && !may_be_long => (kind::ERROR, b"E2BIG\0".to_vec()),
            Ok(payload) => (header.kind, payload.clone()),
            Err(error) => (kind::ERROR, format!("{error}\0").into_bytes()),
        };
        peer.output.extend_from_slice(&wire::encode(kind, header.req_id, header.tx_id, &payload));
        if header.kind == kind::WATCH && answer.is_ok() {
            // The first event of a watch comes at once, whatever is there.
            if let Some(watch) = peer.watches.last() {
                peer.output.extend_from_slice(&wire::event(&watch.path, &watch.token));
            }
        }
    }

    fn answer(&mut self, connection: Connection, header: &Header, payload: &[u8]) -> Result<Vec<u8>, &'static str> {
        let Some(peer) = self.peers.get_mut(&connection) else { return Err("EIO") };
        let domid = peer.domid;
        let strings = wire::strings(payload);
        let first = strings.first().copied().unwrap_or_default();
        let has_path = !matches!(
            header.kind,
            kind::TRANSACTION_START | kind::TRANSACTION_END | kind::GET_DOMAIN_PATH | kind::RESET_WATCHES
        );
        let path = if has_path { absolute(domid, first) } else { first.to_owned() };
        if domid != DomId::DOM0
            && let Some(error) = strike(&mut self.faults, header.kind, &path)
        {
            if header.kind == kind::TRANSACTION_END {
                peer.transactions.remove(&header.tx_id); // whatever it says, the transaction is over
            }
            return Err(error);
        }
        if has_path && !wire::is_valid_path(&path) {
            return Err("EINVAL");
        }
        if self.failing_request.take_if(|number| *number == self.requests).is_some() {
            peer.transactions.retain(|tx_id, _| header.kind != kind::TRANSACTION_END || *tx_id != header.tx_id);
            return Err(match header.kind {
                kind::TRANSACTION_END => "EAGAIN",
                kind::WRITE | kind::MKDIR | kind::SET_PERMS | kind::TRANSACTION_START | kind::WATCH => "ENOSPC",
                _ => "EIO",
            });
        }
        match header.kind {
            kind::WATCH => {
                let token = strings.get(1).copied().unwrap_or_default();
                let watch = Watch { path: first.to_owned(), absolute: path, token: token.to_owned() };
                if peer.watches.contains(&watch) {
                    return Err("EEXIST");
                }
                if domid != DomId::DOM0 && peer.watches.len() >= WATCH_QUOTA {
                    return Err("E2BIG");
                }
                peer.watches.push(watch);
                return Ok(b"OK\0".to_vec());
            }
            kind::UNWATCH => {
                let token = strings.get(1).copied().unwrap_or_default();
                let before = peer.watches.len();
                peer.watches.retain(|watch| watch.absolute != path || watch.token != token);
                return if peer.watches.len() < before { Ok(b"OK\0".to_vec()) } else { Err("ENOENT") };
            }
            kind::RESET_WATCHES => {
                peer.watches.clear();
                peer.transactions.clear();
                return Ok(b"OK\0".to_vec());
            }
            kind::TRANSACTION_START => {
                if domid != DomId::DOM0 && peer.transactions.len() >= TRANSACTION_QUOTA {
                    return Err(self.flavour.quota_error());
                }
                self.last_transaction += 1;
                peer.transactions.insert(self.last_transaction, Overlay::default());
                return Ok(format!("{}\0", self.last_transaction).into_bytes());
            }
            kind::TRANSACTION_END => {
                let overlay = peer.transactions.remove(&header.tx_id).ok_or("ENOENT")?;
                if first == "T" {
                    let changes = self.tree.commit(overlay, NODE_QUOTA).ok_or("EAGAIN")?;
                    self.fire(&changes);
                }
                return Ok(b"OK\0".to_vec());
            }
            kind::GET_DOMAIN_PATH => return Ok(format!("/local/domain/{first}\0").into_bytes()),
            _ => {}
        }
        if header.tx_id != 0 {
            let overlay = peer.transactions.get_mut(&header.tx_id).ok_or("ENOENT")?;
            let is_over = |overlay: &Overlay| match self.flavour {
                Flavour::Xenstored => overlay.touched() > TRANSACTION_NODE_QUOTA,
                Flavour::Oxenstored => overlay.requests > REQUEST_QUOTA,
            };
            overlay.requests += 1;
            let mut direct = Direct { tree: &self.tree, overlay, domid };
            let answer = direct.request(self.flavour, header.kind, &path, payload);
            if domid != DomId::DOM0 && is_over(overlay) {
                return Err(self.flavour.quota_error());
            }
            return answer.map_err(Refusal::name);
        }
        let flavour = self.flavour;
        let done = self.change(domid, |direct| direct.request(flavour, header.kind, &path, payload));
        done.map_err(Refusal::name)
    }

    /// Tells the watchers, those who may know of it.
    fn fire(&mut self, changes: &[Change]) {
        for change in changes {
            for peer in self.peers.values_mut() {
                if !change.is_visible_to(peer.domid) {
                    continue;
                }
                for watch in &peer.watches {
                    let is_below = change.path.strip_prefix(&watch.absolute).is_some_and(|rest| rest.starts_with('/'));
                    if change.path == watch.absolute || is_below && !change.is_exact {
                        let relative = change.path.strip_prefix(&watch.absolute).unwrap_or_default();
                        let event = wire::event(&format!("{}{relative}", watch.path), &watch.token);
                        peer.output.extend_from_slice(&event);
                        if let Some(left) = peer.doubled.checked_sub(1) {
                            peer.doubled = left;
                            peer.output.extend_from_slice(&event);
                        }
                    }
                }
            }
        }
    }
}

fn strike(faults: &mut Vec<Fault>, kind: u32, path: &str) -> Option<&'static str> {
    let hits = |fault: &Fault| fault.kind.is_none_or(|wanted| wanted == kind) && path.ends_with(&fault.path_end);
    let fault = faults.iter_mut().find(|fault| hits(fault))?;
    fault.times = fault.times.saturating_sub(1);
    let error = fault.error;
    faults.retain(|fault| fault.times > 0);
    Some(error)
}

impl Flavour {
    /// What it answers when a quota is used up.
    const fn quota_error(self) -> &'static str {
        match self {
            Self::Xenstored => "ENOSPC",
            Self::Oxenstored => "EQUOTA",
        }
    }
}

fn names_list(names: &[String]) -> Vec<u8> {
    names.iter().flat_map(|name| name.bytes().chain([0])).collect()
}

/// An answer to DIRECTORY_PART: generation, as many whole names as fit, and an empty one behind the last of all.
fn names_part(generation: u64, list: &[u8], offset: usize) -> Vec<u8> {
    let mut part = format!("{generation}\0").into_bytes();
    for name in list.get(offset..).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
        if part.len() + name.len() >= wire::PAYLOAD_MAX {
            return part;
        }
        part.extend(name);
    }
    part.push(0);
    part
}

/// A path as xenstored sees it.
fn absolute(domid: DomId, path: &str) -> String {
    if path.starts_with('/') || path.starts_with('@') {
        path.to_owned()
    } else {
        format!("/local/domain/{domid}/{path}")
    }
}

/// Requests of one domain in one transaction.
#[derive(Debug)]
pub struct Direct<'a> {
    tree: &'a Tree,
    overlay: &'a mut Overlay,
    domid: DomId,
}

impl Direct<'_> {
    /// A node's value.
    ///
    /// # Errors
    /// As xenstored.
    pub fn read(&mut self, path: &str) -> Result<String, Refusal> {
        let value = self.overlay.read(self.tree, self.domid, &absolute(self.domid, path))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As xenstored.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Refusal> {
        self.overlay.write(self.tree, self.domid, &absolute(self.domid, path), Some(value.as_ref()))
    }

    /// Creates an empty node where there is none.
    ///
    /// # Errors
    /// As xenstored.
    pub fn mkdir(&mut self, path: &str) -> Result<(), Refusal> {
        self.overlay.write(self.tree, self.domid, &absolute(self.domid, path), None)
    }

    /// Removes a node and what is below it.
    ///
    /// # Errors
    /// As xenstored.
    pub fn remove(&mut self, path: &str) -> Result<(), Refusal> {
        self.overlay.remove(self.tree, self.domid, &absolute(self.domid, path))
    }

    /// The names of a node's children.
    ///
    /// # Errors
    /// As xenstored.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, Refusal> {
        self.overlay.directory(self.tree, self.domid, &absolute(self.domid, path))
    }

    /// Sets permissions, in the words of the wire: `n0`, `r5`, …; the owner first.
    ///
    /// # Errors
    /// As xenstored.
    pub fn set_permissions(&mut self, path: &str, permissions: &[&str]) -> Result<(), Refusal> {
        let permissions = permissions.iter().map(|text| Access::parse(text)).collect::<Option<Vec<_>>>();
        let permissions = permissions.filter(|list| !list.is_empty()).ok_or(Refusal::Invalid)?;
        self.overlay.set_permissions(self.tree, self.domid, &absolute(self.domid, path), permissions)
    }

    fn request(&mut self, flavour: Flavour, kind: u32, path: &str, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let done = |()| b"OK\0".to_vec();
        match kind {
            kind::DIRECTORY => self.directory(path).map(|names| names_list(&names)),
            kind::DIRECTORY_PART if flavour == Flavour::Xenstored => {
                let strings = wire::strings(payload);
                let offset = strings.get(1).and_then(|text| text.parse().ok()).ok_or(Refusal::Invalid)?;
                let names = self.directory(path)?;
                let generation = self.overlay.generation(self.tree, path);
                Ok(names_part(generation, &names_list(&names), offset))
            }
            kind::READ => self.overlay.read(self.tree, self.domid, path),
            kind::GET_PERMS => self
                .overlay
                .permissions(self.tree, self.domid, path)
                .map(|list| list.iter().flat_map(|access| format!("{access}\0").into_bytes()).collect()),
            kind::SET_PERMS => {
                let strings = wire::strings(payload);
                self.set_permissions(path, strings.get(1..).unwrap_or_default()).map(done)
            }
            kind::WRITE => self.write(path, wire::behind_first_nul(payload)).map(done),
            kind::MKDIR => self.mkdir(path).map(done),
            kind::RM => self.remove(path).map(done),
            _ => Err(Refusal::NoSuchRequest),
        }
    }
}
