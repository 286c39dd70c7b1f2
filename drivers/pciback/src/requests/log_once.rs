//! Log messages about a guest's requests, each issued once per function.

use core::fmt;

use xen_types::Errno;

use crate::config::Register;

/// Something about a request that belongs in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogOnce {
    /// A write went to a register that no guest has to write, and was dropped. A driver that needs it does not work.
    DroppedWrite,
    /// A write passed the policy but needs the hardware, and there is no broker to write it.
    NoBroker(Register),
    /// A write passed our policy and not the broker's, or the register could not be written.
    WriteRefused(Register),
    /// The guest tried to write vital product data.
    VpdWrite,
    /// The guest wants MSI or MSI-X, and no broker is there to set it up.
    NoInterrupts,
    /// The guest wants MSI or MSI-X where it cannot be: it is on already, the function has none, no such entries.
    BadInterrupts,
    /// The broker could not set up interrupts.
    InterruptsRefused(Errno),
    /// The guest has used up its pirqs.
    OutOfInterrupts,
    /// A command that we do not know.
    UnknownCommand,
    /// The guest wrote an address that the device has lost, and the broker did not write it back.
    NotRestored,
}

impl LogOnce {
    /// A bit of its own for each reason; one for each register that could not be written.
    const fn bit(self) -> u16 {
        1 << match self {
            Self::DroppedWrite => 0,
            Self::VpdWrite => 1,
            Self::NoInterrupts => 2,
            Self::UnknownCommand => 3,
            Self::BadInterrupts => 4,
            Self::InterruptsRefused(_) => 5,
            Self::OutOfInterrupts => 6,
            Self::NotRestored => 15,
            Self::NoBroker(register) | Self::WriteRefused(register) => 7 + register as u16,
        }
    }
}

impl fmt::Display for LogOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DroppedWrite => f.write_str("dropped: not a register that guests write"),
            Self::NoBroker(register) => write!(f, "refused: no broker to write {register}"),
            Self::WriteRefused(register) => write!(f, "the broker did not write {register}"),
            Self::VpdWrite => f.write_str("refused: vital product data is not written"),
            Self::NoInterrupts => f.write_str("refused: no broker to set up interrupts"),
            Self::BadInterrupts => f.write_str("refused: not while the other kind is on, or no such vectors"),
            Self::InterruptsRefused(errno) => write!(f, "the broker could not set up interrupts: {errno}"),
            Self::OutOfInterrupts => {
                f.write_str("the guest is out of interrupts: raise extra_guest_irqs= on Xen's command line")
            }
            Self::UnknownCommand => f.write_str("refused: unknown command"),
            Self::NotRestored => f.write_str("the broker did not write back what the device has lost"),
        }
    }
}

/// Which notices a function has issued since it was assigned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noticed(u16);

impl Noticed {
    /// None.
    pub(crate) const NONE: Self = Self(0);

    /// True the first time it is asked about this notice.
    #[must_use]
    pub(crate) fn is_news(&mut self, notice: LogOnce) -> bool {
        let is_news = self.0 & notice.bit() == 0;
        self.0 |= notice.bit();
        is_news
    }
}
