//! Phases of a device between the pool and a guest.

use core::fmt;
use core::str::FromStr;

use crate::Malformed;

/// The value of [`crate::DeviceNode::Phase`]: what the next command must finish or undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// With the stub, assigned to no guest.
    Pool,
    /// On its way to a guest: a command is at work, or was killed.
    Attaching,
    /// A guest has it.
    Attached,
    /// On its way back.
    Detaching,
    /// Taken from a guest that still has something of it, mappings or interrupts: no guest gets it (`docs/audit.md`).
    Leaked,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 5] = [Self::Pool, Self::Attaching, Self::Attached, Self::Detaching, Self::Leaked];

    /// The word in the node.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Leaked => "leaked",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|phase| phase.name() == text).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_reads_back() {
        for phase in Phase::ALL {
            assert_eq!(phase.to_string().parse(), Ok(phase));
        }
        for text in ["", "Pool", "pool ", "held"] {
            assert_eq!(text.parse::<Phase>(), Err(Malformed), "{text:?}");
        }
    }
}
