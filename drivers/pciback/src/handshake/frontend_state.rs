//! The state that we hold for one frontend, as far as decisions depend on it.

use alloc::vec::Vec;

use litemap::LiteMap;
use xen_types::Sbdf;
use xenstore::XenbusState;

use super::{Action, Failure, InvalidKey, Keys, Nodes};

/// Result for a device that the toolstack listed, by its real address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The frontend has it at this virtual address.
    Exported(Sbdf),
    /// It cannot be had.
    Failed(Failure),
}

/// Whether the stub itself comes to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ShutdownStage {
    /// It serves.
    #[default]
    No,
    /// Frontends are asked to close.
    Asked,
    /// No broker is waited for any longer.
    Now,
}

/// The connection with a frontend. Each state has what exists in it and nothing else. `L` is the link (page and port), which decisions do
/// not look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Connection<L> {
    /// There is none, and the virtual devices are as the last one left them.
    #[default]
    Closed,
    /// There is none, and the virtual devices are as at a first connect.
    Renewed,
    /// There is none, because no connection is possible with these keys. Until the frontend withdraws them: what failed with them would fail again.
    Refused(Refusal),
    /// The page is mapped and the port bound.
    Connected(Connected<L>),
}

/// Keys with which no connection is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The keys, or what is wrong with them.
    pub(crate) keys: Result<Keys, InvalidKey>,
    /// Why not.
    pub(crate) failure: Failure,
}

/// Resources of a connected frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connected<L> {
    /// The keys that it connected with.
    pub(crate) keys: Keys,
    /// Our node has said Connected.
    pub(crate) is_announced: bool,
    /// The frontend has been at Connected or Reconfiguring.
    pub(crate) was_in_use: bool,
    /// The frontend is at the Reconfiguring that we have answered with Reconfigured already.
    pub(crate) is_answered: bool,
    /// The page and the port.
    pub(crate) link: L,
}

impl<L> Connected<L> {
    /// A connection that was not told to the nodes yet.
    pub(crate) const fn new(keys: Keys, link: L) -> Self {
        Self { keys, is_announced: false, was_in_use: false, is_answered: false, link }
    }
}

/// Everything held for one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrontendState<L> {
    /// The devices that were asked for.
    pub(crate) devices: LiteMap<Sbdf, Outcome>,
    /// Virtual buses in the order in which they were first used: segment and bus.
    pub(crate) roots: Vec<(u16, u8)>,
    /// Whether it is connected.
    pub(crate) connection: Connection<L>,
    /// Whether everything is to be given back for good.
    pub(crate) stop: ShutdownStage,
    /// Our node says Closed, and nothing is held.
    pub(crate) is_idle: bool,
    /// What it had before a restart in place is still to be taken over.
    pub(crate) is_adopting: bool,
}

impl<L> FrontendState<L> {
    /// Nothing is held.
    pub(crate) const fn new(stop: ShutdownStage) -> Self {
        Self {
            devices: LiteMap::new(),
            roots: Vec::new(),
            connection: Connection::Closed,
            stop,
            is_idle: false,
            is_adopting: false,
        }
    }

    /// Its resources while it is connected.
    pub(crate) const fn connected(&self) -> Option<&Connected<L>> {
        match &self.connection {
            Connection::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    /// As [`FrontendState::connected`].
    #[inline(always)] // on the way of each request
    pub(crate) const fn connected_mut(&mut self) -> Option<&mut Connected<L>> {
        match &mut self.connection {
            Connection::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    /// Whether it is connected.
    pub(crate) const fn is_connected(&self) -> bool {
        self.connected().is_some()
    }

    /// The keys that it is connected with.
    pub(crate) fn keys(&self) -> Option<Keys> {
        self.connected().map(|connected| connected.keys)
    }

    /// Comes to another state of the connection. What there was in the state before is dropped.
    #[inline(never)] // dropping takes room, once
    pub(crate) fn change_connection(&mut self, connection: Connection<L>) {
        self.connection = connection;
    }

    /// Ends the connection, if there is one, and hands it out.
    pub(crate) fn disconnect(&mut self) -> Option<Connected<L>> {
        if self.is_connected()
            && let Connection::Connected(connected) = core::mem::take(&mut self.connection)
        {
            return Some(connected);
        }
        None
    }

    /// Takes note of where both sides are now. Must run on every reading of the nodes, before [`decide`](super::decide()).
    pub(crate) fn observe(&mut self, nodes: &Nodes) {
        self.is_idle = nodes.own == Some(XenbusState::Closed) && self.is_empty();
        match &mut self.connection {
            Connection::Connected(connected) => {
                connected.is_answered &= nodes.peer.state == Some(XenbusState::Reconfiguring);
                connected.was_in_use |=
                    matches!(nodes.peer.state, Some(XenbusState::Connected | XenbusState::Reconfiguring));
            }
            Connection::Refused(_) => {
                let is_withdrawn = matches!(
                    nodes.peer.state,
                    Some(
                        XenbusState::Unknown
                            | XenbusState::Initialising
                            | XenbusState::InitWait
                            | XenbusState::Closing
                            | XenbusState::Closed
                    )
                );
                if is_withdrawn {
                    self.change_connection(Connection::Closed);
                }
            }
            Connection::Closed | Connection::Renewed => {}
        }
        if let Some(own) = nodes.own {
            self.said(own, nodes);
        }
    }

    /// Takes note of what our node says to a frontend that was found as in `nodes`. Must also run after every change of it: when the
    /// nodes are read again, another domain may have changed it.
    #[inline(never)] // its callers are tasks, in which everything costs more
    pub(crate) fn said(&mut self, own: XenbusState, nodes: &Nodes) {
        let Some(connected) = self.connected_mut() else { return };
        connected.is_announced |= own == XenbusState::Connected;
        connected.is_answered |=
            own == XenbusState::Reconfigured && nodes.peer.state == Some(XenbusState::Reconfiguring);
    }

    /// Takes note of the virtual buses that are in use. One that was published stays, at its place; in a new directory none was.
    pub(crate) fn observe_roots(&mut self, nodes: &Nodes, in_use: impl Iterator<Item = (u16, u8)>) {
        if nodes.root_num.is_none() {
            self.roots.clear();
        }
        // After a restart in place what was published comes first, in its order.
        let published = nodes.roots.iter().map(|root| (root.segment(), root.bus()));
        for root in published.chain(in_use) {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
        }
    }

    /// Actions for a frontend whose directories are gone.
    pub(crate) fn release_everything(&self) -> Vec<Action> {
        let mut actions: Vec<_> = self.connected().iter().map(|_| Action::Disconnect).collect();
        if !self.devices.is_empty() {
            actions.push(Action::ReleaseAll);
        }
        actions
    }

    /// Whether these keys are the ones that were refused.
    pub(crate) fn has_refused(&self, keys: Result<Keys, InvalidKey>) -> bool {
        matches!(&self.connection, Connection::Refused(refusal) if refusal.keys == keys)
    }

    /// Nothing that would have to be given back.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_connected() && self.devices.is_empty()
    }
}
