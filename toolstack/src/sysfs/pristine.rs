//! Files of devices' saved configurations: written here, read by the broker too.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ::dom0::Error as HostError;
use pcidom_abi::Pristine;
use xen_types::Sbdf;

use super::Sysfs;
use crate::error::Error;

impl Sysfs {
    fn pristine_file(&self, device: Sbdf) -> PathBuf {
        self.kernel.pristine_folder().join(device.to_string())
    }

    /// Devices of which something is saved.
    pub(crate) fn saved(&self) -> BTreeSet<Sbdf> {
        let files = fs::read_dir(self.kernel.pristine_folder()).into_iter().flatten();
        files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    /// Saves what the device is to have after resets. A reader finds all of it, or what was there before.
    pub(crate) fn save_pristine(&self, device: Sbdf, pristine: &Pristine) -> Result<(), Error> {
        let path = self.pristine_file(device);
        let written = replace(&path, &pristine.to_string());
        Ok(written.map_err(|source| HostError::File { path, source })?)
    }

    /// Forgets it.
    pub(crate) fn forget_pristine(&self, device: Sbdf) -> Result<(), Error> {
        let path = self.pristine_file(device);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HostError::File { path, source }.into()),
            _ => Ok(()),
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}
