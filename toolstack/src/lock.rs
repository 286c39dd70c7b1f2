//! One command at a time: a lock that the kernel gives back when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;

/// Where the lock may be, in the order to try.
const FOLDERS: [&str; 2] = ["/run", "/var/run"];
const NAME: &str = "pcidom.lock";

/// Held until dropped.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; calls `waiting` once if another command has it, then waits for that one to end.
    pub(crate) fn take(waiting: impl FnOnce()) -> Result<Self, Error> {
        let folder = FOLDERS.iter().map(Path::new).find(|folder| folder.is_dir()).unwrap_or(Path::new("/tmp"));
        Self::take_in(folder, waiting)
    }

    fn take_in(folder: &Path, waiting: impl FnOnce()) -> Result<Self, Error> {
        let path = folder.join(NAME);
        let failed = |source| Error::File { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
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
