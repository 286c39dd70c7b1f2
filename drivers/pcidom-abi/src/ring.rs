//! The requests on the page between stub and broker (`docs/broker.md`): the layout of `pciif` with real addresses, a few commands of our own,
//! and the word `info` in the answer. The stub plays the frontend on this page and the broker the backend.

use core::fmt;

use pciif::Command;

/// Requests of a stub to the broker. The numbers that `pciif.h` knows mean the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum BrokerCommand {
    /// Write the bits in `info` of the register at `offset`.
    ConfWrite = Command::ConfWrite.raw(),
    /// Map one vector and turn MSI on; the answer's value is the pirq.
    EnableMsi = Command::EnableMsi.raw(),
    /// Turn MSI off and unmap.
    DisableMsi = Command::DisableMsi.raw(),
    /// Map the entries that follow and turn MSI-X on; the answers are pirqs in their `vector`.
    EnableMsix = Command::EnableMsix.raw(),
    /// Turn MSI-X off and unmap.
    DisableMsix = Command::DisableMsix.raw(),
    /// Map as many vectors as `info` says and turn MSI on; the answer's value is the first of consecutive pirqs.
    EnableMultiMsi = Command::EnableMultiMsi.raw(),
    /// Bring the device into the state in which attach gave it to the guest.
    Quiesce = 0x100,
    /// Tell what the device can and has.
    Query = 0x101,
    /// Write back what the device had when it came into its pool, its addresses and its guest's vectors: it was reset, or did not answer for a while.
    Restore = 0x102,
}

impl BrokerCommand {
    /// Every command.
    pub const ALL: [Self; 9] = [
        Self::ConfWrite,
        Self::EnableMsi,
        Self::DisableMsi,
        Self::EnableMsix,
        Self::DisableMsix,
        Self::EnableMultiMsi,
        Self::Quiesce,
        Self::Query,
        Self::Restore,
    ];

    /// The command with this number on the wire.
    #[must_use]
    pub fn from_raw(cmd: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.raw() == cmd)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// The word for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfWrite => Command::ConfWrite.name(),
            Self::EnableMsi => Command::EnableMsi.name(),
            Self::DisableMsi => Command::DisableMsi.name(),
            Self::EnableMsix => Command::EnableMsix.name(),
            Self::DisableMsix => Command::DisableMsix.name(),
            Self::EnableMultiMsi => Command::EnableMultiMsi.name(),
            Self::Quiesce => "quiesce",
            Self::Query => "query",
            Self::Restore => "restore",
        }
    }
}

impl fmt::Display for BrokerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

bitflags::bitflags! {
    /// Capabilities of a device, as [`BrokerCommand::Query`] answers in `value`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// It has the MSI capability.
        const MSI = 1 << 0;
        /// It has the MSI-X capability.
        const MSIX = 1 << 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_keep_their_numbers() {
        for command in BrokerCommand::ALL {
            assert_eq!(BrokerCommand::from_raw(command.raw()), Some(command));
            if let Some(guests) = Command::from_raw(command.raw()) {
                assert_eq!(command.name(), guests.name());
            }
        }
        let own = [BrokerCommand::Quiesce, BrokerCommand::Query, BrokerCommand::Restore].map(BrokerCommand::raw);
        assert_eq!(own, [0x100, 0x101, 0x102]);
        for unknown in [Command::ConfRead.raw(), Command::AerDetected.raw(), 0x103, u32::MAX] {
            assert_eq!(BrokerCommand::from_raw(unknown), None);
        }
    }
}
