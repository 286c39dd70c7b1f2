//! Processes: whether one is still there.

use std::fs;

pub use pcidom_abi::ProcessId;

/// Those of this machine.
pub trait Processes {
    /// Whether a process is still there.
    fn runs(&self, owner: ProcessId) -> bool;
}

/// As Linux knows them.
pub struct LinuxProcesses;

impl Processes for LinuxProcesses {
    fn runs(&self, owner: ProcessId) -> bool {
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
        let own = ProcessId { pid, started: started(pid).unwrap() };
        assert!(own.started > 0);
        assert_eq!(own.to_string().parse(), Ok(own));
        assert!(process.runs(own));
        assert!(!process.runs(ProcessId { started: own.started + 1, ..own }));
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
