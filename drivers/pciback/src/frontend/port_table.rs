//! Table of bound ports and their frontends.

use alloc::vec::Vec;

use xen_types::{DomId, Port};

/// Owner of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// The frontend.
    pub(crate) domid: DomId,
    /// Where it was found last time.
    pub(crate) place: u16,
}

/// The bound ports, by their numbers: Xen gives out the lowest that is free. Its version changes with each change of them, so that who keeps
/// a list for sleeping on them knows when it is out of date without comparing.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    owners: Vec<Option<Owner>>,
    bound: usize,
    version: u64,
}

impl PortTable {
    pub(crate) fn insert(&mut self, port: Port, domid: DomId) {
        let index = port.0 as usize;
        if index >= self.owners.len() {
            self.owners.resize(index + 1, None);
        }
        self.set(index, Some(Owner { domid, place: 0 }));
    }

    pub(crate) fn remove(&mut self, port: Port) {
        self.set(port.0 as usize, None);
    }

    fn set(&mut self, index: usize, owner: Option<Owner>) {
        if let Some(place) = self.owners.get_mut(index) {
            self.bound = self.bound + usize::from(owner.is_some()) - usize::from(place.is_some());
            *place = owner;
        }
        self.version += 1;
    }

    #[inline(always)] // on the way of each request
    pub(crate) fn owner(&mut self, port: Port) -> Option<&mut Owner> {
        self.owners.get_mut(port.0 as usize)?.as_mut()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn len(&self) -> usize {
        self.bound
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Port> {
        (0..).map(Port).zip(&self.owners).filter_map(|(port, owner)| owner.is_some().then_some(port))
    }
}
