//! Locks between processes, which the kernel gives back when their holder ends, however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;

/// Where locks may be, in the order to try.
const FOLDERS: [&str; 2] = ["/run", "/var/run"];
/// The broker's own: commands and the broker do not exclude each other.
pub const BROKER: &str = "pcidom-serve.lock";

/// Held until dropped.
pub struct Lock {
    file: File,
    /// Where it is, for one that goes with its holder.
    passing: Option<PathBuf>,
}

impl Lock {
    /// Takes the lock of this name; `None` when somebody has it. Its file goes with it, but for the broker's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_take_in(folder: &Path, name: &str) -> Result<Option<Self>, Error> {
        loop {
            let (path, file) = open(folder, name)?;
            return match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => Ok(Some(Self::of(file, (name != BROKER).then_some(path)))),
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(Error::File { path, source: error.into() }),
            };
        }
    }

    /// That of a file which is locked; with `passing` it is removed with the lock.
    #[must_use]
    pub fn of(file: File, passing: Option<PathBuf>) -> Self {
        Self { file, passing }
    }

    /// The locked file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Leaves it to those who have the file as well.
    pub fn leave(mut self) {
        self.passing = None;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.passing {
            // One that cannot be removed stays, which harms nobody.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens a lock's file, not locked yet.
///
/// # Errors
/// The kernel's.
pub fn open(folder: &Path, name: &str) -> Result<(PathBuf, File), Error> {
    let path = folder.join(name);
    match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(Error::File { path, source }),
    }
}

/// Whether this is still the file at `path`: who had the lock may have taken the file away.
#[must_use]
pub fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let ours = file.metadata().map(place).ok();
    ours.is_some() && ours == std::fs::metadata(path).map(place).ok()
}

/// Where the locks are.
#[must_use]
pub fn folder() -> &'static Path {
    FOLDERS.iter().map(Path::new).find(|folder| folder.is_dir()).unwrap_or(Path::new("/tmp"))
}
