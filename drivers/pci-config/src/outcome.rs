//! Result of a write: what the hardware gets, or why it is refused.

use core::fmt;

use pci_registers::{Width, command, header};
use thiserror::Error;

use crate::access::BadAccess;

/// A register of the hardware that a guest may have written under the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Command: bus master, memory-write-and-invalidate and INTx disable; decode is never touched.
    Command,
    /// Cache Line Size.
    CacheLineSize,
    /// BIST: start of the self-test.
    Bist,
    /// Power management control/status: D-state, data select, PME status.
    PowerState,
    /// VPD address: a read of vital product data.
    VpdAddress,
    /// MSI or MSI-X control, where the guest's device model has the interrupts (`interrupt-control=1`).
    InterruptControl,
    /// The register that starts a function level reset: nothing else of it.
    Reset,
    /// None of these: the broker knows whether the device's own policy opens it.
    Open,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "Command",
            Self::CacheLineSize => "Cache Line Size",
            Self::Bist => "BIST",
            Self::PowerState => "power state",
            Self::VpdAddress => "VPD address",
            Self::InterruptControl => "interrupt control",
            Self::Reset => "function level reset",
            Self::Open => "a register that the policy opens",
        })
    }
}

/// A write that passed the policy and that only the hardware can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareWrite {
    /// Which register.
    pub register: Register,
    /// Where it is, in bytes.
    pub offset: u16,
    /// How wide the whole register is; a narrower write would not do, a wider one would touch neighbours.
    pub width: Width,
    /// The bits of the register that shall change, or be written with ones where a one clears. No others.
    pub mask: u32,
    /// Their new value; zero outside the mask.
    pub value: u32,
}

impl HardwareWrite {
    /// Bus mastering off.
    #[must_use]
    pub const fn bus_master_off() -> Self {
        let mask = command::BUS_MASTER as u32;
        Self { register: Register::Command, offset: header::COMMAND, width: Width::Word, mask, value: 0 }
    }
}

/// What a write left to be done or told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WriteOutcome {
    pub(crate) hardware: [Option<HardwareWrite>; 2],
    /// True where the write reached no register that a guest has to write, and did nothing.
    pub is_dropped: bool,
    /// True where the guest wrote an address as it is, and the hardware has another one: it was reset.
    pub has_lost_address: bool,
}

impl WriteOutcome {
    /// The hardware writes that the policy allows, in order; most writes have none. Carrying them out is the caller's part.
    pub fn hardware(&self) -> impl Iterator<Item = &HardwareWrite> {
        self.hardware.iter().flatten()
    }

    pub(crate) fn push(&mut self, write: HardwareWrite) {
        // No dword has more than two such registers, which a test over all rules checks.
        if let Some(free) = self.hardware.iter_mut().find(|place| place.is_none()) {
            *free = Some(write);
        }
    }
}

/// A register that a guest may never write so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// Enable or mask bits of MSI or MSI-X. Linux guests try that around every `enable_msix` and do not mind; not worth a
    /// line in the log. With `interrupt-control=1`: two kinds of interrupts at once.
    #[error("interrupt control is not the guest's to change")]
    InterruptControl,
    /// Writing vital product data, which would outlive the guest.
    #[error("vital product data is not written")]
    VpdWrite,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// No register there.
    #[error(transparent)]
    Access(#[from] BadAccess),
    /// The policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
}
