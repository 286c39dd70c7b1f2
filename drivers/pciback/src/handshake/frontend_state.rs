//! What we hold for one frontend, as far as decisions depend on it.

use alloc::vec::Vec;

use litemap::LiteMap;
use xen_types::Sbdf;
use xenstore::XenbusState;

use super::{Action, Failure, InvalidKey, Keys, Nodes};

/// What became of a device that the toolstack listed, by its real address.
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
    /// Nobody waits for them any longer.
    Now,
}

/// Everything held for one frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrontendState {
    /// The devices that were asked for.
    pub(crate) devices: LiteMap<Sbdf, Outcome>,
    /// Virtual buses in the order in which they were first used: segment and bus.
    pub(crate) roots: Vec<(u16, u8)>,
    /// The page is mapped and the port bound, by these keys.
    pub(crate) connection: Option<Keys>,
    /// The keys that nobody could connect with, and why, while the frontend has not withdrawn them. What failed with them
    /// would fail again.
    pub(crate) refused: Option<(Result<Keys, InvalidKey>, Failure)>,
    /// Our node has said Connected since the connection was made.
    pub(crate) announced: bool,
    /// The frontend has been at Connected or Reconfiguring since the connection was made.
    pub(crate) peer_was_connected: bool,
    /// The frontend is at the Reconfiguring that we have answered with Reconfigured already.
    pub(crate) answered: bool,
    /// The virtual devices are as at a first connect.
    pub(crate) renewed: bool,
    /// Whether everything is to be given back for good.
    pub(crate) stop: ShutdownStage,
    /// Our node says Closed, and nothing is held.
    pub(crate) is_idle: bool,
}

impl FrontendState {
    /// Takes note of where both sides are now. Must run on every reading of the nodes, before [`decide`](super::decide()).
    pub(crate) fn observe(&mut self, nodes: &Nodes) {
        self.is_idle = nodes.own == Some(XenbusState::Closed) && self.is_empty();
        self.answered &= nodes.peer.state == Some(XenbusState::Reconfiguring);
        if let Some(own) = nodes.own {
            self.said(own, nodes);
        }
        match nodes.peer.state {
            Some(
                XenbusState::Unknown
                | XenbusState::Initialising
                | XenbusState::InitWait
                | XenbusState::Closing
                | XenbusState::Closed,
            ) => self.refused = None,
            Some(XenbusState::Connected | XenbusState::Reconfiguring) => {
                self.peer_was_connected |= self.connection.is_some();
            }
            Some(XenbusState::Initialised | XenbusState::Reconfigured) | None => {}
        }
    }

    /// Takes note of what our node says to a frontend that was found as in `nodes`. Must also run after every change of it: when the
    /// nodes are read again, somebody else may have changed it.
    pub(crate) fn said(&mut self, own: XenbusState, nodes: &Nodes) {
        if self.connection.is_none() {
            return;
        }
        self.announced |= own == XenbusState::Connected;
        self.answered |= own == XenbusState::Reconfigured && nodes.peer.state == Some(XenbusState::Reconfiguring);
    }

    /// Takes note of the virtual buses that are in use. One that was published stays, at its place; in a new directory none was.
    pub(crate) fn observe_roots(&mut self, nodes: &Nodes, in_use: impl Iterator<Item = (u16, u8)>) {
        if nodes.root_num.is_none() {
            self.roots.clear();
        }
        for root in in_use {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
        }
    }

    /// What to do when nobody is there any more to be told.
    pub(crate) fn let_go(&self) -> Vec<Action> {
        let mut actions: Vec<_> = self.connection.iter().map(|_| Action::Disconnect).collect();
        if !self.devices.is_empty() {
            actions.push(Action::ReleaseAll);
        }
        actions
    }

    /// Whether these keys are the ones that were refused.
    pub(crate) fn has_refused(&self, keys: Result<Keys, InvalidKey>) -> bool {
        self.refused.as_ref().is_some_and(|(refused, _)| *refused == keys)
    }

    /// Nothing that would have to be given back.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.connection.is_none() && self.devices.is_empty()
    }
}
