//! The devices that one frontend has, and where it sees them.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use xen_types::{DomId, Errno, Sbdf};

use crate::handshake::Failure;
use crate::platform::{ConfigAccess, Platform};
use crate::pool::{Pool, PoolDevice};
use crate::requests::AssignedFunction;
use crate::topology::{DeviceId, Entry, ExportMode, Topology};

/// Devices and their virtual addresses.
pub(super) struct Exports<P: Platform> {
    topology: Topology,
    /// By [`DeviceId`].
    devices: Vec<Option<Box<PoolDevice<P>>>>,
    /// How many devices were visited one after the other, where assertions are on.
    visited: u64,
}

/// Both sides of a device: what its guest sees, and the hardware.
type Parts<'a, P> = (&'a mut AssignedFunction, &'a <P as ConfigAccess>::ConfigPage);

impl<P: Platform> Exports<P> {
    /// None. `domain` is ours, as far as it is known ([`Topology::named_by`]).
    pub(super) fn new(mode: ExportMode, domain: Option<DomId>) -> Self {
        Self { topology: Topology::new(mode).named_by(domain), devices: Vec::new(), visited: 0 }
    }

    /// Chooses the mode anew, as long as no device has an address.
    pub(super) fn choose(&mut self, mode: ExportMode) {
        self.topology.choose(mode);
    }

    /// The virtual buses in use ([`Topology::roots`]).
    pub(super) fn roots(&self) -> impl Iterator<Item = (u16, u8)> {
        self.topology.roots()
    }

    /// Gives a device a virtual address, which is returned: `exact`, where it was in a life before a restart in place, or one that is free.
    ///
    /// # Errors
    /// Why it can have none: then the pool has it again.
    pub(super) fn add(
        &mut self,
        pool: &mut Pool<P>,
        mut device: Box<PoolDevice<P>>,
        requested_slot: Option<u8>,
        exact: Option<Sbdf>,
    ) -> Result<Sbdf, Failure> {
        device.show_alone(self.topology.shows_single_functions());
        let address = device.info().sbdf();
        let index = self.devices.iter().position(Option::is_none).unwrap_or(self.devices.len());
        let added = match u16::try_from(index) {
            Ok(id) => self
                .topology
                .add_at(DeviceId(id), address, device.traits(), requested_slot.map(|devfn| devfn >> 3), exact)
                .map_err(|error| Failure { errno: Errno::ENOSPC, text: format!("{address}: {error}") }),
            Err(_) => Err(Failure { errno: Errno::ENOSPC, text: format!("{address}: too many devices") }),
        };
        if added.is_err() {
            pool.decline(device);
        } else if let Some(free) = self.devices.get_mut(index) {
            *free = Some(device);
        } else {
            self.devices.push(Some(device));
        }
        added
    }

    /// Takes the device at a virtual address out. Where that was `by_force`, nothing else comes to the address until
    /// [`Exports::forget_retired`].
    pub(super) fn remove(&mut self, virtual_address: Sbdf, by_force: bool) -> Option<Box<PoolDevice<P>>> {
        let id = self.topology.search(virtual_address)?;
        if by_force {
            self.topology.retire(id);
        } else {
            self.topology.remove(id);
        }
        self.devices.get_mut(usize::from(id.0))?.take()
    }

    /// Frees the addresses of devices that were taken by force.
    pub(super) fn forget_retired(&mut self) {
        self.topology.forget_retired();
    }

    /// The addresses, and both sides of a device by its [`DeviceId`]: what a request is executed on.
    #[inline(always)] // on the way of each request
    pub(super) fn parts<'a>(&'a mut self) -> (&'a Topology, impl FnOnce(DeviceId) -> Option<Parts<'a, P>>) {
        let Self { topology, devices, .. } = self;
        (topology, |id| Some(devices.get_mut(usize::from(id.0))?.as_mut()?.parts()))
    }

    /// A device.
    pub(super) fn get_mut(&mut self, id: DeviceId) -> Option<&mut PoolDevice<P>> {
        self.devices.get_mut(usize::from(id.0))?.as_deref_mut()
    }

    /// The device at a virtual address.
    pub(super) fn at(&mut self, virtual_address: Sbdf) -> Option<&mut PoolDevice<P>> {
        let id = self.topology.search(virtual_address)?;
        self.get_mut(id)
    }

    /// All devices in the order of their virtual addresses, with these, until `visit` says that it has seen enough.
    pub(super) fn visit(&mut self, mut visit: impl FnMut(Sbdf, &mut PoolDevice<P>) -> bool) {
        let Self { topology, devices, .. } = self;
        for Entry { id, address, .. } in topology.iter() {
            if let Some(device) = devices.get_mut(usize::from(id.0)).and_then(Option::as_deref_mut)
                && !visit(*address, device)
            {
                return;
            }
        }
    }

    /// All devices, one after the other: for what concerns all of them, never for a request about one.
    pub(super) fn devices(&mut self) -> impl Iterator<Item = &mut PoolDevice<P>> {
        if cfg!(debug_assertions) {
            self.visited += self.devices.len() as u64;
        }
        self.devices.iter_mut().flatten().map(|device| &mut **device)
    }

    /// How many devices were visited one after the other so far.
    pub(super) const fn visited(&self) -> u64 {
        self.visited
    }
}
