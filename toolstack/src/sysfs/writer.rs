//! Writes to sysfs that may never return.
//!
//! A write to `reset` waits inside of the kernel, where nothing can interrupt it, and so does whoever reads the function's configuration
//! space meanwhile. So another process writes: the command can end without it, which a thread of its own would not let it. That process holds a
//! lock as its standard input as long as it lives, by which every command, and the broker, knows to keep away from the function.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;

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
        Ok(output) => Err(error_of(String::from_utf8_lossy(&output.stderr).trim())),
        Err(Late) => {
            lock.leave();
            Err(io::ErrorKind::TimedOut.into())
        }
    })
}

/// What the kernel said, by the last words of the program that wrote: those that it answers where a method is not there, or cannot be used now.
fn error_of(text: &str) -> io::Error {
    let known = [Errno::NOTTY, Errno::AGAIN].map(io::Error::from).into_iter().find(|error| {
        let words = error.to_string();
        words.split(" (os error").next().is_some_and(|words| text.ends_with(words))
    });
    known.unwrap_or_else(|| io::Error::other(text.to_owned()))
}

fn start(folder: &Path, path: &Path, text: &str) -> io::Result<(Lock, Running)> {
    let lock = try_take_writer(folder, path)?.ok_or(io::ErrorKind::ResourceBusy)?;
    let mut command = Command::new("sh");
    // Not the shell's own `printf`, which does not say why it could not write.
    command.args(["-c", "exec printf %s \"$1\" > \"$0\""]).arg(path).arg(text).env("LC_ALL", "C");
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
    fn the_kernels_reasons_to_try_another_method_are_understood() {
        let said = |words: &str| error_of(&format!("printf: write error: {words}")).raw_os_error();
        assert_eq!(said("Inappropriate ioctl for device"), Some(25));
        assert_eq!(said("Resource temporarily unavailable"), Some(11));
        assert_eq!(said("Input/output error"), None);
        // No such thing as writing there: what the program says is taken over.
        let tree = TempTree::new();
        let error = begin(tree.path(), std::path::Path::new("/dev/full"), "1").wait().unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
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
