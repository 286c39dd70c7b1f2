//! The headers (PCI Local Bus 3.0 §6.1, PCI-to-PCI Bridge Architecture 1.2 §3.2; docs/protocol.md §6.1).

use pci_registers::{header as at, status};

use super::rows::register;
use crate::register::{Block, COMMAND_DEVICE, Length, Place, Read, Rest, Row, Write};

const DEVICE: Read = Read::Device;
const COPY: Read = Read::Copy;

const fn base(at: u16, name: &'static str) -> Row {
    register(at, 4, name, COPY, Write::Base, 0, "PCI 3.0 §6.2.5")
}

/// The first register of every header.
const VENDOR: Row = register(at::VENDOR_ID, 2, "Vendor ID", COPY, Write::Ignore, 0, "PCI 3.0 §6.2.1");
const DEVICE_ID: Row = register(at::DEVICE_ID, 2, "Device ID", COPY, Write::Ignore, 0, "PCI 3.0 §6.2.1");
const COMMAND: Row =
    register(at::COMMAND, 2, "Command", Read::Command, Write::Command, COMMAND_DEVICE, "PCI 3.0 §6.2.2");
/// Error bits, by which a driver can tell what happened to its device; no other domain uses them.
const STATUS: Row =
    register(at::STATUS, 2, "Status", DEVICE, Write::DropStatus, status::ERRORS as u32, "PCI 3.0 §6.2.3");
const REVISION: Row = register(at::REVISION_ID, 1, "Revision ID", COPY, Write::Drop, 0, "PCI 3.0 §6.2.1");
const CLASS: Row = register(at::CLASS_CODE, 3, "Class Code", COPY, Write::Drop, 0, "PCI 3.0 §6.2.1");
const CACHE_LINE: Row =
    register(at::CACHE_LINE_SIZE, 1, "Cache Line Size", DEVICE, Write::CacheLineSize, 0, "PCI 3.0 §6.2.4");
const LATENCY: Row = register(at::LATENCY_TIMER, 1, "Latency Timer", DEVICE, Write::Ignore, 0, "PCI 3.0 §6.2.4");
const HEADER_TYPE: Row = register(at::HEADER_TYPE, 1, "Header Type", COPY, Write::Drop, 0, "PCI 3.0 §6.2.1");
const BIST: Row = register(at::BIST, 1, "BIST", DEVICE, Write::Bist, 0, "PCI 3.0 §6.2.4");
const POINTER: Row =
    register(at::CAPABILITIES_POINTER, 1, "Capabilities Pointer", COPY, Write::Drop, 0, "PCI 3.0 §6.2.4");
const LINE: Row = register(at::INTERRUPT_LINE, 1, "Interrupt Line", COPY, Write::Ignore, 0, "PCI 3.0 §6.2.4");
const PIN: Row = register(at::INTERRUPT_PIN, 1, "Interrupt Pin", COPY, Write::Ignore, 0, "PCI 3.0 §6.2.4");

pub(super) const BLOCKS: [Block; 2] = [
    Block {
        place: Place::Header(0),
        name: "header",
        length: Length::Dwords(16),
        rest: Rest::Locked,
        registers: &[
            VENDOR,
            DEVICE_ID,
            COMMAND,
            STATUS,
            REVISION,
            CLASS,
            CACHE_LINE,
            LATENCY,
            HEADER_TYPE,
            BIST,
            base(at::BASE_ADDRESS_0, "Base Address 0"),
            base(0x14, "Base Address 1"),
            base(0x18, "Base Address 2"),
            base(0x1c, "Base Address 3"),
            base(0x20, "Base Address 4"),
            base(0x24, "Base Address 5"),
            register(0x28, 4, "CardBus CIS Pointer", COPY, Write::Drop, 0, "PCI 3.0 §6.2.4"),
            register(at::SUBSYSTEM_VENDOR_ID, 2, "Subsystem Vendor ID", COPY, Write::Drop, 0, "PCI 3.0 §6.2.4"),
            register(0x2e, 2, "Subsystem ID", COPY, Write::Drop, 0, "PCI 3.0 §6.2.4"),
            base(at::EXPANSION_ROM, "Expansion ROM Base Address"),
            POINTER,
            register(0x35, 3, "reserved", DEVICE, Write::Drop, 0, "PCI 3.0 §6.1"),
            register(0x38, 4, "reserved", DEVICE, Write::Drop, 0, "PCI 3.0 §6.1"),
            LINE,
            PIN,
            register(0x3e, 1, "Min_Gnt", COPY, Write::Drop, 0, "PCI 3.0 §6.2.4"),
            register(0x3f, 1, "Max_Lat", COPY, Write::Drop, 0, "PCI 3.0 §6.2.4"),
        ],
    },
    // Bridges are not assigned (`checks.rs`). If one were, its windows and its secondary bus would stay the host's.
    Block {
        place: Place::Header(1),
        name: "bridge",
        length: Length::Dwords(16),
        rest: Rest::Locked,
        registers: &[
            VENDOR,
            DEVICE_ID,
            COMMAND,
            STATUS,
            REVISION,
            CLASS,
            CACHE_LINE,
            LATENCY,
            HEADER_TYPE,
            BIST,
            base(at::BASE_ADDRESS_0, "Base Address 0"),
            base(0x14, "Base Address 1"),
            register(0x18, 1, "Primary Bus Number", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.2"),
            register(at::SECONDARY_BUS, 1, "Secondary Bus Number", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.3"),
            register(0x1a, 1, "Subordinate Bus Number", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.4"),
            register(0x1b, 1, "Secondary Latency Timer", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.5"),
            register(0x1c, 2, "I/O Base, Limit", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.6"),
            register(0x1e, 2, "Secondary Status", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.7"),
            register(0x20, 4, "Memory Base, Limit", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.8"),
            register(0x24, 4, "Prefetchable Memory Base, Limit", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.9"),
            register(0x28, 4, "Prefetchable Base Upper", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.10"),
            register(0x2c, 4, "Prefetchable Limit Upper", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.10"),
            register(0x30, 4, "I/O Base, Limit Upper", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.11"),
            POINTER,
            register(0x35, 3, "reserved", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2"),
            base(0x38, "Expansion ROM Base Address"),
            LINE,
            PIN,
            register(0x3e, 2, "Bridge Control", DEVICE, Write::Drop, 0, "Bridge 1.2 §3.2.5.18"),
        ],
    },
];
