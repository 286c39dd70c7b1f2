//! The policy: every register with a meaning of its own, who answers its reads, and what a write may change.
//!
//! Each row has a name and a source, for readers. The driver domain carries a packed form without them, made at compile
//! time (`packed.rs`).
//!
//! On a permissive device those bits are writable with which a guest can harm only its own device. These stay locked:
//! - address decoding and routing (base address registers, bridge windows, Enhanced Allocation, Resizable BAR, Multicast, ARI, FPB):
//!   other devices' or the host's addresses,
//! - interrupts (MSI, MSI-X, HyperTransport, TPH): messages are Xen's,
//! - what stands between the device and memory (ACS, ATS, PRI, PASID, phantom functions, Shadow Functions, IDE, CXL's DVSECs): the IOMMU,
//! - new functions (SR-IOV) that were not assigned,
//! - the link and its power states (Link Control, Physical Layers, L1 PM, LTR, PTM, Virtual Channels): shared with the port above and with
//!   sibling functions, and dom0's to manage,
//! - payload size, extended tags, error reporting and severities, DPC: an error that is fatal to the port is fatal to the host,
//! - resets (function level resets): the device would come back without its addresses while the guest has them mapped,
//! - what would outlive the guest (VPD, subsystem ids).
//!
//! Extended capabilities that are not in the table are locked: what a future specification brings may belong to any of these.

mod conventional;
mod express;
mod extended;
mod header;
mod rows;

use crate::register::Block;

/// All blocks: headers, conventional capabilities, extended capabilities, each by number.
pub(crate) const BLOCKS: [&[Block]; 3] = [&header::BLOCKS, &conventional::BLOCKS, &extended::BLOCKS];

/// The table, for people and tests.
pub fn blocks() -> impl Iterator<Item = &'static Block> {
    BLOCKS.iter().copied().flatten()
}
