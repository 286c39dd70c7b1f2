//! Changes of the device database, counted where the broker sees it without a question to xenstore.
//!
//! What was read of the database while no change was under way is true as long as the count is the same: each change begins with raising it, before
//! xenstored hears of it, and is under way until xenstored has answered or the process that makes it is gone.

use std::any::Any;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;
use crate::lock;

/// Its size is the count, which holes make up; who has it locked makes a change.
const NAME: &str = "pcidom-table.lock";

/// The count, for all processes of dom0.
pub trait TableChanges {
    /// Counts a change, which is under way until the answer is dropped. Others wait for it with theirs.
    ///
    /// # Errors
    /// The kernel's.
    fn begin(&self) -> Result<Box<dyn Any>, Error>;

    /// How many have begun; `None` where that is not known.
    fn begun(&self) -> Option<u64>;

    /// The same where none of them is under way.
    fn settled(&self) -> Option<u64>;
}

/// A file on a file system in memory.
pub struct CountingFile {
    folder: PathBuf,
    open: RefCell<Option<File>>,
}

impl CountingFile {
    /// The one in this folder. Nothing is opened yet.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), open: RefCell::default() }
    }
}

impl TableChanges for CountingFile {
    fn begin(&self) -> Result<Box<dyn Any>, Error> {
        loop {
            let (path, file) = lock::open(&self.folder, NAME)?;
            let counted = match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) if lock::is_at(&file, &path) => {
                    file.metadata().and_then(|metadata| file.set_len(metadata.len().wrapping_add(1)))
                }
                Ok(()) | Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
            return match counted {
                Ok(()) => Ok(Box::new(file)),
                Err(source) => Err(Error::File { path, source }),
            };
        }
    }

    fn begun(&self) -> Option<u64> {
        let metadata = self.open.borrow().as_ref()?.metadata().ok()?;
        // Others may count in another file by now.
        (metadata.nlink() > 0).then_some(metadata.len())
    }

    fn settled(&self) -> Option<u64> {
        if self.begun().is_none() {
            self.open.replace(lock::open(&self.folder, NAME).ok().map(|(_, file)| file));
        }
        // First the count: a change that begins after it makes it another one.
        let begun = self.begun()?;
        let open = self.open.borrow();
        let is_free = |operation| flock(open.as_ref()?, operation).ok();
        is_free(FlockOperation::NonBlockingLockShared).and_then(|()| is_free(FlockOperation::Unlock))?;
        Some(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fakes::TempTree;

    #[test]
    fn a_change_is_counted_before_it_is_made_and_under_way_until_it_is_done() {
        let tree = TempTree::new();
        let (broker, command) = (CountingFile::new(tree.path()), CountingFile::new(tree.path()));
        assert_eq!(broker.begun(), None, "it has not looked");
        let before = broker.settled().unwrap();
        let change = command.begin().unwrap();
        assert_ne!(broker.begun(), Some(before));
        assert_eq!(broker.settled(), None);
        drop(change);
        let after = broker.settled();
        assert_eq!(after, broker.begun());
        assert_ne!(after, Some(before));
        drop(command.begin().unwrap());
        assert_ne!(broker.settled(), after);
    }

    #[test]
    fn a_count_begins_anew_with_another_file_and_is_not_taken_for_the_old_one() {
        let tree = TempTree::new();
        let broker = CountingFile::new(tree.path());
        broker.settled().unwrap();
        std::fs::remove_file(tree.path().join(NAME)).unwrap();
        assert_eq!(broker.begun(), None);
        drop(CountingFile::new(tree.path()).begin().unwrap());
        assert_eq!(broker.settled(), Some(1));
    }

    #[test]
    fn without_a_folder_nothing_is_known_and_no_change_begins() {
        let nowhere = CountingFile::new("/nowhere/at/all");
        assert_eq!((nowhere.begun(), nowhere.settled()), (None, None));
        assert!(nowhere.begin().is_err());
    }
}
