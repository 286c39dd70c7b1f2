//! The files of dom0's kernel about functions.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where functions' saved configurations are, one a file with the address as its name. They live as long as dom0: longer than broker and commands.
pub const PRISTINE: &str = "/run/pcidom/pristine";

/// The kernel's files. What is said here of each is what Linux does with it.
pub trait Kernel {
    /// An attribute's text.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    /// The last name in what a link leads to.
    fn read_link(&self, path: &Path) -> Option<String> {
        Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
    }

    /// Whether there is such a file or folder.
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    /// A function's configuration space, by its attribute `config`.
    ///
    /// # Errors
    /// The kernel's.
    fn open_config(&self, path: &Path) -> io::Result<Box<dyn ConfigFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Where functions' saved configurations are: no files of the kernel's, but read like those.
    fn pristine_folder(&self) -> PathBuf {
        PathBuf::from(PRISTINE)
    }

    /// Whether a write to this attribute was begun, by whomever, and is under way still ([`super::try_take_writer`]).
    fn is_writing(&self, _path: &Path) -> bool {
        false
    }
}

/// An open attribute `config`. Linux makes one access to the registers of what comes in one piece, aligned and of a register's length.
pub trait ConfigFile {
    /// Reads all of the buffer.
    ///
    /// # Errors
    /// The kernel's.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of the bytes.
    ///
    /// # Errors
    /// The kernel's.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

impl ConfigFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }
}
