//! Nodes of domains that commands have paused.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use crate::{Malformed, ProcessId};

/// Stage of pausing a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseStage {
    /// It is about to be paused.
    Pausing,
    /// It is paused.
    Paused,
}

impl PauseStage {
    /// The word in the node.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pausing => "pausing",
            Self::Paused => "paused",
        }
    }
}

/// The value of [`crate::paths::paused_node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseNote {
    /// The command that pauses the domain.
    pub owner: ProcessId,
    /// How far it has come.
    pub stage: PauseStage,
    /// The domain's processor time by then. It does not pass while the domain is paused: one that has run since was unpaused by another tool.
    pub ran: Duration,
}

impl fmt::Display for PauseNote {
    /// `4711 123456 paused 8000000`, the time in nanoseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.owner, self.stage.name(), self.ran.as_nanos())
    }
}

impl FromStr for PauseNote {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (text, ran) = text.rsplit_once(' ').ok_or(Malformed)?;
        let (owner, stage) = text.rsplit_once(' ').ok_or(Malformed)?;
        let stage = [PauseStage::Pausing, PauseStage::Paused].into_iter().find(|known| known.name() == stage);
        Ok(Self {
            owner: owner.parse()?,
            stage: stage.ok_or(Malformed)?,
            ran: Duration::from_nanos(ran.parse().map_err(|_| Malformed)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_read_back() {
        for (stage, text) in [(PauseStage::Pausing, "12 34 pausing 5000"), (PauseStage::Paused, "12 34 paused 5000")] {
            let owner = ProcessId { pid: 12, started: 34 };
            let note = PauseNote { owner, stage, ran: Duration::from_micros(5) };
            assert_eq!(note.to_string(), text);
            assert_eq!(text.parse(), Ok(note));
        }
        for text in ["", "5", "12 34 paused", "12 34 asleep 1", "12 34 paused -1", "12 34 paused 1 2"] {
            assert_eq!(text.parse::<PauseNote>(), Err(Malformed), "{text:?}");
        }
    }
}
