//! What people should know about a guest's requests, once each.

use core::fmt;

use crate::config::Register;

/// Something about a request that belongs in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A write went to a register that no guest has to write, and was dropped. A driver that needs it does not work.
    DroppedWrite,
    /// A write passed the policy but needs the hardware, and there is no broker to write it.
    NoBroker(Register),
    /// The guest tried to write vital product data.
    VpdWrite,
    /// The guest wants MSI or MSI-X, which nobody is there to set up.
    NoInterrupts,
    /// A command that we do not know.
    UnknownCommand,
}

impl Notice {
    /// A bit of its own for each reason; one for each register of [`Notice::NoBroker`].
    const fn bit(self) -> u16 {
        1 << match self {
            Self::DroppedWrite => 0,
            Self::VpdWrite => 1,
            Self::NoInterrupts => 2,
            Self::UnknownCommand => 3,
            Self::NoBroker(Register::Command) => 4,
            Self::NoBroker(Register::CacheLineSize) => 5,
            Self::NoBroker(Register::Bist) => 6,
            Self::NoBroker(Register::PowerState) => 7,
            Self::NoBroker(Register::VpdAddress) => 8,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DroppedWrite => f.write_str("dropped: not a register that guests write"),
            Self::NoBroker(register) => write!(f, "refused: no broker to write {register}"),
            Self::VpdWrite => f.write_str("refused: vital product data is not written"),
            Self::NoInterrupts => f.write_str("refused: no broker to set up interrupts"),
            Self::UnknownCommand => f.write_str("refused: unknown command"),
        }
    }
}

/// Which notices a function has issued since it was lent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noticed(u16);

impl Noticed {
    /// True the first time it is asked about this notice.
    #[must_use]
    pub fn is_news(&mut self, notice: Notice) -> bool {
        let is_news = self.0 & notice.bit() == 0;
        self.0 |= notice.bit();
        is_news
    }
}
