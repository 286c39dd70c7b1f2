//! The node that records which vectors of a device are mapped: `/tool/pcidom/device/BDF/vectors`.
//!
//! The broker keeps nothing about vectors in its own memory, so that one that is killed leaves nothing behind that the next one, or
//! a command, does not know of.

pub use pcidom_abi::Vectors;
use pcidom_abi::{DeviceNode, paths};
use xen_types::{DomId, Sbdf};

use super::assignment::Assigned;
use dom0::Dom0;
use dom0::Error;
use dom0::store::Change;

/// What is mapped for a device.
///
/// # Errors
/// Xenstore's.
pub fn load(host: &Dom0, device: Sbdf) -> Result<Vectors, Error> {
    Ok(Vectors::from_node(host.read(&vectors_node(device))?.as_deref()))
}

/// Notes it.
pub(crate) fn store(vectors: &Vectors, device: Sbdf) -> Change {
    Change::write(vectors_node(device), vectors)
}

/// All that stands in xenstore about a device's interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) vectors: Vectors,
    /// Whether the guest itself wants INTx off: what the register goes back to when the last vector is gone.
    pub(crate) intx_off: bool,
}

impl Noted {
    /// The nodes that [`Noted::from_nodes`] wants the values of.
    pub(crate) fn nodes(device: Sbdf) -> [String; 2] {
        [vectors_node(device), intx_node(device)]
    }

    pub(crate) fn from_nodes([vectors, intx]: [Option<String>; 2]) -> Self {
        Self { vectors: Vectors::from_node(vectors.as_deref()), intx_off: intx.is_some() }
    }

    pub(crate) fn load(host: &Dom0, device: Sbdf) -> Result<Self, Error> {
        Ok(Self::from_nodes(host.read_many(Self::nodes(device).each_ref().map(String::as_str))?))
    }

    /// No vectors any more, and nothing to go back to.
    pub(crate) fn forget(&self, host: &Dom0, device: Sbdf) -> Result<(), Error> {
        let mut changes = vec![store(&Vectors::None, device)];
        if self.intx_off {
            changes.push(set_intx_off(device, false));
        }
        host.commit_own(&changes)
    }
}

/// Where it stands.
#[must_use]
pub fn vectors_node(device: Sbdf) -> String {
    DeviceNode::Vectors.of(device)
}

fn intx_node(device: Sbdf) -> String {
    DeviceNode::Intx.of(device)
}

/// Notes that a device's vectors are being changed. Says whether nothing may be mapped for the guest now: it would be taken for what a dead
/// broker left. Whoever cleans up looks for `busy` after he has said so, which is counted as a change of the database, and this looks after it has said
/// `busy`: one of them sees the other.
pub(crate) fn begin(host: &Dom0, assigned: &Assigned, intx_off: bool) -> Result<bool, Error> {
    let mut changes = vec![store(&Vectors::Busy, assigned.device)];
    changes.extend(intx_off.then(|| set_intx_off(assigned.device, true)));
    host.commit_own(&changes)?;
    Ok(!assigned.is_unchanged(host) && host.exists(&paths::vector_cleanup_node(assigned.guest))?)
}

pub(crate) fn begin_vector_cleanup(guest: DomId) -> Change {
    Change::write(paths::vector_cleanup_node(guest), "")
}

pub(crate) fn end_vector_cleanup(guest: DomId) -> Vec<Change> {
    vec![Change::remove(paths::vector_cleanup_node(guest)), Change::remove_if_empty(paths::VECTOR_CLEANUPS)]
}

/// Ends what commands have begun that were killed. For a command: none other is at work.
///
/// # Errors
/// Xenstore's.
pub fn end_vector_cleanups(host: &Dom0) -> Result<(), Error> {
    if host.exists(paths::VECTOR_CLEANUPS)? {
        host.commit(&[Change::remove(paths::VECTOR_CLEANUPS), Change::remove_if_empty(paths::TOOL)])?;
    }
    Ok(())
}

/// Notes what the guest wants. Hardly any wants INTx off, so the usual case costs nothing.
pub(crate) fn set_intx_off(device: Sbdf, off: bool) -> Change {
    let node = intx_node(device);
    if off { Change::write(node, DeviceNode::INTX_OFF) } else { Change::remove(node) }
}

/// Removes both nodes, if there are any: the device leaves its guest. Nothing there means no vectors.
///
/// # Errors
/// Xenstore's.
pub fn remove(host: &Dom0, device: Sbdf) -> Result<(), Error> {
    let nodes = Noted::nodes(device);
    let found = host.read_many(nodes.each_ref().map(String::as_str))?;
    if found.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut changes: Vec<Change> = nodes.into_iter().map(Change::remove).collect();
    // Were the device forgotten while somebody made these nodes, its directory would be theirs alone.
    changes.push(Change::remove_if_empty(paths::device_dir(device)));
    host.commit(&changes)
}
