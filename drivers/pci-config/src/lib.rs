//! The configuration space that a guest sees of a function that was assigned to it (docs/protocol.md §4.2 and §6), and what its writes may change.
//!
//! Every register is either real or ours. The table in [`table`] says who answers a read of each, and what a write does; [`VirtualConfig`]
//! holds our bits of the first 256 bytes in one array, so a read is one mask: what is ours comes from the array, what is not comes from the
//! hardware, and where all is ours the hardware is not touched. Bits are ours for one of two reasons: they are virtual (address registers,
//! decode enables, interrupt line, links of the capability lists), or they cannot change and asking again would cost time and trust (ids,
//! class, capability headers).
//!
//! A write changes our bits at once. What remains for the hardware is returned as [`HardwareWrite`]s: nothing here writes to a device.
//!
//! The device is not trusted either: its capability lists may loop or leave the space, and what it reads may change. The walk is bounded, a
//! register's meaning is fixed when the function is assigned, and no value read indexes anything unchecked.
//!
//! The driver domain uses this crate on what it reads by itself, and so does the command in dom0, which makes the broker's list from the same table
//! ([`permitted_writes()`]): the broker believes no stub.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod base;
mod checks;
#[cfg(any(test, feature = "fakes"))]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
pub mod fakes;
mod inventory;
mod layout;
mod outcome;
mod packed;
mod permitted_writes;
mod policy;
mod pristine;
mod register;
pub mod table;
mod view;
mod walk;
mod writable_mask;
mod write;

pub use access::BadAccess;
pub use base::RESOURCES;
pub use checks::{Answering, NotQuiesced, Unservable, check_quiesced, check_servable, is_absent};
pub use inventory::{Answerer, Entry, Reason};
pub use outcome::{Denied, HardwareWrite, Register, WriteError, WriteOutcome};
pub use pci_registers::{ConfigSpace, Width, extended_id, id};
pub use permitted_writes::permitted_writes;
pub use policy::{BadPolicy, Hidden, Policy, PolicyFlags, Quirk};
pub use pristine::save_pristine;
pub use register::{Block, Length, MAX_ENTRIES, Place, Read, Rest, Row, Write};
pub use view::{Description, VirtualConfig};
pub use walk::{Capability, Fault, Walk};
pub use writable_mask::{Open, PermittedWrite, WritableMask};

#[cfg(test)]
mod tests;
