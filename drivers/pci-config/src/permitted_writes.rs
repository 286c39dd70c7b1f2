//! The table as the broker has it: what may be written to one device, compiled by the command when the device is attached. The broker has
//! neither the table nor the walk through the capabilities, and the guest no hand in this list: it is made before the guest has the device.

use alloc::vec::Vec;
use core::ops::Range;

use pci_registers::{ConfigSpace, Width, advanced_features, bist, express, header, id, msi, msix, power, vpd};
use pcidom_abi::{Capabilities, Identity, Msi, Msix, PermittedRange, PermittedWrite, PermittedWrites, WriteKind};

use crate::layout::Layout;
use crate::packed::Line;
use crate::policy::Policy;
use crate::register::{COMMAND_DEVICE, MAX_ENTRIES, Write};
use crate::walk::Capability;
use crate::writable_mask::{WritableMask, interrupt_registers, message_registers};

/// Dwords of the space in which single registers are permitted: the header and conventional capabilities.
const CONVENTIONAL_DWORDS: u16 = 64;

impl Write {
    /// What the broker has to mind about such a register; `None` where no write of it ever reaches the device.
    const fn kind(self) -> Option<WriteKind> {
        match self {
            Self::Command => Some(WriteKind::Command),
            Self::CacheLineSize => Some(WriteKind::Plain),
            Self::Bist => Some(WriteKind::Bist),
            Self::PowerState => Some(WriteKind::PowerState),
            Self::VpdAddress => Some(WriteKind::VpdAddress),
            Self::MsiControl | Self::MsixControl => Some(WriteKind::InterruptControl),
            Self::DeviceControl | Self::FeaturesControl => Some(WriteKind::Reset),
            Self::Drop | Self::DropStatus | Self::Ignore | Self::Base => None,
        }
    }

    /// The bits that the stub names in a request, where the device is `is_permissive` or not.
    const fn request_bits(self, is_permissive: bool) -> u32 {
        match self {
            Self::Command if is_permissive => self.device_bits() | COMMAND_DEVICE,
            // All of the register, as it starts a transfer: the bit that would make it a write is always named, as zero.
            Self::VpdAddress => self.device_bits() | vpd::WRITE as u32,
            Self::MsiControl | Self::MsixControl => self.interrupt_bits(),
            _ => self.device_bits(),
        }
    }

    /// The bits that must be written as zeros where they are not to change.
    const fn zeros(self) -> u32 {
        match self {
            Self::PowerState => power::PME_STATUS as u32,
            Self::VpdAddress => vpd::WRITE as u32, // "a read is done" would be taken for "write"
            _ => 0,
        }
    }
}

/// What may be written to a function for a guest that has it with this policy. Of a kind of capability that is there more than once,
/// the first is used and written, no other.
#[must_use]
pub fn permitted_writes(hw: &impl ConfigSpace, policy: &Policy) -> PermittedWrites {
    let (layout, all, _) = Layout::read_from(hw, policy.policy_flags());
    let interrupts: Vec<Range<u16>> = all.iter().filter_map(interrupt_registers).collect();
    let messages: Vec<Range<u16>> = all.iter().filter_map(message_registers).collect();
    // A guest that writes the messages of another function can send its interrupts. Capabilities of a sound device do not overlap.
    let owners = |all: &[Range<u16>], offset: u16, bytes: u16| {
        all.iter().filter(|registers| offset < registers.end && offset + bytes > registers.start).count()
    };
    let has_test = hw.read_config(header::BIST, Width::Byte) & u32::from(bist::CAPABLE) != 0;
    let first = |id| all.iter().find(|capability| capability.id == id).map(|capability| capability.offset);
    let resets = [
        first(id::PCI_EXPRESS)
            .filter(|at| {
                policy.express_reset
                    && express::has_reset(hw.read_config(at + express::DEVICE_CAPABILITIES, Width::Dword))
            })
            .map(|at| at + express::DEVICE_CONTROL),
        first(id::ADVANCED_FEATURES)
            .filter(|at| policy.features_reset && advanced_features::has_reset(hw.read_config(*at, Width::Dword)))
            .map(|at| at + advanced_features::CONTROL),
    ];
    let is_first = |write: &PermittedWrite| match write.kind {
        WriteKind::PowerState => first(id::POWER_MANAGEMENT).is_some_and(|at| write.offset == at + power::PMCSR),
        WriteKind::VpdAddress => first(id::VPD).is_some_and(|at| write.offset == at + vpd::ADDRESS),
        WriteKind::InterruptControl => [(id::MSI, msi::CONTROL), (id::MSI_X, msix::CONTROL)]
            .into_iter()
            .any(|(id, control)| first(id).is_some_and(|at| write.offset == at + control)),
        WriteKind::Reset => resets.contains(&Some(write.offset)),
        _ => true,
    };
    let mut registers = Vec::new();
    for dword in 0..CONVENTIONAL_DWORDS {
        for line in layout.lines(dword.into()) {
            let write = register(line, dword, policy.permissive);
            registers.extend(write.filter(|write| {
                let is_allowed = match write.kind {
                    WriteKind::InterruptControl => {
                        policy.interrupt_control && owners(&messages, write.offset, write.width as u16) == 1
                    }
                    _ => owners(&interrupts, write.offset, write.width as u16) == 0,
                };
                is_allowed && is_first(write) && (write.kind != WriteKind::Bist || has_test)
            }));
        }
    }
    let identity = Identity {
        ids: hw.read_config(header::VENDOR_ID, Width::Dword),
        class: hw.read_config(header::REVISION_ID, Width::Dword),
    };
    let capabilities = capabilities(&all, policy, hw);
    let mut list = PermittedWrites { identity, capabilities, registers, ranges: Vec::new() };
    list.capabilities.power = list.capabilities.power.filter(|at| owners(&interrupts, at + power::PMCSR, 2) == 0);
    if policy.policy_flags().passes_on() {
        open(&mut list, policy, &WritableMask::new(hw, policy));
    }
    list
}

fn register(line: &Line, dword: u16, is_permissive: bool) -> Option<PermittedWrite> {
    Some(PermittedWrite {
        kind: line.write.kind()?,
        offset: dword * 4 + u16::from(line.at % 4),
        width: Width::from_bytes(line.bytes.into())?,
        mask: line.write.request_bits(is_permissive),
        zeros: line.write.zeros(),
    })
}

fn capabilities(all: &[Capability], policy: &Policy, hw: &impl ConfigSpace) -> Capabilities {
    let first = |id| all.iter().find(|capability| capability.id == id);
    let is_shown = |capability: &Capability| !policy.hidden.contains(false, capability.id);
    Capabilities {
        power: first(id::POWER_MANAGEMENT).map(|capability| capability.offset),
        msi: first(id::MSI).map(|capability| Msi {
            at: capability.offset,
            vectors: if is_shown(capability) { msi::vectors(capability.control()) } else { 0 },
        }),
        msix: first(id::MSI_X).map(|capability| Msix {
            at: capability.offset,
            entries: if is_shown(capability) { msix::entries(capability.control()).min(MAX_ENTRIES) } else { 0 },
            bar: table_bar(hw, capability.offset),
        }),
        sr_iov: None,
    }
}

/// The number of the BAR with the MSI-X table. One that is not there (a capability at the very end of the space) is a reserved number.
fn table_bar(hw: &impl ConfigSpace, at: u16) -> u8 {
    let [low, ..] = (hw.read_config(at + msix::TABLE, Width::Dword) & msix::BAR).to_le_bytes();
    low
}

/// Adds what the admin has opened.
fn open(list: &mut PermittedWrites, policy: &Policy, writable: &WritableMask) {
    if !policy.permissive {
        for quirk in policy.quirks() {
            let (open, shift) = (writable.open(usize::from(quirk.offset() / 4)), 8 * (quirk.offset() % 4));
            let mask = quirk.mask() & open.bits >> shift;
            if mask != 0 {
                let (offset, width) = (quirk.offset(), quirk.width());
                let zeros = open.ones_clear >> shift & width.bits();
                list.registers.push(PermittedWrite { kind: WriteKind::Open, offset, width, mask, zeros });
            }
        }
        return;
    }
    for (dword, offset) in (0..WritableMask::DWORDS).zip((0u16..).step_by(4)) {
        let open = writable.open(dword);
        match list.ranges.last_mut() {
            _ if open.bits == 0 => {}
            Some(last)
                if last.offset + last.dwords * 4 == offset
                    && (last.mask, last.zeros) == (open.bits, open.ones_clear) =>
            {
                last.dwords += 1;
            }
            _ => list.ranges.push(PermittedRange { offset, dwords: 1, mask: open.bits, zeros: open.ones_clear }),
        }
    }
}
