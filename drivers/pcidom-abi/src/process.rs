//! Nodes of running commands.

use core::fmt;
use core::str::FromStr;

use crate::Malformed;

/// A process of dom0, known by its number and by when it began: numbers come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// The name of its node below [`crate::paths::COMMANDS`].
    pub pid: u32,
    /// The value of that node: ticks since the kernel's start (`proc_pid_stat(5)`, field 22).
    pub started: u64,
}

impl fmt::Display for ProcessId {
    /// `4711 123456`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

impl FromStr for ProcessId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (pid, started) = text.split_once(' ').ok_or(Malformed)?;
        Ok(Self { pid: pid.parse().map_err(|_| Malformed)?, started: started.parse().map_err(|_| Malformed)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_read_back() {
        let owner = ProcessId { pid: 4711, started: 123_456 };
        assert_eq!(owner.to_string(), "4711 123456");
        assert_eq!("4711 123456".parse(), Ok(owner));
        for text in ["", "5", "5 ", "5 x", "-5 1", "5 1 1"] {
            assert_eq!(text.parse::<ProcessId>(), Err(Malformed), "{text:?}");
        }
    }
}
