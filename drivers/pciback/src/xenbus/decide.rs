//! The transition table (pci-protocol §2.9) as a function from what is to what to do.
//!
//! Rows are our own `state` node, columns the frontend's. `-` nothing, a digit: write that state; `d` disconnect, `r` give all
//! devices back, `n` make them new for the next connection, `c` connect (and then write 4). Everything else about devices happens
//! on the way: `3` exports what is listed, publishes `vdev-N`, `state-N` and the roots, and only then says 3.
//!
//! | own, and `online`=1    | gone | 1   | 2 | 3     | 4 | 5  | 6   | 7 | 8 | nonsense |
//! |------------------------|------|-----|---|-------|---|----|-----|---|---|----------|
//! | 1                      | 6    | 2   | 2 | 2     | 2 | 5  | 6   | 2 | 2 | 2        |
//! | 2, `num_devs` is there | r6   | 3   | 3 | 3     | 3 | 5  | 6   | 3 | 3 | 3        |
//! | 3                      | r6   | -   | - | c     | - | 5  | 6   | - | - | -        |
//! | 4, 7, 8                | dr6  | dn2 | - | - (a) | - | d5 | d6  | - | - | -        |
//! | 7, not connected       | r6   | 3   | 3 | c     | 3 | 5  | 6   | 3 | 3 | 3        |
//! | 4, 8, not connected    | r6   | n2  | - | n2    | 5 | 5  | 6   | - | - | -        |
//! | 5                      | dr6  | dn2 | - | - (a) | - | d  | d6  | - | - | -        |
//! | 5, not connected       | r6   | n2  | - | n2 (b)| - | -  | 6   | - | - | -        |
//! | 6                      | r    | n2  | - | n2 (b)| - | -  | -   | - | - | -        |
//! | nonsense               | dr6  | -   | - | -     | - | d5 | d6  | - | - | -        |
//! | gone                   | dr   | dr  | dr| dr    | dr| dr | dr  | dr| dr| dr       |
//!
//! (a) `dn2` when the keys have changed or the frontend had been at 4: then it started anew without our seeing it close.
//! (b) nothing while the keys are the ones that were refused: what failed with them would fail again.
//!
//! With `online`=0 the toolstack removes the device for good: in column 6, and in column 1 from state 4 on, everything is given back
//! (`dr6`), and 3 brings nothing back from 5 and 6. A `frontend` node that names another directory than that of our domain ends
//! in `dr5` with the reason in the error node.
//!
//! A connected frontend at 7 echoes a change of devices (§2.7), whose other half is for the hot-plug rows of this table to add:
//! until then the page is served as before.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use xen_types::{Errno, Sbdf};
use xenstore::XenbusState::{
    self, Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring, Unknown,
};

use super::{DeviceNodes, Failure, Held, InvalidKey, Keys, MAX_DEVICES, Nodes, Outcome};

/// A node of the BE dir that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// `state`.
    State,
    /// `state-N`.
    DeviceState(u32),
    /// `vdev-N`.
    VirtualDevice(u32),
    /// `root-N`.
    Root(u32),
    /// `root_num`.
    RootCount,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("state"),
            Self::DeviceState(index) => write!(f, "state-{index}"),
            Self::VirtualDevice(index) => write!(f, "vdev-{index}"),
            Self::Root(index) => write!(f, "root-{index}"),
            Self::RootCount => f.write_str("root_num"),
        }
    }
}

/// One step. The steps of a decision are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer what is in the page, close the port, drop the page.
    Disconnect,
    /// Give every device back to the pool, and forget those that could not be had.
    ReleaseAll,
    /// The same for one device.
    Release(Sbdf),
    /// Make the virtual side of every device as it is at a first connect, at the same virtual addresses; forget what failed.
    Renew,
    /// Take a device from the pool and give it a virtual address.
    Take {
        /// The real address.
        address: Sbdf,
        /// The virtual device and function that the admin would like.
        wish: Option<u8>,
    },
    /// Map the page and bind the port.
    Connect(Keys),
    /// Note keys that cannot be used.
    Refuse(InvalidKey),
    /// Put this into the error node and the log.
    Report(Failure),
    /// Remove the error node: it is about an earlier life of this directory.
    ClearReport,
    /// Write these nodes, all or none.
    Write(Vec<(Node, String)>),
}

impl Action {
    /// True for what changes nothing but ourselves. Such steps are carried out before anything is written: whoever reads
    /// "closed" may rely on it.
    pub(crate) const fn is_local(&self) -> bool {
        !matches!(self, Self::Report(_) | Self::ClearReport | Self::Write(_))
    }
}

/// What to do now. Empty when all is as it should be.
///
/// Local steps come first; whoever carries them out then decides again on new nodes, and carries the others out when no local
/// step is left. Each changes what the next decision sees, so this comes to an end.
pub(crate) fn decide(nodes: &Nodes, held: &Held) -> Vec<Action> {
    let connected = held.connection.is_some();
    if nodes.own == Some(Unknown) {
        return held.let_go();
    }
    if nodes.own == Some(Initialising) && !held.is_empty() {
        return held.let_go(); // the directory is a new one under an old name
    }
    if let Err(text) = &nodes.frontend {
        return give_up(nodes, held, Failure { errno: Errno::EINVAL, text: text.clone() });
    }
    if connected && nodes.own == Some(Closed) {
        return vec![Action::Disconnect];
    }
    match nodes.peer.state {
        Some(Unknown) => return then_state(held.let_go(), nodes, Closed),
        Some(Closing) => {
            let closed = if nodes.own == Some(Closed) { Closed } else { Closing };
            return then_state(disconnect(held), nodes, closed);
        }
        Some(Closed) if nodes.online => return then_state(disconnect(held), nodes, Closed),
        Some(Closed) => return then_state(held.let_go(), nodes, Closed),
        _ => {}
    }
    match nodes.own {
        Some(Initialising) => then_state(vec![Action::ClearReport], nodes, InitWait),
        Some(InitWait) => export(nodes, held),
        Some(Initialised) => initialised(nodes, held),
        Some(Reconfiguring) if !held.announced => initialised(nodes, held),
        Some(Connected | Reconfiguring | Reconfigured | Closing) if connected => in_use(nodes, held),
        Some(Closing | Closed) => at_rest(nodes, held),
        Some(Connected | Reconfiguring | Reconfigured) => astray(nodes, held),
        Some(Unknown) | None => Vec::new(),
    }
}

/// Whether a frontend may be at `peer` while we are at `own`. What may not be is ignored, and worth a line in the log.
pub(crate) fn makes_sense(own: Option<XenbusState>, peer: Option<XenbusState>) -> bool {
    match peer {
        Some(InitWait | Reconfigured) | None => false,
        Some(Connected) => matches!(own, Some(Connected | Reconfiguring | Reconfigured | Closing)),
        Some(Reconfiguring) => matches!(own, Some(Reconfiguring | Reconfigured | Closing)),
        Some(Unknown | Initialising | Initialised | Closing | Closed) => true,
    }
}

/// 2: export what is listed.
fn export(nodes: &Nodes, held: &Held) -> Vec<Action> {
    if held.connection.is_some() {
        return disconnect(held);
    }
    let Some(count) = nodes.num_devs else { return Vec::new() };
    if count > MAX_DEVICES {
        let text = format!("num_devs is {count}, and no guest can have more than {MAX_DEVICES} devices");
        return vec![Action::Report(Failure { errno: Errno::EINVAL, text })];
    }
    let devices = take_and_release(nodes, held);
    if !devices.is_empty() {
        return devices;
    }
    let mut actions = report_failures(nodes, held);
    let mut writes = publish(nodes, held);
    writes.push((Node::State, Initialised.digit().into()));
    actions.push(Action::Write(writes));
    actions
}

/// 3, or 7 before any frontend came: devices may be added and removed without asking it.
fn initialised(nodes: &Nodes, held: &Held) -> Vec<Action> {
    let devices = take_and_release(nodes, held);
    if !devices.is_empty() {
        return devices;
    }
    if held.connection.is_some() && nodes.peer.state != Some(Initialised) {
        return disconnect(held); // it went back before we could say 4
    }
    let mut actions = report_failures(nodes, held);
    let mut writes = publish(nodes, held);
    if nodes.peer.state == Some(Initialised) {
        if writes.is_empty() {
            return connect(nodes, held);
        }
    } else if nodes.own == Some(Reconfiguring) {
        writes.push((Node::State, Initialised.digit().into()));
    }
    if !writes.is_empty() {
        actions.push(Action::Write(writes));
    }
    actions
}

/// The frontend is at 3 and everything is published.
fn connect(nodes: &Nodes, held: &Held) -> Vec<Action> {
    let keys = nodes.peer.keys;
    if let Some(connected) = held.connection {
        let is_same = keys == Ok(connected);
        return if is_same { then_state(Vec::new(), nodes, Connected) } else { vec![Action::Disconnect] };
    }
    match (keys, &held.refused) {
        (keys, Some((refused, failure))) if *refused == keys => {
            then_state(vec![Action::Report(failure.clone())], nodes, Closing)
        }
        (Ok(keys), _) => vec![Action::Connect(keys)],
        (Err(invalid), _) => vec![Action::Refuse(invalid)],
    }
}

/// 4, 5, 7 or 8 with a connection.
fn in_use(nodes: &Nodes, held: &Held) -> Vec<Action> {
    let restarted = match nodes.peer.state {
        Some(Initialising) => true,
        Some(Initialised) => held.peer_was_connected || nodes.peer.keys.ok() != held.connection,
        _ => false,
    };
    if restarted { restart(nodes, held) } else { Vec::new() }
}

/// 5 or 6 without a connection.
fn at_rest(nodes: &Nodes, held: &Held) -> Vec<Action> {
    match nodes.peer.state {
        Some(Initialising) => restart(nodes, held),
        Some(Initialised) if nodes.online && !held.has_refused(nodes.peer.keys) => restart(nodes, held),
        _ if !nodes.online && nodes.own == Some(Closed) => held.let_go(),
        _ => release_unlisted(nodes, held),
    }
}

/// 4 or 8 without a connection: whoever wrote that, it was not us.
fn astray(nodes: &Nodes, held: &Held) -> Vec<Action> {
    match nodes.peer.state {
        Some(Initialising | Initialised) => restart(nodes, held),
        Some(Connected) => then_state(Vec::new(), nodes, Closing),
        _ => Vec::new(),
    }
}

/// The frontend begins again: with the devices it had, unless the toolstack is taking them away.
fn restart(nodes: &Nodes, held: &Held) -> Vec<Action> {
    if !nodes.online {
        return then_state(held.let_go(), nodes, Closed);
    }
    let mut actions = disconnect(held);
    if !held.renewed {
        actions.push(Action::Renew);
    }
    then_state(actions, nodes, InitWait)
}

/// Nothing can be done here: say why, and close.
fn give_up(nodes: &Nodes, held: &Held, failure: Failure) -> Vec<Action> {
    let mut actions = held.let_go();
    if !matches!(nodes.own, Some(Closing | Closed)) {
        actions.push(Action::Report(failure));
        actions = then_state(actions, nodes, Closing);
    }
    actions
}

fn disconnect(held: &Held) -> Vec<Action> {
    held.connection.iter().map(|_| Action::Disconnect).collect()
}

/// Ends with our node at `state`, which is no write where it is there already.
fn then_state(mut actions: Vec<Action>, nodes: &Nodes, state: XenbusState) -> Vec<Action> {
    if nodes.own != Some(state) {
        actions.push(Action::Write(vec![(Node::State, state.digit().into())]));
    }
    actions
}

/// Listed, and not on its way out.
fn wanted(device: &DeviceNodes) -> Option<Sbdf> {
    device.address.filter(|_| device.state != Some(u32::from(Closing.number())))
}

fn take_and_release(nodes: &Nodes, held: &Held) -> Vec<Action> {
    let mut actions = release_unlisted(nodes, held);
    for device in &nodes.devices {
        let Some(address) = wanted(device) else { continue };
        let take = Action::Take { address, wish: device.wish };
        if !held.devices.contains_key(&address) && !actions.contains(&take) {
            actions.push(take);
        }
    }
    actions
}

fn release_unlisted(nodes: &Nodes, held: &Held) -> Vec<Action> {
    if nodes.num_devs.is_none_or(|count| count > MAX_DEVICES) {
        return Vec::new(); // says nothing about any device
    }
    let listed = |address| nodes.devices.iter().any(|device| wanted(device) == Some(address));
    held.devices.keys().filter(|address| !listed(**address)).map(|address| Action::Release(*address)).collect()
}

/// Why entry `index` cannot be exported, if so.
fn failure(nodes: &Nodes, held: &Held, index: usize) -> Option<Failure> {
    let device = nodes.devices.get(index)?;
    let Some(address) = device.address else {
        return Some(Failure { errno: Errno::EINVAL, text: format!("dev-{index} is no PCI address") });
    };
    if nodes.devices.iter().take(index).any(|earlier| wanted(earlier) == Some(address)) {
        return Some(Failure { errno: Errno::EEXIST, text: format!("{address} is listed twice") });
    }
    match held.devices.get(&address)? {
        Outcome::Failed(failure) => Some(failure.clone()),
        Outcome::Exported(_) => None,
    }
}

/// The nodes about devices and roots that do not say yet what they should.
fn publish(nodes: &Nodes, held: &Held) -> Vec<(Node, String)> {
    let mut writes = Vec::new();
    for (number, (index, device)) in (0..).zip(nodes.devices.iter().enumerate()) {
        if device.state == Some(u32::from(Closing.number())) {
            continue;
        }
        let exported = match device.address.and_then(|address| held.devices.get(&address)) {
            Some(Outcome::Exported(virtual_address)) if failure(nodes, held, index).is_none() => Some(*virtual_address),
            _ => None,
        };
        if let Some(virtual_address) = exported {
            let text = virtual_address.virtual_key().to_string();
            if device.vdev != text {
                writes.push((Node::VirtualDevice(number), text));
            }
        }
        // 6 is ours for "failed" (§2.9). Old toolstacks have no `state-N`, and we may not create any.
        let state = if exported.is_some() { Initialised } else { Closed };
        if device.state.is_some_and(|now| now != u32::from(state.number())) {
            writes.push((Node::DeviceState(number), state.digit().into()));
        }
    }
    // Roots are only ever added, and `root-N` stands before the count that includes it.
    let published = nodes.root_num.unwrap_or(0);
    let mut count = published;
    for (number, (segment, bus)) in (0..).zip(&held.roots) {
        if number >= published {
            writes.push((Node::Root(number), format!("{segment:04x}:{bus:02x}")));
            count = number + 1;
        }
    }
    if count != published {
        writes.push((Node::RootCount, count.to_string()));
    }
    writes
}

/// All failures in one text, when there is one that the nodes do not tell of yet.
fn report_failures(nodes: &Nodes, held: &Held) -> Vec<Action> {
    let mut all: Option<Failure> = None;
    let mut news = false;
    for (index, device) in nodes.devices.iter().enumerate() {
        if device.state == Some(u32::from(Closing.number())) {
            continue;
        }
        let Some(failure) = failure(nodes, held, index) else { continue };
        news |= match device.state {
            Some(state) => state != u32::from(Closed.number()),
            None => nodes.own == Some(InitWait), // the only time when something is written then
        };
        match &mut all {
            None => all = Some(failure),
            Some(all) => all.text = format!("{}; {}", all.text, failure.text),
        }
    }
    all.filter(|_| news).map(Action::Report).into_iter().collect()
}
