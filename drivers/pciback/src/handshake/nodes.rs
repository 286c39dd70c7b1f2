//! A consistent snapshot of the two directories of one frontend.

use alloc::string::String;
use alloc::vec::Vec;

use xen_types::Sbdf;
use xenstore::{XenbusState, number};

use super::{InvalidKey, Keys};
use crate::topology::ExportMode;

/// More devices than this in one directory are a mistake of the toolstack: 32 slots of eight functions are a whole virtual bus.
pub(crate) const MAX_DEVICES: u32 = 256;

/// The BE dir and what matters of the FE dir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// Our own `state`, see [`read_state`].
    pub(crate) own: Option<XenbusState>,
    /// `online`: false when the toolstack removes the device for good.
    pub(crate) online: bool,
    /// Whether `frontend` and `frontend-id` name the directory of the domain that ours is for (only then was it read), and `export` is
    /// a mode.
    pub(crate) frontend: Result<(), String>,
    /// `export`: how this frontend's virtual addresses are chosen; `None` where that is left to us.
    pub(crate) export: Option<ExportMode>,
    /// `num_devs`, `None` while it is missing or no number.
    pub(crate) num_devs: Option<u32>,
    /// The nodes of device 0, 1, … as far as `num_devs` counts them.
    pub(crate) devices: Vec<DeviceNodes>,
    /// The virtual buses that were published, where they were read.
    pub(crate) roots: Vec<Sbdf>,
    /// `root_num`, `None` while it is empty or missing.
    pub(crate) root_num: Option<u32>,
    /// The frontend's side.
    pub(crate) peer: Peer,
}

/// The nodes of one device. Its index is only a name of the moment: the toolstack moves entries down when one is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceNodes {
    /// `dev-N`: the real address; `None` where it is missing or unreadable.
    pub(crate) address: Option<Sbdf>,
    /// `state-N`; `None` where it is missing (old toolstacks), [`XenbusState::Unknown`] where it says no state.
    pub(crate) state: Option<XenbusState>,
    /// `vdev-N` as it is, empty until we have written it.
    pub(crate) vdev: String,
    /// `vdevfn-N`: the virtual device and function that the admin would like.
    pub(crate) requested_slot: Option<u8>,
    /// `root-N`, as the first function there, where it was read: a virtual bus, of this number by accident.
    pub(crate) root: Option<Sbdf>,
}

impl DeviceNodes {
    /// Whether `state-N` says this.
    pub(crate) fn is_at(&self, state: XenbusState) -> bool {
        self.state == Some(state)
    }
}

/// The frontend's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its `state`, see [`read_state`].
    pub(crate) state: Option<XenbusState>,
    /// Its keys, read after `state`: a frontend writes them first, so behind Initialised they are complete.
    pub(crate) keys: Result<Keys, InvalidKey>,
}

/// A `state` node: [`XenbusState::Unknown`] where it is missing or says 0, so that its owner is gone; `None` where it says
/// something that is no state: then its owner is still there, and gets nothing for it.
pub(crate) fn read_state(value: Option<&[u8]>) -> Option<XenbusState> {
    let Some(value) = value else { return Some(XenbusState::Unknown) };
    match XenbusState::parse(value) {
        XenbusState::Unknown if number::decimal(value) != Ok(0) => None,
        state => Some(state),
    }
}
