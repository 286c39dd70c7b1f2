//! Code shared by the drivers.

use alloc::vec::Vec;

use xen_types::Sbdf;

use crate::{Front, Panic};

/// A driver in a guest.
pub trait Driver {
    /// Looks at the backend's state and does one thing that it does then. True when it did anything.
    ///
    /// # Errors
    /// When the guest does not survive it.
    fn step(&mut self, front: &mut dyn Front) -> Result<bool, Panic>;

    /// The virtual addresses of its devices, as it has them now.
    fn devices(&self, front: &mut dyn Front) -> Vec<Sbdf>;
}
