//! Conventional capabilities (docs/protocol.md §6.4, §6.5). One that is not here has its header copied; its other registers are the device's,
//! and a guest's only where the device is permissive.

use pci_registers::{id, msi, msix, pci_x, power, vpd};

use super::express;
use super::rows::{block, id_and_next, register, unlogged_id_and_next};
use crate::register::{Block, Length, Read, Rest, Row, Write};

const DEVICE: Read = Read::Device;
const COPY: Read = Read::Copy;

/// A capability that only the host may write.
const fn locked(id: u16, name: &'static str, length: Length, registers: &'static [Row]) -> Block {
    block(id, name, length, Rest::Locked, registers)
}

pub(super) const BLOCKS: [Block; 16] = [
    locked(
        id::POWER_MANAGEMENT,
        "pm",
        Length::Dwords(2),
        &[
            id_and_next("PCI PM 1.2 §3.2.1"),
            register(power::CAPABILITIES, 2, "PMC", Read::PowerCapabilities, Write::Ignore, 0, "PCI PM 1.2 §3.2.3"),
            register(power::PMCSR, 2, "PMCSR", DEVICE, Write::PowerState, 0, "PCI PM 1.2 §3.2.4"),
            register(6, 1, "PMCSR_BSE", DEVICE, Write::Ignore, 0, "PCI PM 1.2 §3.2.5"),
            register(7, 1, "Data", DEVICE, Write::Ignore, 0, "PCI PM 1.2 §3.2.6"),
        ],
    ),
    locked(0x02, "agp", Length::ToNext, &[unlogged_id_and_next("AGP 3.0 §5")]),
    locked(
        id::VPD,
        "vpd",
        Length::Dwords(2),
        &[
            id_and_next("PCI 3.0 §I"),
            register(vpd::ADDRESS, 2, "VPD Address", DEVICE, Write::VpdAddress, 0, "PCI 3.0 §I"),
            register(vpd::DATA, 4, "VPD Data", DEVICE, Write::Ignore, 0, "PCI 3.0 §I"),
        ],
    ),
    locked(0x04, "slotid", Length::Dwords(1), &[unlogged_id_and_next("Bridge 1.2 §13")]),
    locked(
        id::MSI,
        "msi",
        Length::Control,
        &[
            id_and_next("PCI 3.0 §6.8.1"),
            register(msi::CONTROL, 2, "Message Control", DEVICE, Write::MsiControl, 0, "PCI 3.0 §6.8.1.3"),
            register(msi::ADDRESS, 4, "Message Address", DEVICE, Write::Drop, 0, "PCI 3.0 §6.8.1.4"),
            // Upper address or data, data or mask, mask or pending, pending: as the control word says.
            register(8, 4, "Message +8", DEVICE, Write::Drop, 0, "PCI 3.0 §6.8.1"),
            register(12, 4, "Message +c", DEVICE, Write::Drop, 0, "PCI 3.0 §6.8.1"),
            register(16, 4, "Message +10", DEVICE, Write::Drop, 0, "PCI 3.0 §6.8.1"),
            register(20, 4, "Message +14", DEVICE, Write::Drop, 0, "PCI 3.0 §6.8.1"),
        ],
    ),
    block(
        id::PCI_X,
        "pcix",
        Length::Dwords(2),
        Rest::Open,
        &[
            unlogged_id_and_next("PCI-X 2.0 §7.2.1"),
            register(2, 2, "PCI-X Command", DEVICE, Write::Drop, 0x000e, "PCI-X 2.0 §7.2.3"), // read size, relaxed ordering
            register(pci_x::STATUS, 4, "PCI-X Status", DEVICE, Write::DropStatus, 0x200c_0000, "PCI-X 2.0 §7.2.4"),
        ],
    ),
    locked(0x08, "ht", Length::ToNext, &[unlogged_id_and_next("HyperTransport 3.1 §7")]),
    block(
        id::VENDOR,
        "vendor",
        Length::Dwords(1),
        Rest::Open,
        &[
            unlogged_id_and_next("PCI 3.0 §H"),
            register(2, 2, "Length, vendor's own", DEVICE, Write::Drop, 0xffff, "PCI 3.0 §H"),
        ],
    ),
    locked(0x0c, "shpc", Length::Dwords(2), &[unlogged_id_and_next("SHPC 1.0 §4.6")]),
    locked(0x0e, "agp8x", Length::ToNext, &[unlogged_id_and_next("AGP 3.0 §5")]),
    express::BLOCK,
    locked(
        id::MSI_X,
        "msix",
        Length::Dwords(3),
        &[
            id_and_next("PCI 3.0 §6.8.2"),
            register(msix::CONTROL, 2, "Message Control", Read::TableSize, Write::MsixControl, 0, "PCI 3.0 §6.8.2.3"),
            register(msix::TABLE, 4, "Table Offset, BIR", COPY, Write::Drop, 0, "PCI 3.0 §6.8.2.4"),
            register(msix::PENDING, 4, "PBA Offset, BIR", COPY, Write::Drop, 0, "PCI 3.0 §6.8.2.5"),
        ],
    ),
    block(
        0x12,
        "sata",
        Length::Dwords(2),
        Rest::Open,
        &[
            unlogged_id_and_next("AHCI 1.3.1 §2.4"),
            // Index and data behind it, or in a BAR, lead to the registers of the device itself.
            register(2, 2, "SATACR0", DEVICE, Write::Drop, 0, "AHCI 1.3.1 §2.4.2"),
            register(4, 4, "SATACR1", DEVICE, Write::Drop, 0, "AHCI 1.3.1 §2.4.3"),
        ],
    ),
    locked(
        id::ADVANCED_FEATURES,
        "af",
        Length::Dwords(2),
        &[
            unlogged_id_and_next("PCI AF ECN"),
            register(2, 2, "Length, AF Capabilities", Read::AdvancedFeatures, Write::Drop, 0, "PCI AF ECN"),
            register(4, 1, "AF Control", DEVICE, Write::FeaturesControl, 0, "PCI AF ECN"),
            register(5, 1, "AF Status", DEVICE, Write::Drop, 0, "PCI AF ECN"),
        ],
    ),
    locked(0x14, "ea", Length::ToNext, &[unlogged_id_and_next("PCIe 5.0 §7.8.5")]),
    locked(0x15, "fpb", Length::ToNext, &[unlogged_id_and_next("PCIe 5.0 §7.8.11")]),
];
