//! A function and its virtual address.

use xen_types::Sbdf;

/// Our own short name of a function that is assigned to a frontend. What the number means is the caller's choice (an index);
/// it stays the same while the function is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u16);

/// What a mode must know about a function beside its address.
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
    /// Where it really is.
    pub physical: Sbdf,
    /// Where the guest sees it.
    pub address: Sbdf,
    /// What the placement took into account.
    pub traits: Traits,
}
