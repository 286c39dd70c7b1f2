//! Maps assigned functions to virtual addresses and back.
//!
//! One [`Topology`] belongs to one frontend. Functions are kept sorted by virtual address, so a look-up is a binary search
//! over the few functions a guest has, and every mode of export shares it: a mode only decides where a new function goes
//! (`vpci.rs`, `slot.rs`; in `passthrough` mode it stays where it is) and which roots the guest is told.

mod entry;
mod slot;
mod vpci;

use alloc::vec::Vec;
use core::cell::Cell;

use thiserror::Error;
use xen_types::{DomId, Sbdf};

pub use entry::{DeviceId, Entry, Traits};
pub use pcidom_abi::ExportMode;

/// Why a function got no address. Only this function is concerned; the others stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// Bridges are not for guests (docs/protocol.md §5.1).
    #[error("a bridge cannot be exported")]
    Bridge,
    /// The function is exported already.
    #[error("already exported as {0}")]
    Present(Sbdf),
    /// Its real address is that of one that was taken from the guest by force.
    #[error("the guest's driver still has what was there: it must be loaded anew first")]
    Taken,
    /// All slots are taken.
    #[error("no free slot on the virtual bus")]
    Full,
    /// Our own memory is exhausted.
    #[error("out of memory")]
    OutOfMemory,
}

/// Placeholder at the address of a function that was taken by force.
const RETIRED: DeviceId = DeviceId(u16::MAX);

/// The virtual addresses of one frontend's functions.
#[derive(Debug, Default)]
pub struct Topology {
    mode: ExportMode,
    /// Sorted by [`Entry::address`], no address twice.
    entries: Vec<Entry>,
    /// Another name of segment 0.
    alias: Option<DomId>,
    /// The place of the entry that was looked up last, as long as that is where it is.
    recent: Cell<usize>,
}

impl Topology {
    /// An empty topology.
    #[must_use]
    pub const fn new(mode: ExportMode) -> Self {
        Self { mode, entries: Vec::new(), alias: None, recent: Cell::new(0) }
    }

    /// The same for frontends that may take their backend's domain for the segment, as FreeBSD's does (docs/protocol.md §7): what is not in that
    /// segment is looked for in segment 0.
    #[must_use]
    pub fn named_by(self, domain: Option<DomId>) -> Self {
        Self { alias: domain, ..self }
    }

    /// Chooses the mode anew, as long as no function has an address.
    pub fn choose(&mut self, mode: ExportMode) {
        if self.entries.is_empty() {
            self.mode = mode;
        }
    }

    /// True where a guest sees each function in a slot of its own, whatever else is in the slot that it really is in.
    #[must_use]
    pub fn shows_single_functions(&self) -> bool {
        self.mode == ExportMode::Slot
    }

    /// Gives the function at `physical` a virtual address, which it keeps until [`Topology::remove`]. `wanted_slot` is the
    /// requested slot (`vdevfn-N`): honoured where it can be, ignored otherwise.
    ///
    /// # Errors
    /// When this function cannot have an address; nothing has changed then.
    pub fn add(
        &mut self,
        id: DeviceId,
        physical: Sbdf,
        traits: Traits,
        wanted_slot: Option<u8>,
    ) -> Result<Sbdf, TopologyError> {
        self.add_at(id, physical, traits, wanted_slot, None)
    }

    /// As [`Topology::add`], but at `exact` where that is given: where the function was in a life before a restart in place.
    ///
    /// # Errors
    /// As [`Topology::add`].
    pub fn add_at(
        &mut self,
        id: DeviceId,
        physical: Sbdf,
        traits: Traits,
        wanted_slot: Option<u8>,
        exact: Option<Sbdf>,
    ) -> Result<Sbdf, TopologyError> {
        if traits.is_bridge {
            return Err(TopologyError::Bridge);
        }
        if let Some(entry) = self.entries.iter().find(|entry| entry.id == id || entry.physical == physical) {
            return Err(TopologyError::Present(entry.address));
        }
        let address = match self.mode {
            _ if exact.is_some() => exact,
            ExportMode::Vpci => vpci::place(&self.entries, physical, traits, wanted_slot),
            ExportMode::Slot => slot::place(&self.entries, wanted_slot),
            ExportMode::Passthrough => Some(physical),
        }
        .ok_or(TopologyError::Full)?;
        // The toolstack has made the nodes of as many buses as there are devices for, and retired addresses are none of these.
        if self.mode == ExportMode::Slot && exact.is_none() {
            let live = self.entries.iter().filter(|entry| entry.id != RETIRED);
            let (count, last_bus) = live.fold((0, 0), |(count, _), entry| (count + 1, entry.address.bus()));
            if address.bus() > last_bus && usize::from(address.bus()) > count / slot::SLOTS_PER_BUS {
                return Err(TopologyError::Full);
            }
        }
        // A mode never proposes a taken address; were one to, the look-up must still find one function only.
        let Err(position) = self.position(address) else { return Err(TopologyError::Taken) };
        self.entries.try_reserve(1).map_err(|_| TopologyError::OutOfMemory)?;
        self.entries.insert(position, Entry { id, physical, address, traits });
        Ok(address)
    }

    /// The function at a virtual address, in the frontend's raw words. Anything out of range is simply not there: Linux's
    /// backend lets `devfn` 0x100 alias 0, ours does not (docs/protocol.md §4.1).
    #[must_use]
    #[inline(always)] // on the way of each request
    pub fn lookup(&self, domain: u32, bus: u32, devfn: u32) -> Option<DeviceId> {
        // Guests ask about one function many times in a row.
        if let Some(Entry { id, address, .. }) = self.entries.get(self.recent.get())
            && (address.segment().into(), address.bus().into(), address.devfn().into()) == (domain, bus, devfn)
        {
            return Some(*id);
        }
        self.lookup_anywhere(domain, bus, devfn)
    }

    #[inline(never)]
    fn lookup_anywhere(&self, domain: u32, bus: u32, devfn: u32) -> Option<DeviceId> {
        let (segment, bus, devfn) = (u16::try_from(domain).ok()?, u8::try_from(bus).ok()?, u8::try_from(devfn).ok()?);
        let found = self.search(Sbdf::from_devfn(segment, bus, devfn));
        match found {
            None if self.alias == Some(DomId(segment)) => self.search(Sbdf::from_devfn(0, bus, devfn)),
            found => found,
        }
    }

    /// The function at a virtual address.
    pub(crate) fn search(&self, address: Sbdf) -> Option<DeviceId> {
        let position = self.position(address).ok()?;
        self.recent.set(position);
        self.entries.get(position).map(|entry| entry.id)
    }

    /// Takes a function's address back; it is free for the next one. `None` where it had none.
    pub fn remove(&mut self, id: DeviceId) -> Option<Entry> {
        let position = self.entries.iter().position(|entry| entry.id == id)?;
        Some(self.entries.remove(position))
    }

    /// The same, but the address stays taken until [`Topology::forget_retired`]. There is no function at it.
    pub fn retire(&mut self, id: DeviceId) {
        // What is alone in its slot has no mates, and comes from nowhere.
        let traits = Traits { is_virtual_function: true, is_bridge: false };
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) {
            *entry = Entry { id: RETIRED, physical: Sbdf::from_devfn(0xffff, 0xff, 0), address: entry.address, traits };
        }
    }

    /// Frees the addresses of what was retired.
    pub fn forget_retired(&mut self) {
        self.entries.retain(|entry| entry.id != RETIRED);
    }

    /// Everything about one function.
    #[must_use]
    pub fn entry(&self, id: DeviceId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// All functions, in the order of their virtual addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The virtual buses to publish as `root-N`, as (segment, bus), a bus as often as it is used. Publish them before state 3: a
    /// frontend without roots either guesses or gives up (docs/protocol.md §5.4). Invented buses begin with one that is always there.
    pub fn roots(&self) -> impl Iterator<Item = (u16, u8)> {
        let invented = (self.mode != ExportMode::Passthrough).then_some((0, 0));
        invented.into_iter().chain(self.entries.iter().map(|entry| (entry.address.segment(), entry.address.bus())))
    }

    fn position(&self, address: Sbdf) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&address, |entry| entry.address)
    }
}

#[cfg(test)]
mod tests;
