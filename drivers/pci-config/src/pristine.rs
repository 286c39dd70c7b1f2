//! What a function's writable configuration consists of: the registers that it has to get back after a reset, a wake-up or a guest, in the order in which they
//! are written. The command saves them when a function comes into a pool; the broker has neither this table nor the walk.
//!
//! Not in it:
//! - base address registers, which come from dom0's kernel, and Bus Master, INTx Disable and decoding of Command: the caller that restores sets them,
//! - status registers, and what is written to start something (BIST, VPD Address, function level resets, retraining),
//! - what Xen switches for the IOMMU (ATS, PRI, PASID): it may have changed since,
//! - a vendor's own registers (but for those that `permissive=1` opens), Virtual Channels beyond the first, and Slot Control and DPC, which only ports have.

use alloc::vec::Vec;

use pci_registers::{
    ConfigSpace, EXTENDED_BYTES, Width, command, express, extended_id, header, id, msi, msix, power, sr_iov,
};
use pcidom_abi::{Identity, Pristine, SavedKind, SavedRegister};

use crate::permitted_writes::permitted_writes;
use crate::policy::Policy;
use crate::walk::{Capability, Walk, has_extended_space};

/// A register of a capability: its offset there, its width, the bits that are saved, and those of them that are saved as zeros whatever they are.
type Row = (u16, Width, u32, u32);

const ALL: u32 = u32::MAX;

/// PMCSR: the function may send PMEs (PCI PM 1.2 §3.2.4).
const PME_ENABLE: u16 = 1 << 8;
/// MSI's Message Control: how many vectors are in use, as a power of two (PCI 3.0 §6.8.1.3).
const MULTIPLE_ENABLE: u16 = 7 << 4;
/// PCI-X Command of an endpoint (PCI-X 2.0 §7.2.3).
const PCI_X_COMMAND: u16 = 2;
/// Types of functions that are part of the root complex (PCIe 5.0 §7.5.3.2): an endpoint and an event collector. They have no link.
const ROOT_COMPLEX_ENDPOINT: u16 = 9 << 4;
const EVENT_COLLECTOR: u16 = 10 << 4;
/// Link Control (PCIe 5.0 §7.5.3.7), Root Control (§7.5.3.12), Device Control 2 (§7.5.3.16), Link Control 2 (§7.5.3.19).
const LINK_CONTROL: u16 = 0x10;
const ROOT_CONTROL: u16 = 0x1c;
const DEVICE_CONTROL_2: u16 = 0x28;
const LINK_CONTROL_2: u16 = 0x30;

/// Registers of conventional capabilities. Those of PCI Express come behind the extended ones: error masks are right before errors are reported, latencies
/// before their messages are sent, substates of L1 before L1 (PCIe 5.0 §5.5.4).
static CONVENTIONAL: [(u16, &[Row]); 3] = [
    (
        id::POWER_MANAGEMENT,
        &[(
            power::PMCSR,
            Width::Word,
            (PME_ENABLE | power::DATA_SELECT | power::PME_STATUS) as u32,
            power::PME_STATUS as u32, // a one would clear it
        )],
    ),
    (id::PCI_X, &[(PCI_X_COMMAND, Width::Word, 0x007f, 0)]),
    (
        id::MSI_X,
        &[(msix::CONTROL, Width::Word, (msix::ENABLE | msix::MASK_ALL) as u32, (msix::ENABLE | msix::MASK_ALL) as u32)],
    ),
];

/// Registers of extended capabilities that have as many in every function (PCIe 5.0).
static EXTENDED: [(u16, &[Row]); 14] = [
    (
        // Advanced Error Reporting: masks and severities (§7.8.4.3 to 7.8.4.6), and which checksums are made and checked (§7.8.4.7).
        0x0001,
        &[
            (0x08, Width::Dword, ALL, 0),
            (0x0c, Width::Dword, ALL, 0),
            (0x14, Width::Dword, ALL, 0),
            (0x18, Width::Dword, 0x0540, 0),
        ],
    ),
    // Virtual Channel, twice: arbitration and the traffic classes of the first one (§7.9.1.4, §7.9.1.8).
    (0x0002, &[(0x0c, Width::Word, 0x000e, 0), (0x14, Width::Dword, 0x000e_00ff, 0)]),
    (0x0009, &[(0x0c, Width::Word, 0x000e, 0), (0x14, Width::Dword, 0x000e_00ff, 0)]),
    // Power Budgeting, Data Select (§7.8.1.2).
    (0x0004, &[(0x04, Width::Byte, 0xff, 0)]),
    // Access Control Services (§7.7.8.3).
    (extended_id::ACS, &[(0x06, Width::Word, 0xffff, 0)]),
    // Alternative Routing-ID Interpretation (§7.8.8.3).
    (0x000e, &[(0x06, Width::Word, 0x0073, 0)]),
    (
        // NumVFs, page size and addresses while there are no virtual functions, and at last what they are made of (§9.3.3).
        extended_id::SR_IOV,
        &[
            (0x10, Width::Word, 0xffff, 0),
            (0x20, Width::Dword, ALL, 0),
            (0x24, Width::Dword, ALL, 0),
            (0x28, Width::Dword, ALL, 0),
            (0x2c, Width::Dword, ALL, 0),
            (0x30, Width::Dword, ALL, 0),
            (0x34, Width::Dword, ALL, 0),
            (0x38, Width::Dword, ALL, 0),
            (sr_iov::CONTROL, Width::Word, 0x003e, 0),
        ],
    ),
    (
        // Multicast: addresses and groups, then whether it is on (§7.9.11).
        0x0012,
        &[
            (0x08, Width::Dword, ALL, 0),
            (0x0c, Width::Dword, ALL, 0),
            (0x10, Width::Dword, ALL, 0),
            (0x14, Width::Dword, ALL, 0),
            (0x18, Width::Dword, ALL, 0),
            (0x1c, Width::Dword, ALL, 0),
            (0x20, Width::Dword, ALL, 0),
            (0x24, Width::Dword, ALL, 0),
            (0x06, Width::Word, 0x803f, 0),
        ],
    ),
    // Dynamic Power Allocation (§7.9.12.5).
    (0x0016, &[(0x0e, Width::Word, 0x001f, 0)]),
    // TLP Processing Hints (§7.9.13.3).
    (0x0017, &[(0x08, Width::Dword, 0x0307, 0)]),
    // Latency Tolerance Reporting (§7.8.2).
    (0x0018, &[(0x04, Width::Word, 0x1fff, 0), (0x06, Width::Word, 0x1fff, 0)]),
    // L1 PM Substates: thresholds before what is on (§7.8.3.3, §7.8.3.4).
    (0x001e, &[(0x0c, Width::Dword, 0x00fb, 0), (0x08, Width::Dword, 0xe3ff_ff1f, 0)]),
    // Precision Time Measurement (§7.9.16.3).
    (0x001f, &[(0x08, Width::Dword, 0xff03, 0)]),
    // Data Link Feature (§7.7.4.2).
    (0x0025, &[(0x04, Width::Dword, 0x8000_0000, 0)]),
];

/// Resizable BAR: where the first control register is, how far they are apart, which bits of the first say how many there are, and which bits are the size
/// (PCIe 5.0 §7.8.6.3).
const SIZE_CONTROL: u16 = 8;
const SIZE_STEP: u16 = 8;
const SIZE_COUNT: u32 = 7 << 5;
const SIZE: u32 = 0x3f00;

/// Registers of the header. Command comes last of all.
const HEADER: [Row; 3] = [
    (header::CACHE_LINE_SIZE, Width::Byte, 0xff, 0),
    (header::LATENCY_TIMER, Width::Byte, 0xff, 0),
    (header::INTERRUPT_LINE, Width::Byte, 0xff, 0),
];

/// Command without the bits that the caller that restores it sets.
const COMMAND: u32 =
    0x07ff & !(command::IO_DECODE | command::MEMORY_DECODE | command::BUS_MASTER | command::INTX_DISABLE) as u32;

/// Saves the configuration of a function that works. Which port is above it nothing in it says: [`Pristine::payload`] is `None`.
#[must_use]
pub fn save_pristine(hw: &impl ConfigSpace) -> Pristine {
    let identity = Identity {
        ids: hw.read_config(header::VENDOR_ID, Width::Dword),
        class: hw.read_config(header::REVISION_ID, Width::Dword),
    };
    let conventional: Vec<Capability> = Walk::conventional(hw).collect();
    let extended: Vec<Capability> =
        if has_extended_space(hw, conventional.iter().copied()) { Walk::extended(hw).collect() } else { Vec::new() };
    let headers = conventional.iter().chain(&extended).map(|capability| capability.offset).collect();
    let mut save = Save { hw, headers, registers: Vec::new() };
    for capability in &extended {
        if matches!(capability.id, extended_id::RESIZABLE_BAR | extended_id::VF_RESIZABLE_BAR) {
            save.sizes(capability.offset);
        }
    }
    for capability in &conventional {
        save.rows(SavedKind::Plain, capability.offset, rows_of(&CONVENTIONAL, capability));
        if capability.id == id::MSI {
            save.msi(capability);
        }
    }
    for capability in &extended {
        save.rows(SavedKind::Plain, capability.offset, rows_of(&EXTENDED, capability));
    }
    for capability in conventional.iter().filter(|capability| capability.id == id::PCI_EXPRESS) {
        save.express(capability);
    }
    save.rows(SavedKind::Plain, 0, &HEADER);
    save.open();
    save.rows(SavedKind::Plain, header::COMMAND, &[(0, Width::Word, COMMAND, 0)]);
    Pristine { identity, payload: None, registers: save.registers }
}

/// The registers of a capability by a table; none where it has no row.
fn rows_of(table: &'static [(u16, &[Row])], capability: &Capability) -> &'static [Row] {
    table.iter().find(|(id, _)| *id == capability.id).map_or(&[], |(_, rows)| rows)
}

struct Save<'a, H> {
    hw: &'a H,
    /// Where capabilities begin.
    headers: Vec<u16>,
    registers: Vec<SavedRegister>,
}

impl<H: ConfigSpace> Save<'_, H> {
    fn rows(&mut self, kind: SavedKind, at: u16, rows: &[Row]) {
        for (offset, width, mask, zeros) in rows.iter().copied() {
            let offset = at + offset;
            let is_anothers = |other: &u16| *other != at && *other / 4 == offset / 4;
            let bits = mask << (8 * u32::from(offset % 4));
            // Capabilities that end behind the space, or overlap, which those of a sound device do not.
            if offset >= EXTENDED_BYTES || self.headers.iter().any(is_anothers) || self.saved_bits(offset) & bits != 0 {
                continue;
            }
            let value = self.hw.read_config(offset, width) & mask & !zeros;
            self.registers.push(SavedRegister { kind, offset, width, mask, value });
        }
    }

    /// The bits of this dword that are saved already.
    fn saved_bits(&self, offset: u16) -> u32 {
        let known = self.registers.iter().filter(|known| known.offset / 4 == offset / 4);
        known.fold(0, |bits, known| bits | known.mask << (8 * u32::from(known.offset % 4)))
    }

    fn sizes(&mut self, at: u16) {
        let count = (self.hw.read_config(at + SIZE_CONTROL, Width::Dword) & SIZE_COUNT) >> 5;
        for (offset, _) in (at + SIZE_CONTROL..).step_by(SIZE_STEP.into()).zip(0..count) {
            self.rows(SavedKind::Size, offset, &[(0, Width::Dword, SIZE, 0)]);
        }
    }

    /// Off, and the message as it was: a guest's own message means nothing after it.
    fn msi(&mut self, capability: &Capability) {
        let control = capability.control();
        let bits = u32::from(msi::ENABLE | MULTIPLE_ENABLE);
        self.rows(SavedKind::Plain, capability.offset, &[(msi::CONTROL, Width::Word, bits, msi::ENABLE.into())]);
        let data = if control & msi::HAS_64_BITS != 0 { msi::ADDRESS + 8 } else { msi::ADDRESS + 4 };
        for offset in (msi::ADDRESS..data).step_by(4) {
            self.rows(SavedKind::Plain, capability.offset, &[(offset, Width::Dword, ALL, 0)]);
        }
        self.rows(SavedKind::Plain, capability.offset, &[(data, Width::Word, 0xffff, 0)]);
        if control & msi::HAS_MASKS != 0 {
            self.rows(SavedKind::Plain, capability.offset, &[(data + 4, Width::Dword, ALL, 0)]);
        }
    }

    /// Control registers as far as the function has them: one in the root complex has no link, and the first version ends with its link.
    fn express(&mut self, capability: &Capability) {
        let kind = capability.control() & express::TYPE;
        let has_link = !matches!(kind, ROOT_COMPLEX_ENDPOINT | EVENT_COLLECTOR);
        let is_second = capability.control() & express::VERSION >= 2;
        // Not the function level reset.
        let mut rows: Vec<Row> = [(express::DEVICE_CONTROL, Width::Word, 0x7fff, 0)].to_vec();
        if is_second {
            rows.push((DEVICE_CONTROL_2, Width::Word, 0xffff, 0));
        }
        if kind == EVENT_COLLECTOR {
            rows.push((ROOT_CONTROL, Width::Word, 0x001f, 0));
        }
        if has_link && is_second {
            rows.push((LINK_CONTROL_2, Width::Word, 0xffff, 0));
        }
        if has_link {
            // L1 last. Link Disable and Retrain Link are a port's.
            rows.push((LINK_CONTROL, Width::Word, 0x03cb, 0));
        }
        self.rows(SavedKind::Plain, capability.offset, &rows);
    }

    /// What `permissive=1` opens and is in none of the registers above.
    fn open(&mut self) {
        let mut permissive = Policy::default();
        permissive.permissive = true;
        for range in permitted_writes(self.hw, &permissive).ranges {
            let mask = range.mask & !range.zeros;
            for (offset, _) in (range.offset..).step_by(4).zip(0..range.dwords) {
                let left = mask & !self.saved_bits(offset);
                if left != 0 {
                    self.rows(SavedKind::Open, offset, &[(0, Width::Dword, left, 0)]);
                }
            }
        }
    }
}
