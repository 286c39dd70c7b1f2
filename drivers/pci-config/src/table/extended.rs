//! Extended capabilities (PCIe 5.0 §7.6 to §7.9, §9.3.3, §10.5). Their headers are always copied, because they are linked anew. One that is
//! not here is locked, up to the next in the space.

use pci_registers::{extended_id, sr_iov};

use super::rows::register;
use crate::register::{Block, Length, Place, Read, Rest, Row, Write};

const DEVICE: Read = Read::Device;

/// A capability that only the host may write.
const fn locked(id: u16, name: &'static str, length: Length, registers: &'static [Row]) -> Block {
    Block { place: Place::Extended(id), name, length, rest: Rest::Locked, registers }
}

/// Its header alone is known here.
const fn opaque(id: u16, name: &'static str) -> Block {
    locked(id, name, Length::ToNext, &[])
}

/// A register that only the host may write.
const fn line(at: u16, bytes: u8, name: &'static str, source: &'static str) -> Row {
    register(at, bytes, name, DEVICE, Write::Drop, 0, source)
}

const fn status(at: u16, name: &'static str, source: &'static str) -> Row {
    register(at, 4, name, DEVICE, Write::DropStatus, u32::MAX, source)
}

pub(super) const BLOCKS: [Block; 36] = [
    locked(
        0x0001,
        "aer",
        Length::Dwords(14),
        &[
            status(0x04, "Uncorrectable Error Status", "PCIe 5.0 §7.8.4.2"),
            // Masks and severities decide what reaches the host as a fatal error.
            line(0x08, 4, "Uncorrectable Error Mask", "PCIe 5.0 §7.8.4.3"),
            line(0x0c, 4, "Uncorrectable Error Severity", "PCIe 5.0 §7.8.4.4"),
            status(0x10, "Correctable Error Status", "PCIe 5.0 §7.8.4.5"),
            line(0x14, 4, "Correctable Error Mask", "PCIe 5.0 §7.8.4.6"),
            line(0x18, 4, "Advanced Error Capabilities and Control", "PCIe 5.0 §7.8.4.7"),
            line(0x1c, 4, "Header Log 1", "PCIe 5.0 §7.8.4.8"),
            line(0x20, 4, "Header Log 2", "PCIe 5.0 §7.8.4.8"),
            line(0x24, 4, "Header Log 3", "PCIe 5.0 §7.8.4.8"),
            line(0x28, 4, "Header Log 4", "PCIe 5.0 §7.8.4.8"),
            line(0x2c, 4, "Root Error Command", "PCIe 5.0 §7.8.4.9"),
            line(0x30, 4, "Root Error Status", "PCIe 5.0 §7.8.4.10"),
            line(0x34, 4, "Error Source Identification", "PCIe 5.0 §7.8.4.11"),
        ],
    ),
    opaque(0x0002, "vc"),
    locked(
        0x0003,
        "dsn",
        Length::Dwords(3),
        &[line(4, 4, "Serial Number, lower", "PCIe 5.0 §7.9.3"), line(8, 4, "Serial Number, upper", "PCIe 5.0 §7.9.3")],
    ),
    locked(
        0x0004,
        "power",
        Length::Dwords(4),
        &[
            register(4, 1, "Data Select", DEVICE, Write::Drop, 0xff, "PCIe 5.0 §7.8.1.2"),
            line(8, 4, "Data", "PCIe 5.0 §7.8.1.3"),
            line(12, 1, "Power Budget Capability", "PCIe 5.0 §7.8.1.4"),
        ],
    ),
    opaque(0x0005, "rclink"),
    opaque(0x0006, "rcilink"),
    opaque(0x0007, "rcec"),
    opaque(0x0008, "mfvc"),
    opaque(0x0009, "vc9"),
    opaque(0x000a, "rcrb"),
    // A vendor's own: what a permissive device is permissive for.
    Block {
        place: Place::Extended(0x000b),
        name: "vsec",
        length: Length::ToNext,
        rest: Rest::Open,
        registers: &[register(4, 4, "VSEC Header", DEVICE, Write::Drop, 0, "PCIe 5.0 §7.9.5.2")],
    },
    locked(
        0x000d,
        "acs",
        Length::ToNext,
        &[line(4, 2, "ACS Capability", "PCIe 5.0 §7.7.8.2"), line(6, 2, "ACS Control", "PCIe 5.0 §7.7.8.3")],
    ),
    locked(
        0x000e,
        "ari",
        Length::Dwords(2),
        &[line(4, 2, "ARI Capability", "PCIe 5.0 §7.8.8.2"), line(6, 2, "ARI Control", "PCIe 5.0 §7.8.8.3")],
    ),
    locked(
        0x000f,
        "ats",
        Length::Dwords(2),
        &[line(4, 2, "ATS Capability", "PCIe 5.0 §10.5.1.2"), line(6, 2, "ATS Control", "PCIe 5.0 §10.5.1.3")],
    ),
    locked(
        extended_id::SR_IOV,
        "sriov",
        Length::Dwords(16),
        &[
            line(0x04, 4, "SR-IOV Capabilities", "PCIe 5.0 §9.3.3.2"),
            line(sr_iov::CONTROL, 2, "SR-IOV Control", "PCIe 5.0 §9.3.3.3"),
            line(0x0a, 2, "SR-IOV Status", "PCIe 5.0 §9.3.3.4"),
            line(0x0c, 2, "InitialVFs", "PCIe 5.0 §9.3.3.5"),
            line(0x0e, 2, "TotalVFs", "PCIe 5.0 §9.3.3.6"),
            line(0x10, 2, "NumVFs", "PCIe 5.0 §9.3.3.7"),
            line(0x12, 1, "Function Dependency Link", "PCIe 5.0 §9.3.3.8"),
            line(0x14, 2, "First VF Offset", "PCIe 5.0 §9.3.3.9"),
            line(0x16, 2, "VF Stride", "PCIe 5.0 §9.3.3.10"),
            line(0x1a, 2, "VF Device ID", "PCIe 5.0 §9.3.3.11"),
            line(0x1c, 4, "Supported Page Sizes", "PCIe 5.0 §9.3.3.12"),
            line(0x20, 4, "System Page Size", "PCIe 5.0 §9.3.3.13"),
            line(0x24, 4, "VF Base Address 0", "PCIe 5.0 §9.3.3.14"),
            line(0x28, 4, "VF Base Address 1", "PCIe 5.0 §9.3.3.14"),
            line(0x2c, 4, "VF Base Address 2", "PCIe 5.0 §9.3.3.14"),
            line(0x30, 4, "VF Base Address 3", "PCIe 5.0 §9.3.3.14"),
            line(0x34, 4, "VF Base Address 4", "PCIe 5.0 §9.3.3.14"),
            line(0x38, 4, "VF Base Address 5", "PCIe 5.0 §9.3.3.14"),
            line(0x3c, 4, "VF Migration State Array", "PCIe 5.0 §9.3.3.15"),
        ],
    ),
    opaque(0x0011, "mriov"),
    opaque(0x0012, "multicast"),
    locked(
        0x0013,
        "pri",
        Length::Dwords(4),
        &[
            line(4, 2, "Page Request Control", "PCIe 5.0 §10.5.2.2"),
            line(6, 2, "Page Request Status", "PCIe 5.0 §10.5.2.3"),
            line(8, 4, "Outstanding Page Request Capacity", "PCIe 5.0 §10.5.2.4"),
            line(12, 4, "Outstanding Page Request Allocation", "PCIe 5.0 §10.5.2.5"),
        ],
    ),
    opaque(extended_id::RESIZABLE_BAR, "rebar"),
    opaque(0x0016, "dpa"),
    opaque(0x0017, "tph"),
    locked(
        0x0018,
        "ltr",
        Length::Dwords(2),
        &[
            line(4, 2, "Max Snoop Latency", "PCIe 5.0 §7.8.2.2"),
            line(6, 2, "Max No-Snoop Latency", "PCIe 5.0 §7.8.2.3"),
        ],
    ),
    opaque(0x0019, "secondary"),
    locked(
        0x001b,
        "pasid",
        Length::Dwords(2),
        &[line(4, 2, "PASID Capability", "PCIe 5.0 §7.8.9.2"), line(6, 2, "PASID Control", "PCIe 5.0 §7.8.9.3")],
    ),
    opaque(0x001c, "lnr"),
    locked(
        0x001d,
        "dpc",
        Length::ToNext,
        &[
            line(4, 2, "DPC Capability", "PCIe 5.0 §7.9.15.2"),
            line(6, 2, "DPC Control", "PCIe 5.0 §7.9.15.3"),
            line(8, 2, "DPC Status", "PCIe 5.0 §7.9.15.4"),
        ],
    ),
    opaque(0x001e, "l1pm"),
    opaque(0x001f, "ptm"),
    // CXL's are among them: caches and memory of the host.
    opaque(0x0023, "dvsec"),
    opaque(extended_id::VF_RESIZABLE_BAR, "vfrebar"),
    opaque(0x0025, "datalink"),
    opaque(0x0026, "phy16"),
    opaque(0x0027, "margining"),
    opaque(0x002a, "phy32"),
    opaque(0x002e, "doe"),
    opaque(0x0030, "ide"),
];
