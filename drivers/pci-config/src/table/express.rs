//! The PCI Express capability (PCIe 5.0 §7.5.3).

use pci_registers::{express, id};

use super::rows::{block, register, unlogged_id_and_next};
use crate::register::{Block, Length, Read, Rest, Row, Write};

const DEVICE: Read = Read::Device;

/// A register that only the host may write.
const fn locked(at: u16, bytes: u8, name: &'static str, source: &'static str) -> Row {
    register(at, bytes, name, DEVICE, Write::Drop, 0, source)
}

pub(super) const BLOCK: Block = block(
    id::PCI_EXPRESS,
    "pcie",
    Length::Control,
    Rest::Locked,
    &[
        unlogged_id_and_next("PCIe 5.0 §7.5.3.1"),
        locked(express::CAPABILITIES, 2, "PCI Express Capabilities", "PCIe 5.0 §7.5.3.2"),
        register(
            express::DEVICE_CAPABILITIES,
            4,
            "Device Capabilities",
            Read::DeviceCapabilities,
            Write::Drop,
            0,
            "PCIe 5.0 §7.5.3.3",
        ),
        // Relaxed ordering and the size of read requests, which drivers tune. Not: error reporting, payload size, extended tags, phantom
        // functions (other requesters' ids), auxiliary power, no snoop.
        register(0x08, 2, "Device Control", DEVICE, Write::DeviceControl, 0x7010, "PCIe 5.0 §7.5.3.4"),
        register(0x0a, 2, "Device Status", DEVICE, Write::DropStatus, 0x000f, "PCIe 5.0 §7.5.3.5"),
        locked(0x0c, 4, "Link Capabilities", "PCIe 5.0 §7.5.3.6"),
        locked(0x10, 2, "Link Control", "PCIe 5.0 §7.5.3.7"),
        locked(0x12, 2, "Link Status", "PCIe 5.0 §7.5.3.8"),
        locked(0x14, 4, "Slot Capabilities", "PCIe 5.0 §7.5.3.9"),
        locked(0x18, 2, "Slot Control", "PCIe 5.0 §7.5.3.10"),
        locked(0x1a, 2, "Slot Status", "PCIe 5.0 §7.5.3.11"),
        locked(0x1c, 2, "Root Control", "PCIe 5.0 §7.5.3.12"),
        locked(0x1e, 2, "Root Capabilities", "PCIe 5.0 §7.5.3.13"),
        locked(0x20, 4, "Root Status", "PCIe 5.0 §7.5.3.14"),
        locked(0x24, 4, "Device Capabilities 2", "PCIe 5.0 §7.5.3.15"),
        // Completion timeouts. Not: ARI forwarding, atomic operations, LTR, ten-bit tags, OBFF.
        register(0x28, 2, "Device Control 2", DEVICE, Write::Drop, 0x001f, "PCIe 5.0 §7.5.3.16"),
        locked(0x2a, 2, "Device Status 2", "PCIe 5.0 §7.5.3.17"),
        locked(0x2c, 4, "Link Capabilities 2", "PCIe 5.0 §7.5.3.18"),
        locked(0x30, 2, "Link Control 2", "PCIe 5.0 §7.5.3.19"),
        locked(0x32, 2, "Link Status 2", "PCIe 5.0 §7.5.3.20"),
        locked(0x34, 4, "Slot Capabilities 2", "PCIe 5.0 §7.5.3.21"),
        locked(0x38, 2, "Slot Control 2", "PCIe 5.0 §7.5.3.22"),
        locked(0x3a, 2, "Slot Status 2", "PCIe 5.0 §7.5.3.23"),
    ],
);
