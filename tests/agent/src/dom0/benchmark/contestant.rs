//! The two backends that are compared, and the commands of each.

use std::process::Command;

use crate::dom0::domain::Domain;

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// Linux's backend in dom0.
    Pciback,
    /// The stub.
    Pcidom,
}

impl Contestant {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pciback => "pciback",
            Self::Pcidom => "pcidom",
        }
    }

    /// The command that gives a device to a running guest.
    pub(super) fn attach(self, guest: &Domain, device: &str) -> Command {
        self.command("pci-attach", "attach", guest, device)
    }

    /// The command that takes it back.
    pub(super) fn detach(self, guest: &Domain, device: &str) -> Command {
        self.command("pci-detach", "detach", guest, device)
    }

    fn command(self, xl: &str, pcidom: &str, guest: &Domain, device: &str) -> Command {
        let (program, verb) = match self {
            Self::Pciback => ("xl", xl),
            Self::Pcidom => ("pcidom", pcidom),
        };
        let mut command = Command::new(program);
        command.args([verb, &guest.name, device]);
        command
    }
}
