//! Actions that a decision returns.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use xen_types::{Errno, Sbdf};
use xenstore::XenbusState;

use super::{InvalidKey, Keys};

/// One step. The steps of a decision are carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer what is in the page, close the port, drop the page.
    Disconnect,
    /// Give every device back to the pool, and forget those that could not be had.
    ReleaseAll,
    /// The same for one device.
    Release(Sbdf),
    /// The same for one that was taken from a connected frontend by force.
    Seize(Sbdf),
    /// Make the virtual side of every device as it is at a first connect, at the same virtual addresses; forget what failed.
    Renew,
    /// Take a device from the pool and give it a virtual address.
    Take {
        /// The real address.
        address: Sbdf,
        /// The virtual device and function that the admin would like.
        requested_slot: Option<u8>,
        /// Where the frontend saw it before a restart in place, and goes on to see it.
        exact: Option<Sbdf>,
    },
    /// Take the connection over that there was before a restart in place, if there was one with these keys. With the states of both sides, ours
    /// first.
    Adopt(Option<Keys>, [Option<XenbusState>; 2]),
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

/// Why something cannot be done, for the error node and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The number that stands first in the error node.
    pub(crate) errno: Errno,
    /// The sentence behind it.
    pub(crate) text: String,
}
