//! One command at a time: a lock that the kernel gives back when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;

/// Where the lock may be, in the order to try.
const FOLDERS: [&str; 2] = ["/run", "/var/run"];
const NAME: &str = "pcidom.lock";
/// The broker's own: commands and the broker do not exclude each other.
const BROKER_NAME: &str = "pcidom-serve.lock";

/// Held until dropped.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; calls `waiting` once if another command has it, then waits for that one to end.
    pub(crate) fn take(waiting: impl FnOnce()) -> Result<Self, Error> {
        Self::take_in(folder(), waiting)
    }

    /// Takes the broker's lock; `None` when a broker is running.
    pub(crate) fn try_take_broker() -> Result<Option<Self>, Error> {
        let (path, file) = open(folder(), BROKER_NAME)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::File { path, source: error.into() }),
        }
    }

    fn take_in(folder: &Path, waiting: impl FnOnce()) -> Result<Self, Error> {
        let (path, file) = open(folder, NAME)?;
        let failed = |source| Error::File { path: path.clone(), source };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => waiting(),
            Err(error) => return Err(failed(error.into())),
        }
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

/// The process that is the broker, as the kernel's own list of locks has it: asking for the lock would keep a broker from starting just
/// then.
pub(crate) fn broker_pid() -> Option<u32> {
    holder(&folder().join(BROKER_NAME), &std::fs::read_to_string("/proc/locks").ok()?)
}

/// Who holds a lock on the file (`proc_locks(5)`): `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`, the device's numbers in
/// hexadecimal. A line of one who only waits has `->` behind its number.
fn holder(path: &Path, locks: &str) -> Option<u32> {
    let file = std::fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = words[..] else { return None };
        (at == place).then(|| pid.parse().ok())?
    })
}

fn folder() -> &'static Path {
    FOLDERS.iter().map(Path::new).find(|folder| folder.is_dir()).unwrap_or(Path::new("/tmp"))
}

fn open(folder: &Path, name: &str) -> Result<(PathBuf, File), Error> {
    let path = folder.join(name);
    match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(Error::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::TempTree;
    use std::cell::Cell;

    #[test]
    fn who_holds_a_lock_is_found_without_asking_for_it() {
        let tree = TempTree::new();
        let path = tree.path().join(NAME);
        let lock = Lock::take_in(tree.path(), || panic!("nobody has it")).unwrap();
        let file = std::fs::metadata(&path).unwrap();
        let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
        let locks = format!(
            "1: POSIX  ADVISORY  WRITE 1 00:01:2 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 {place} 0 EOF\n\
             2: -> FLOCK  ADVISORY  WRITE 78 {place} 0 EOF\n"
        );
        assert_eq!(holder(&path, &locks), Some(77));
        assert_eq!(holder(&path, "2: -> FLOCK  ADVISORY  WRITE 78 00:01:2 0 EOF\n"), None);
        assert_eq!(holder(&tree.path().join("none"), &locks), None);
        drop(lock);
    }

    #[test]
    fn a_second_command_waits_for_the_first() {
        let tree = TempTree::new();
        let first = Lock::take_in(tree.path(), || panic!("nobody has it")).unwrap();
        let first = Cell::new(Some(first));
        let waited = Cell::new(false);
        let _second = Lock::take_in(tree.path(), || {
            waited.set(true);
            drop(first.take()); // the first command ends
        })
        .unwrap();
        assert!(waited.get());
    }
}
