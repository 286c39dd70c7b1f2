//! Which frontend each bound port belongs to.

use litemap::LiteMap;
use xen_types::{DomId, Port};

/// The bound ports. Its version changes with each change of them, so that who keeps a list for sleeping on them knows when it is out of
/// date without comparing.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    owners: LiteMap<Port, DomId>,
    version: u64,
}

impl PortTable {
    pub(crate) fn insert(&mut self, port: Port, owner: DomId) {
        self.owners.insert(port, owner);
        self.version += 1;
    }

    pub(crate) fn remove(&mut self, port: Port) {
        self.owners.remove(&port);
        self.version += 1;
    }

    pub(crate) fn owner(&self, port: Port) -> Option<DomId> {
        self.owners.get(&port).copied()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Port> {
        self.owners.keys().copied()
    }
}
