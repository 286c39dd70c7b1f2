//! The transition table (docs/protocol.md §2.5) as a pure function from states to actions.
//!
//! Rows are our own `state` node, columns the frontend's. `-` nothing, a digit: write that state; `d` disconnect, `r` give all
//! devices back, `n` make them new for the next connection, `c` connect (and then write 4, or 8 where the frontend is at 7).
//! Everything else about devices happens on the way: `3` and `8` release what is leaving and export what is new, publish `vdev-N`,
//! `state-N` and the roots, and only then say 3 or 8, in the same transaction.
//!
//! | own, and `online`=1    | gone | 1   | 2 | 3     | 4     | 5  | 6   | 7     | 8 | nonsense |
//! |------------------------|------|-----|---|-------|-------|----|-----|-------|---|----------|
//! | 1                      | 6    | 2   | 2 | 2     | 2     | 5  | 6   | 2     | 2 | 2        |
//! | 2, `num_devs` is there | r6   | 3   | 3 | 3     | 3     | 5  | 6   | 3     | 3 | 3        |
//! | 3                      | r6   | -   | - | c     | -     | 5  | 6   | c (c) | - | -        |
//! | 4                      | dr6  | dn2 | - | - (a) |- (d,g)| d5 | d6  | 8 (e) | - | -        |
//! | 7                      | dr6  | dn2 | - | - (a) | - (g) | d5 | d6  | 8 (e) | - | -        |
//! | 8                      | dr6  | dn2 | - | - (a) |4 (d,g)| d5 | d6  | -     | - | -        |
//! | 7, not connected       | r6   | 3   | 3 | c     | 3     | 5  | 6   | c (c) | 3 | 3        |
//! | 4, 8, not connected    | r6   | n2  | - | n2    | 5     | 5  | 6   | c (c) | - | -        |
//! | 5                      | dr6  | dn2 | - | - (a) | - (g) | d  | d6  | - (f) | - | -        |
//! | 5, not connected       | r6   | n2  | - | n2 (b)| -     | -  | 6   | -     | - | -        |
//! | 6                      | r    | n2  | - | n2 (b)| -     | -  | -   | -     | - | -        |
//! | nonsense               | dr6  | -   | - | -     | -     | d5 | d6  | -     | - | -        |
//! | gone                   | dr   | dr  | dr| dr    | dr    | dr | dr  | dr    | dr| dr       |
//!
//! (a) `dn2` when the keys have changed or the frontend had been at 4 or 7: then it started anew without our seeing it close.
//! The same at 7 with new keys.
//! (b) nothing while the keys are the ones that were refused: what failed with them would fail again.
//! (c) it saw our 7 before our 4 (Linux since 2022, §2.3). Without keys that can be used: as column 1.
//! (d) 7 when something is pending: an entry at 1, or at 3 with a device that we have not or could not have, or at 5 with a device that we have. It
//! came when we had just connected or were at 8, and the frontend must take part in it.
//! (e) 8 and nothing else when the frontend is still at the 7 that we have answered with 8 already: it may not have looked at the new
//! entries. It goes to 4, and (d) begins a second round.
//! (f) 8 when we are to close for good: Linux at 7 is deaf to 5 (§2.3). It comes to 4, and there we close.
//! (g) `d5` when the keys have changed: a driver that was loaded anew took our 4 for its own, before we saw any of it, and asks where nobody listens.
//!
//! While a frontend is connected, its devices come and go when both are at 7 only, with one exception: a device that is in no entry any
//! more was taken by force, and is released at once. Entries move in one transaction, so none is ever missing by accident. Without
//! a connection, a device is released as soon as its entry is at 5 or gone, and taken at the next 2.
//!
//! With `online`=0 the toolstack removes the device for good: in column 6, and in column 1 from state 4 on, everything is given back
//! (`dr6`), 3 brings nothing back from 5 and 6, and 8 is followed by 5, with the frontend at 3 or 4. A `frontend` node that names another directory than that of
//! our domain ends in `dr5` with the reason in the error node.
//!
//! When the stub itself comes to its end, a frontend with a connection is brought to 5 (from column 7 by way of 8) and served until it
//! closes; every other, and every one when it took too long, ends in `dr6`.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use xen_types::{Errno, Sbdf};
use xenstore::XenbusState::{
    self, Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring, Unknown,
};

use super::{
    Action, Connection, DeviceNodes, Failure, FrontendState, MAX_DEVICES, Node, Nodes, Outcome, ShutdownStage,
};

/// Devices taken, and nodes written, at one look. Xenstored allows 1,024 nodes in a transaction, and oxenstored as many requests, of which
/// [`MAX_DEVICES`] need three each to be read. The next look decides on the rest.
const AT_ONCE: usize = 200;

/// Where no device is ever seen: the virtual address of one that could not be exported.
pub(super) const NOWHERE: Sbdf = Sbdf::from_devfn(0xffff, 0xff, 0xff);

impl Action {
    /// True for what changes nothing but ourselves. Such steps are carried out before anything is written: whoever reads
    /// "closed" may rely on it.
    pub(crate) const fn is_local(&self) -> bool {
        !matches!(self, Self::Report(_) | Self::ClearReport | Self::Write(_))
    }

    /// The state that it goes to, if any.
    pub(crate) fn state(&self) -> Option<XenbusState> {
        let Self::Write(nodes) = self else { return None };
        nodes.iter().find(|(node, _)| *node == Node::State).map(|(_, value)| XenbusState::parse(value))
    }
}

/// The actions for the current state. Empty if there is nothing to do.
///
/// Local steps come first; the shell carries them out, decides again on new nodes, and carries the others out when no local
/// step is left. Each changes what the next decision sees, so this comes to an end.
pub(crate) fn decide<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    if frontend.is_adopting {
        return adopt(nodes);
    }
    let connected = frontend.is_connected();
    if nodes.own == Some(Unknown) {
        return frontend.release_everything();
    }
    if nodes.own == Some(Initialising) && !frontend.is_empty() {
        return frontend.release_everything(); // the directory is a new one under an old name
    }
    if frontend.stop != ShutdownStage::No {
        return stop(nodes, frontend);
    }
    if let Err(text) = &nodes.frontend {
        return give_up(nodes, frontend, Failure { errno: Errno::EINVAL, text: text.clone() });
    }
    if connected && nodes.own == Some(Closed) {
        return vec![Action::Disconnect];
    }
    match nodes.peer.state {
        Some(Unknown) => return transition(frontend.release_everything(), nodes, Closed),
        Some(Closing) => {
            let closed = if nodes.own == Some(Closed) { Closed } else { Closing };
            return close(nodes, frontend, closed);
        }
        Some(Closed) if nodes.online => return close(nodes, frontend, Closed),
        Some(Closed) => return transition(frontend.release_everything(), nodes, Closed),
        _ => {}
    }
    let is_announced = frontend.connected().is_some_and(|connected| connected.is_announced);
    match nodes.own {
        Some(Initialising) => transition(vec![Action::ClearReport], nodes, InitWait),
        Some(InitWait) => export(nodes, frontend),
        Some(Initialised) => initialised(nodes, frontend),
        Some(Reconfiguring) if !is_announced => initialised(nodes, frontend),
        Some(Connected | Reconfiguring | Reconfigured | Closing) if connected => in_use(nodes, frontend),
        Some(Closing | Closed) => idle(nodes, frontend),
        Some(Connected | Reconfiguring | Reconfigured) => inconsistent(nodes, frontend),
        Some(Unknown) | None => Vec::new(),
    }
}

/// After a restart in place: what the nodes say that the frontend had. What it was to lose or to get at that moment is decided at the next look.
fn adopt(nodes: &Nodes) -> Vec<Action> {
    let mut actions = Vec::new();
    for device in &nodes.devices {
        if let (Some(address), Ok(virtual_address)) = (device.address, device.vdev.parse())
            && !device.is_at(Closed)
            && virtual_address != NOWHERE
        {
            actions.push(Action::Take { address, requested_slot: None, exact: Some(virtual_address) });
        }
    }
    actions.push(Action::Adopt(nodes.peer.keys.ok(), [nodes.own, nodes.peer.state]));
    actions
}

/// Whether a frontend may be at `peer` while we are at `own`. What may not be is ignored, and worth a line in the log.
pub(crate) fn makes_sense(own: Option<XenbusState>, peer: Option<XenbusState>) -> bool {
    match peer {
        Some(InitWait | Reconfigured) | None => false,
        Some(Connected) => matches!(own, Some(Connected | Reconfiguring | Reconfigured | Closing)),
        // Also late, when the toolstack has waited long enough and gone back to 4.
        Some(Reconfiguring) => {
            matches!(own, Some(Initialised | Connected | Reconfiguring | Reconfigured | Closing))
        }
        Some(Unknown | Initialising | Initialised | Closing | Closed) => true,
    }
}

/// The stub comes to its end: a frontend that is connected is asked to close, and served until it has.
fn stop<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    let next = match nodes.peer.state {
        _ if !frontend.is_connected() || frontend.stop == ShutdownStage::Now => Closed,
        Some(Reconfiguring) => Reconfigured, // it is deaf to 5 there
        Some(Initialised | Connected | Reconfigured) | None => Closing,
        Some(Unknown | Initialising | InitWait | Closing | Closed) => Closed,
    };
    let actions = if next == Closed { frontend.release_everything() } else { Vec::new() };
    transition(actions, nodes, next)
}

/// 2: export what is listed.
fn export<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    if frontend.is_connected() {
        return disconnect(frontend);
    }
    let Some(count) = nodes.num_devs else { return Vec::new() };
    if count > MAX_DEVICES {
        let text = format!("num_devs is {count}, and no guest can have more than {MAX_DEVICES} devices");
        return vec![Action::Report(Failure { errno: Errno::EINVAL, text })];
    }
    let devices = take_and_release(nodes, frontend, wanted);
    if !devices.is_empty() {
        return devices;
    }
    publish_with_state(nodes, frontend, Initialised)
}

/// 3, or 7 before any frontend came: devices may be added and removed without asking it.
fn initialised<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    if nodes.peer.state == Some(Reconfiguring) && nodes.peer.keys.is_ok() {
        return match frontend.keys() {
            None => connect(nodes, frontend),
            keys if keys == nodes.peer.keys.ok() => reconfigure(nodes, frontend),
            Some(_) => disconnect(frontend),
        };
    }
    let devices = take_and_release(nodes, frontend, wanted);
    if !devices.is_empty() {
        return devices;
    }
    if frontend.is_connected() && nodes.peer.state != Some(Initialised) {
        return disconnect(frontend); // it went back before we could say 4
    }
    let mut actions = report_failures(nodes, frontend);
    let mut writes = publish(nodes, frontend);
    if nodes.peer.state == Some(Initialised) {
        if writes.is_empty() {
            return match frontend.keys() {
                None => connect(nodes, frontend),
                keys if keys == nodes.peer.keys.ok() => transition(Vec::new(), nodes, Connected),
                Some(_) => disconnect(frontend),
            };
        }
    } else if nodes.own == Some(Reconfiguring) {
        end_with_state(&mut writes, Initialised);
    }
    if !writes.is_empty() {
        actions.push(Action::Write(writes));
    }
    actions
}

/// The frontend has published its keys, and waits.
fn connect<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    match (nodes.peer.keys, &frontend.connection) {
        (keys, Connection::Refused(refusal)) if refusal.keys == keys => {
            transition(vec![Action::Report(refusal.failure.clone())], nodes, Closing)
        }
        (Ok(keys), _) => vec![Action::Connect(keys)],
        (Err(invalid), _) => vec![Action::Refuse(invalid)],
    }
}

/// 4, 5, 7 or 8 with a connection.
fn in_use<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    let keys = nodes.peer.keys.ok();
    let was_in_use = frontend.connected().is_some_and(|connected| connected.was_in_use);
    let restarted = match nodes.peer.state {
        Some(Initialising) => true,
        Some(Initialised) => was_in_use || keys != frontend.keys(),
        Some(Reconfiguring) => keys.is_some() && keys != frontend.keys(),
        _ => false,
    };
    if restarted {
        return restart(nodes, frontend);
    }
    if nodes.peer.state == Some(Connected) && keys.is_some() && keys != frontend.keys() {
        return close(nodes, frontend, Closing);
    }
    let mut forced = release_unless(nodes, frontend, |device| device.address);
    if !forced.is_empty() {
        for action in &mut forced {
            if let Action::Release(address) = *action {
                *action = Action::Seize(address);
            }
        }
        return forced;
    }
    match (nodes.own, nodes.peer.state) {
        (Some(Connected | Reconfiguring), Some(Reconfiguring)) => reconfigure(nodes, frontend),
        (Some(Closing), Some(Reconfiguring)) if !nodes.online => transition(Vec::new(), nodes, Reconfigured),
        // It is at Initialised when it began anew, and a restart in place of ours has missed how.
        (Some(Reconfigured), Some(Connected | Initialised)) if !nodes.online => transition(Vec::new(), nodes, Closing),
        (Some(Connected | Reconfigured), Some(Connected)) => {
            let next = if nodes.online && is_pending(nodes, frontend) { Reconfiguring } else { Connected };
            transition(Vec::new(), nodes, next)
        }
        _ => Vec::new(),
    }
}

/// The frontend is at 7: it has removed what is leaving, and waits for us.
fn reconfigure<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    if frontend.connected().is_some_and(|connected| connected.is_answered) {
        return transition(Vec::new(), nodes, Reconfigured);
    }
    let devices = take_and_release(nodes, frontend, appended);
    if !devices.is_empty() {
        return devices;
    }
    publish_with_state(nodes, frontend, Reconfigured)
}

/// Whether there is anything to do that the frontend must take part in.
fn is_pending<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> bool {
    let is_new = |(index, device): (usize, &DeviceNodes)| {
        // Another guest had it by then, and the frontend was not there to be told.
        let is_untold = device.is_at(Initialised) && failure(nodes, frontend, index).is_some();
        device.is_at(Initialising) || is_untold
    };
    nodes.devices.iter().enumerate().any(is_new) || !take_and_release(nodes, frontend, appended).is_empty()
}

/// The frontend closes, and may come back for the devices that are still meant for it.
fn close<L>(nodes: &Nodes, frontend: &FrontendState<L>, state: XenbusState) -> Vec<Action> {
    let actions = transition(disconnect(frontend), nodes, state);
    if actions.is_empty() { release_unless(nodes, frontend, wanted) } else { actions }
}

/// 5 or 6 without a connection.
fn idle<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    match nodes.peer.state {
        Some(Initialising) => restart(nodes, frontend),
        Some(Initialised) if nodes.online && !frontend.has_refused(nodes.peer.keys) => restart(nodes, frontend),
        _ if !nodes.online && nodes.own == Some(Closed) => frontend.release_everything(),
        _ => release_unless(nodes, frontend, wanted),
    }
}

/// 4 or 8 without a connection: the node was written by another domain.
fn inconsistent<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    match nodes.peer.state {
        Some(Initialising | Initialised) => restart(nodes, frontend),
        Some(Connected) => transition(Vec::new(), nodes, Closing),
        Some(Reconfiguring) if nodes.peer.keys.is_ok() => connect(nodes, frontend),
        _ => release_unless(nodes, frontend, wanted),
    }
}

/// The frontend begins again: with the devices it had, unless the toolstack is taking them away.
fn restart<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    if !nodes.online {
        return transition(frontend.release_everything(), nodes, Closed);
    }
    let mut actions = disconnect(frontend);
    if !matches!(frontend.connection, Connection::Renewed) {
        actions.push(Action::Renew);
    }
    transition(actions, nodes, InitWait)
}

/// Nothing can be done here: say why, and close.
fn give_up<L>(nodes: &Nodes, frontend: &FrontendState<L>, failure: Failure) -> Vec<Action> {
    let mut actions = frontend.release_everything();
    if !matches!(nodes.own, Some(Closing | Closed)) {
        actions.push(Action::Report(failure));
        actions = transition(actions, nodes, Closing);
    }
    actions
}

fn disconnect<L>(frontend: &FrontendState<L>) -> Vec<Action> {
    frontend.connected().iter().map(|_| Action::Disconnect).collect()
}

/// Ends with our node at `state`, which is no write where it is there already.
fn transition(mut actions: Vec<Action>, nodes: &Nodes, state: XenbusState) -> Vec<Action> {
    if nodes.own != Some(state) {
        actions.push(Action::Write(vec![(Node::State, state.digit().into())]));
    }
    actions
}

/// The device of an entry, unless it is being removed.
fn wanted(device: &DeviceNodes) -> Option<Sbdf> {
    device.address.filter(|_| !device.is_at(Closing))
}

/// The same for entries that are to be exported while the frontend runs. What has failed stays as it is then.
fn appended(device: &DeviceNodes) -> Option<Sbdf> {
    device.address.filter(|_| device.is_at(Initialising) || device.is_at(Initialised))
}

/// Releases what no entry names any more, and takes what the entries name that `take` chooses.
fn take_and_release<L>(
    nodes: &Nodes,
    frontend: &FrontendState<L>,
    take: fn(&DeviceNodes) -> Option<Sbdf>,
) -> Vec<Action> {
    let mut actions = release_unless(nodes, frontend, wanted);
    for device in &nodes.devices {
        let Some(address) = take(device) else { continue };
        let is_taken = |action: &Action| matches!(action, Action::Take { address: other, .. } if *other == address);
        if actions.len() < AT_ONCE && !frontend.devices.contains_key(&address) && !actions.iter().any(is_taken) {
            actions.push(Action::Take { address, requested_slot: device.requested_slot, exact: None });
        }
    }
    actions
}

/// Releases the devices that no entry names among those that `keep` chooses.
fn release_unless<L>(
    nodes: &Nodes,
    frontend: &FrontendState<L>,
    keep: fn(&DeviceNodes) -> Option<Sbdf>,
) -> Vec<Action> {
    if nodes.num_devs.is_none_or(|count| count > MAX_DEVICES) {
        return Vec::new(); // says nothing about any device
    }
    let is_kept = |address| nodes.devices.iter().any(|device| keep(device) == Some(address));
    frontend.devices.keys().filter(|address| !is_kept(**address)).map(|address| Action::Release(*address)).collect()
}

/// Why entry `index` cannot be exported, if so.
fn failure<L>(nodes: &Nodes, frontend: &FrontendState<L>, index: usize) -> Option<Failure> {
    let device = nodes.devices.get(index)?;
    let Some(address) = device.address else {
        return Some(Failure { errno: Errno::EINVAL, text: format!("dev-{index} is no PCI address") });
    };
    if nodes.devices.iter().take(index).any(|earlier| wanted(earlier) == Some(address)) {
        return Some(Failure { errno: Errno::EEXIST, text: format!("{address} is listed twice") });
    }
    match frontend.devices.get(&address)? {
        Outcome::Failed(failure) => Some(failure.clone()),
        Outcome::Exported(_) => None,
    }
}

/// Says what became of the devices, and goes to `state` with it.
fn publish_with_state<L>(nodes: &Nodes, frontend: &FrontendState<L>, state: XenbusState) -> Vec<Action> {
    let mut actions = report_failures(nodes, frontend);
    let mut writes = publish(nodes, frontend);
    end_with_state(&mut writes, state);
    actions.push(Action::Write(writes));
    actions
}

/// Goes to `state` with these writes, unless there are more to come: then that is decided at the next look.
fn end_with_state(writes: &mut Vec<(Node, String)>, state: XenbusState) {
    if writes.len() < AT_ONCE {
        writes.push((Node::State, state.digit().into()));
    }
}

/// The nodes about devices and roots that do not say yet what they should.
fn publish<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<(Node, String)> {
    let mut writes = Vec::new();
    for (number, (index, device)) in (0..).zip(nodes.devices.iter().enumerate()) {
        if device.is_at(Closing) {
            continue;
        }
        let exported = match device.address.and_then(|address| frontend.devices.get(&address)) {
            Some(Outcome::Exported(virtual_address)) if failure(nodes, frontend, index).is_none() => {
                Some(*virtual_address)
            }
            _ => None,
        };
        // One that failed has an address too: Linux reads that of each entry that it is told to let go of, gives up on the backend where there
        // is none, and skips a device that it does not have. Where it was before may be another's place by now. Where `state-N` is missing, so may
        // be `vdev-N`.
        let is_nowhere = device.state.is_some();
        let virtual_address = exported.or(is_nowhere.then_some(NOWHERE));
        let text = virtual_address.map(|address| address.virtual_key().to_string());
        if let Some(text) = text.filter(|text| device.vdev != *text) {
            writes.push((Node::VirtualDevice(number), text));
        }
        // 6 is ours for "failed" (§2.5). Old toolstacks have no `state-N`, and we may not create any.
        let state = if exported.is_some() { Initialised } else { Closed };
        if device.state.is_some_and(|now| now != state) {
            writes.push((Node::DeviceState(number), state.digit().into()));
        }
    }
    // Roots are only ever added, and `root-N` stands before the count that includes it.
    let published = nodes.root_num.unwrap_or(0);
    let mut count = published;
    for (number, (segment, bus)) in (0..).zip(&frontend.roots) {
        if number >= published {
            let (segment, bus) = (u32::from(*segment), u32::from(*bus)); // as in `Sbdf`
            writes.push((Node::Root(number), format!("{segment:04x}:{bus:02x}")));
            count = number + 1;
        }
    }
    if nodes.root_num != Some(count) {
        writes.push((Node::RootCount, count.to_string()));
    }
    writes.truncate(AT_ONCE);
    writes
}

/// All failures in one text, when there is one that the nodes do not tell of yet.
fn report_failures<L>(nodes: &Nodes, frontend: &FrontendState<L>) -> Vec<Action> {
    let mut all: Option<Failure> = None;
    let mut news = false;
    for (index, device) in nodes.devices.iter().enumerate() {
        if device.is_at(Closing) {
            continue;
        }
        let Some(failure) = failure(nodes, frontend, index) else { continue };
        news |= match device.state {
            Some(state) => state != Closed,
            None => nodes.own == Some(InitWait), // the only time when something is written then
        };
        match &mut all {
            None => all = Some(failure),
            Some(all) => all.text = format!("{}; {}", all.text, failure.text),
        }
    }
    all.filter(|_| news).map(Action::Report).into_iter().collect()
}
