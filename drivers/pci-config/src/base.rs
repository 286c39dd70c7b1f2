//! Base address registers and the expansion ROM as a guest sizes them (docs/protocol.md §6.3, PCI Local Bus 3.0 §6.2.5).

use pci_registers::header;
use xen_types::{Resource, ResourceKind};

/// Registers of a header that claim ranges: six base address registers and the expansion ROM.
pub const RESOURCES: usize = 7;

/// A virtual base address register. A guest cannot move anything: it reads either the address or, after it wrote all
/// ones, the size mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BaseRegister {
    /// Address and type bits.
    pub address: u32,
    /// Size as a mask (the address bits that a guest could set on real hardware), and the type bits.
    pub size_mask: u32,
    /// Low bits that need not be ones in a write that asks for the size.
    low_bits: u32,
}

/// A memory register that claims nothing, which reads as zero whatever is written.
const NONE: BaseRegister = BaseRegister { address: 0, size_mask: 0, low_bits: header::MEMORY_FLAGS };

impl BaseRegister {
    /// What the register reads after `value` was written to it.
    pub(crate) const fn after_write(self, value: u32) -> u32 {
        if value | self.low_bits == u32::MAX { self.size_mask } else { self.address }
    }

    /// Whether the guest wrote the address that it has, and the hardware has another one.
    pub(crate) fn is_lost(self, value: u32, real: impl FnOnce() -> u32) -> bool {
        let bits = self.size_mask & !self.low_bits;
        value & bits == self.address & bits && bits != 0 && (real() ^ self.address) & bits != 0
    }

    /// The register, or the lower half of it.
    fn lower(resource: Resource) -> Self {
        let (type_bits, low_bits) = match resource.kind() {
            ResourceKind::Io => (1, header::IO_FLAGS),
            ResourceKind::Mem32 => (0, header::MEMORY_FLAGS),
            ResourceKind::Mem64 => (0b0100, header::MEMORY_FLAGS),
            ResourceKind::Mem32Prefetch => (0b1000, header::MEMORY_FLAGS),
            ResourceKind::Mem64Prefetch => (0b1100, header::MEMORY_FLAGS),
            // The enable bit stays 0 whatever the guest writes: Linux's backend does not let guests enable a ROM either.
            ResourceKind::Rom => (0, header::ROM_FLAGS),
        };
        Self {
            address: low(resource.start()) | type_bits,
            size_mask: low(resource.size().wrapping_neg()) | type_bits,
            low_bits,
        }
    }

    fn upper(resource: Resource) -> Self {
        Self { address: high(resource.start()), size_mask: high(resource.size().wrapping_neg()), low_bits: 0 }
    }
}

/// The registers for a function's resources: six base address registers, then the ROM.
pub(crate) fn registers(resources: &[Option<Resource>; RESOURCES]) -> [BaseRegister; RESOURCES] {
    let mut registers = [NONE; RESOURCES];
    let mut below: Option<Resource> = None;
    for (register, resource) in registers.iter_mut().zip(resources) {
        *register = match (resource, below.filter(|resource| resource.kind().is_64bit())) {
            (Some(resource), _) => BaseRegister::lower(*resource),
            (None, Some(resource)) => BaseRegister::upper(resource),
            (None, None) => NONE,
        };
        below = *resource;
    }
    registers
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn low(value: u64) -> u32 {
    value as u32
}

const fn high(value: u64) -> u32 {
    low(value >> 32)
}
