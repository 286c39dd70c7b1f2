//! The commands that are at work, each noted in `/tool/pcidom/command/PID` with the time at which it began. One whose process is gone has
//! left something: the broker sees that, and has it put right at once instead of when the next command comes.

use std::time::Duration;

use dom0::process::{ProcessId, Processes};
use dom0::{Dom0, Error};
use pcidom_abi::paths;
use xenstore::path;

/// Polling interval of the broker while a command runs: there is no event when another process ends.
pub(crate) const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Commands that are running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Nobody.
    None,
    /// All noted ones are running.
    AtWork,
    /// One was killed.
    Died,
}

impl Commands {
    /// Looks.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn look(host: &Dom0, processes: &dyn Processes) -> Result<Self, Error> {
        let noted = noted(host)?;
        Ok(match noted.iter().all(|owner| processes.runs(*owner)) {
            _ if noted.is_empty() => Self::None,
            true => Self::AtWork,
            false => Self::Died,
        })
    }
}

/// The processes that are noted. Nonsense stands for nobody who runs.
///
/// # Errors
/// Xenstore's.
pub fn noted(host: &Dom0) -> Result<Vec<ProcessId>, Error> {
    let names = host.list(paths::COMMANDS)?;
    let nodes: Vec<String> = names.iter().map(|name| path::child(paths::COMMANDS, name)).collect();
    let owners = names.iter().zip(host.read_all(&nodes)?).filter_map(|(name, started)| {
        // One that is gone has ended just now.
        Some(ProcessId { pid: name.parse().ok()?, started: started?.parse().unwrap_or(0) })
    });
    Ok(owners.collect())
}
