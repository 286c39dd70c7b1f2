//! The frontends, by their domains.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;

use xen_types::DomId;

use super::Frontend;
use crate::platform::Platform;

/// All frontends. One is found by halving, or at once by who remembers its place.
pub(crate) struct Frontends<P: Platform> {
    /// Sorted by their domains.
    list: Vec<Box<Frontend<P>>>,
    /// How many were visited one after the other, where tests count it.
    visited: Cell<u64>,
}

impl<P: Platform> Frontends<P> {
    pub(crate) const fn new() -> Self {
        Self { list: Vec::new(), visited: Cell::new(0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Index of a frontend, or the one at which it would be inserted. Valid until frontends come or go.
    pub(crate) fn place(&self, domid: DomId) -> Result<usize, usize> {
        self.list.binary_search_by_key(&domid, |frontend| frontend.domid())
    }

    /// The frontend at this place, if it is this one.
    #[inline(always)] // on the way of each request
    pub(crate) fn at(&mut self, place: usize, domid: DomId) -> Option<&mut Frontend<P>> {
        self.list.get_mut(place).map(|frontend| &mut **frontend).filter(|frontend| frontend.domid() == domid)
    }

    pub(crate) fn get_mut(&mut self, domid: DomId) -> Option<&mut Frontend<P>> {
        let place = self.place(domid).ok()?;
        self.list.get_mut(place).map(|frontend| &mut **frontend)
    }

    /// The frontend, which is made where it is not there.
    pub(crate) fn get_or_insert_with(
        &mut self,
        domid: DomId,
        make: impl FnOnce() -> Box<Frontend<P>>,
    ) -> &mut Frontend<P> {
        let place = self.place(domid).unwrap_or_else(|place| {
            self.list.insert(place, make());
            place
        });
        &mut self.list[place]
    }

    pub(crate) fn remove(&mut self, domid: DomId) {
        if let Ok(place) = self.place(domid) {
            drop(self.list.remove(place));
        }
    }

    /// One after the other: for what concerns all of them, never for a request of one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Frontend<P>> {
        self.count_visits();
        self.list.iter().map(|frontend| &**frontend)
    }

    /// As [`Frontends::iter`].
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Frontend<P>> {
        self.count_visits();
        self.list.iter_mut().map(|frontend| &mut **frontend)
    }

    fn count_visits(&self) {
        if cfg!(debug_assertions) {
            self.visited.set(self.visited.get() + self.list.len() as u64);
        }
    }

    /// How many frontends and devices of theirs were visited one after the other so far. Counted where assertions are on.
    pub(crate) fn visited(&self) -> u64 {
        self.visited.get() + self.list.iter().map(|frontend| frontend.visited()).sum::<u64>()
    }
}
