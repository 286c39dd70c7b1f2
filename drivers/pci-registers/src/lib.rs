//! Registers of PCI configuration space: where they are, what their bits mean and how long a capability is. Each fact stands here once, for the
//! driver domain, the command, the broker and the tests.
//!
//! Offsets in the header are from the start of the space, those of a capability from its header. Bits are those of the register, at its own
//! width. What a guest may read and write of them is another matter: the crate `pci-config` has that table.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod capability;
pub mod header;
mod space;

pub use capability::{acs, advanced_features, express, extended_id, id, msi, msix, pci_x, power, sr_iov, vpd};
pub use header::{bist, command, status};
pub use space::{ConfigSpace, Width};

/// Where conventional capabilities can begin: behind the header.
pub const CONVENTIONAL: u16 = 0x40;
/// Where conventional configuration space ends and the extended one begins (PCIe 5.0 §7.2).
pub const EXTENDED: u16 = 0x100;
/// Bytes of a space that has an extended part.
pub const EXTENDED_BYTES: u16 = 0x1000;
