//! Processes: whether one is still there.

use std::fmt::{Display, Formatter};
use std::fs;

/// A process, known by its number and by when it began: numbers come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// In ticks since the kernel's start (`proc_pid_stat(5)`, field 22).
    pub started: u64,
}

impl Owner {
    /// The other way round than [`Display`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }
}

impl Display for Owner {
    /// `4711 123456`.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

/// Those of this machine.
pub trait Processes {
    /// Whether a process is still there.
    fn runs(&self, owner: Owner) -> bool;
}

/// As Linux knows them.
pub struct LinuxProcesses;

impl Processes for LinuxProcesses {
    fn runs(&self, owner: Owner) -> bool {
        started(owner.pid) == Some(owner.started)
    }
}

/// When a process began; `None` when there is none, or only its remains, which nobody has waited for.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE …`: the name may have blanks and parentheses of its own. The time is field 22, the state field 3.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_beginning() {
        let (process, pid) = (LinuxProcesses, std::process::id());
        let own = Owner { pid, started: started(pid).unwrap() };
        assert!(own.started > 0);
        assert_eq!(Owner::parse(&own.to_string()), Some(own));
        assert!(process.runs(own));
        assert!(!process.runs(Owner { started: own.started + 1, ..own }));
        for text in ["", "7", "7 x", "x 7", "-1 7"] {
            assert_eq!(Owner::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_process_that_ended_does_not_run_though_nobody_has_waited_for_it() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // Its remains stay until `wait` below.
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_name_may_hold_anything() {
        let rest = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8517 2 3";
        assert_eq!(parse_stat(&format!("12 (a b) (c)) S {rest}")), Some(8517));
        assert_eq!(parse_stat(&format!("12 (x) Z {rest}")), None);
        assert_eq!(parse_stat("12 (x) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }
}
