//! One command at a time: a lock that the kernel gives back when the process ends, however it ends.

use std::fs::{File, OpenOptions};
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
