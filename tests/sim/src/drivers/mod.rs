//! The drivers of other guests, each with its habits (pci-protocol §9): what they write and in which order, how they look for
//! devices, what they do on each state of the backend. Written from that description.

mod freebsd;
mod mini_os;
mod netbsd;

pub use freebsd::FreeBsd;
pub use mini_os::MiniOs;
pub use netbsd::NetBsd;

use crate::stub::SimStub;

/// A driver in a guest.
pub trait Driver {
    /// Looks at the backend's state and does one thing that it does then. True when it did anything.
    fn step(&mut self, stub: &mut SimStub) -> bool;
}
