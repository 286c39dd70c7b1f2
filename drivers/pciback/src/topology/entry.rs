//! A function and its virtual address.

use xen_types::Sbdf;

/// Our own short name of a function that is assigned to a frontend. What the number means is the caller's choice (an index);
/// it stays the same while the function is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

/// Properties of a function that placement depends on, beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traits {
    /// A virtual function of an SR-IOV device.
    pub is_virtual_function: bool,
    /// A bridge to another bus: base class 06 with header type 1.
    pub is_bridge: bool,
}

/// A function with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Our name of it.
    pub id: DeviceId,
    /// Its real address.
    pub physical: Sbdf,
    /// Its virtual address.
    pub address: Sbdf,
    /// The properties used for placement.
    pub traits: Traits,
}
