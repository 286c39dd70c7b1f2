//! Writes to sysfs that may never return.
//!
//! A write to `reset` waits inside of the kernel, where nothing can interrupt it, and so does whoever reads the function's configuration
//! space meanwhile. So another process writes: the command can end without it, which a thread of its own would not let it. That process holds a
//! lock as its standard input as long as it lives, by which every command, and the broker, knows to keep away from the function.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ::dom0::lock::Lock;
use ::dom0::sysfs::try_take_writer;

use super::pending::Pending;
use crate::host::child::{Late, Running};

/// Time-out of a reset in Linux: it waits a minute for a function to come back (`PCIE_RESET_READY_POLL_MS`), and some time before.
const LIMIT: Duration = Duration::from_secs(90);

/// Begins to write. The end is an error of kind `TimedOut` where it does not come, and `ResourceBusy` where an earlier one has not.
pub(super) fn begin(folder: &Path, path: &Path, text: &'static str) -> Pending {
    begin_within(LIMIT, folder, path, text)
}

fn begin_within(limit: Duration, folder: &Path, path: &Path, text: &'static str) -> Pending {
    let (lock, mut running) = match start(folder, path, text) {
        Ok(started) => started,
        Err(error) => return Pending::new(|| Err(error)),
    };
    Pending::new(move || match running.wait(limit)? {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(Late) => {
            lock.leave();
            Err(io::ErrorKind::TimedOut.into())
        }
    })
}

fn start(folder: &Path, path: &Path, text: &str) -> io::Result<(Lock, Running)> {
    let lock = try_take_writer(folder, path)?.ok_or(io::ErrorKind::ResourceBusy)?;
    let mut command = Command::new("sh");
    command.args(["-c", "printf %s \"$1\" > \"$0\""]).arg(path).arg(text);
    let running = Running::start(&mut command, Stdio::from(lock.file().try_clone()?))?;
    Ok((lock, running))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::TempTree;
    use ::dom0::sysfs::is_under_way;

    #[test]
    fn a_write_that_ends_leaves_nothing_behind() {
        let tree = TempTree::new();
        tree.write("00:05.0/reset", "");
        let path = tree.path().join("00:05.0/reset");
        begin(tree.path(), &path, "1").wait().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1");
        assert!(!tree.path().join("pcidom-reset-00:05.0.lock").exists());
        assert!(!is_under_way(tree.path(), &path));
        let error = begin(tree.path(), &tree.path().join("none/reset"), "1").wait().unwrap_err();
        assert!(error.kind() == io::ErrorKind::Other && !error.to_string().is_empty(), "{error:?}");
    }

    #[test]
    fn a_write_that_does_not_end_is_known_to_everybody_until_it_does() {
        let tree = TempTree::new();
        tree.write("00:05.0/class", "");
        let path = tree.path().join("00:05.0/reset");
        // Who opens it to write waits for somebody to read.
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = begin_within(Duration::from_millis(10), tree.path(), &path, "1").wait().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(is_under_way(tree.path(), &path));
        assert_eq!(begin(tree.path(), &path, "1").wait().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1");
        assert!(!is_under_way(tree.path(), &path));
        assert!(!tree.path().join("pcidom-reset-00:05.0.lock").exists());
    }
}
