//! Commands of a request.

use core::fmt;

/// `XEN_PCI_OP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Command {
    /// Read a configuration register.
    ConfRead = 0,
    /// Write a configuration register.
    ConfWrite = 1,
    /// Turn MSI on; the answer's value is the pirq.
    EnableMsi = 2,
    /// Turn MSI off.
    DisableMsi = 3,
    /// Turn MSI-X on for the entries that follow; the answers are pirqs in their `vector`.
    EnableMsix = 4,
    /// Turn MSI-X off.
    DisableMsix = 5,
    /// From the backend: an error was detected.
    AerDetected = 6,
    /// From the backend: recovery is done.
    AerResume = 7,
    /// From the backend: MMIO works again.
    AerMmio = 8,
    /// From the backend: the slot was reset.
    AerSlotReset = 9,
    /// Turn MSI on with several vectors (Xen's header and SUSE's kernels only).
    EnableMultiMsi = 10,
}

impl Command {
    /// Every command, in the order of its numbers.
    pub const ALL: [Self; 11] = [
        Self::ConfRead,
        Self::ConfWrite,
        Self::EnableMsi,
        Self::DisableMsi,
        Self::EnableMsix,
        Self::DisableMsix,
        Self::AerDetected,
        Self::AerResume,
        Self::AerMmio,
        Self::AerSlotReset,
        Self::EnableMultiMsi,
    ];

    /// The command with this number on the wire, `None` where `pciif.h` knows none.
    #[must_use]
    pub fn from_raw(cmd: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(cmd).ok()?).copied()
    }

    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// The header's name without its prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfRead => "conf_read",
            Self::ConfWrite => "conf_write",
            Self::EnableMsi => "enable_msi",
            Self::DisableMsi => "disable_msi",
            Self::EnableMsix => "enable_msix",
            Self::DisableMsix => "disable_msix",
            Self::AerDetected => "aer_detected",
            Self::AerResume => "aer_resume",
            Self::AerMmio => "aer_mmio",
            Self::AerSlotReset => "aer_slotreset",
            Self::EnableMultiMsi => "enable_multi_msi",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
