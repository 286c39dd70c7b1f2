//! The walk through a function's capabilities. The broker has none: it gets by with what commands note for it when a device is attached.

use std::cell::Cell;

use ::dom0::Error;
use ::dom0::sysfs::{Config, Decode, Width};
use pci_config::{ConfigSpace, Walk, id};
use pcidom_abi::{Capabilities, Msi, Msix};

/// What commands read of configuration space besides single registers.
pub(crate) trait ConfigWalk {
    /// Has somebody look at the space who cannot deal with registers that cannot be read.
    fn look<T>(&self, look: impl FnOnce(&Space<'_>) -> T) -> Result<T, Error>;

    /// The offsets of capabilities in the conventional list, in one walk: each register costs an emulated access or a microsecond. Of a kind that
    /// is there more than once it is the first. The device is not trusted: the list may be anything.
    fn find_capabilities<const N: usize>(&self, ids: [u16; N]) -> Result<[Option<u16>; N], Error> {
        self.look(|space| {
            let mut found = [None; N];
            for capability in Walk::conventional(space) {
                for (place, _) in found.iter_mut().zip(ids).filter(|(_, id)| *id == capability.id) {
                    place.get_or_insert(capability.offset);
                }
                if found.iter().all(Option::is_some) {
                    break;
                }
            }
            found
        })
    }

    /// [`Config::quiesce`] of a device whose capabilities are looked for first.
    fn walk_and_quiesce(&self, decode: Decode) -> Result<(), Error>;

    /// The offset of one.
    fn find_capability(&self, id: u16) -> Result<Option<u16>, Error> {
        self.find_capabilities([id]).map(|[found]| found)
    }

    /// Where the capabilities are that quiescing a device is about. How many vectors they have does not matter for that: none.
    fn capabilities(&self) -> Result<Capabilities, Error> {
        let [power, msi, msix] = self.find_capabilities([id::POWER_MANAGEMENT, id::MSI, id::MSI_X])?;
        let msi = msi.map(|at| Msi { at, vectors: 0 });
        let msix = msix.map(|at| Msix { at, entries: 0, bar: 0 });
        Ok(Capabilities { power, msi, msix, sr_iov: None })
    }
}

/// The space as [`ConfigWalk::look`] shows it: what cannot be read reads as ones, and is told afterwards.
pub(crate) struct Space<'a> {
    config: &'a Config,
    failure: Cell<Option<Error>>,
}

impl ConfigSpace for Space<'_> {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        self.config.read(offset, width).unwrap_or_else(|error| {
            self.failure.set(Some(error));
            width.bits()
        })
    }
}

impl ConfigWalk for Config {
    fn look<T>(&self, look: impl FnOnce(&Space<'_>) -> T) -> Result<T, Error> {
        let space = Space { config: self, failure: Cell::new(None) };
        let seen = look(&space);
        match space.failure.take() {
            None => Ok(seen),
            Some(error) => Err(error),
        }
    }

    fn walk_and_quiesce(&self, decode: Decode) -> Result<(), Error> {
        self.quiesce(decode, &self.capabilities()?)
    }
}

#[cfg(test)]
mod tests {
    use fakes::{E1000, Memory, device};

    use super::*;
    use crate::fake::Machine;

    #[test]
    fn capability_lists_that_never_end_are_left() {
        let machine = Machine::new();
        let find = |image: Memory, id| {
            machine.tree.write(format!("bus/pci/devices/{E1000}/config"), image.bytes);
            machine.host.sysfs.config(device(E1000)).unwrap().find_capability(id).unwrap()
        };
        let mut circle = Memory::conventional();
        circle.add_capability(0x40, 0x01, 0x40);
        assert_eq!((find(circle.clone(), id::POWER_MANAGEMENT), find(circle, id::MSI_X)), (Some(0x40), None));
        assert_eq!(find(Memory::from_bytes(vec![0xff; 256]), id::MSI), None);
    }
}
