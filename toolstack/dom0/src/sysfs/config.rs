//! A function's configuration space through sysfs, for what the tool itself sets: the state in which a device changes hands.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;

use pci_config::{ConfigSpace, Walk, id};

pub use pci_config::Width;

use super::kernel::{ConfigFile, Kernel};
use crate::error::Error;

/// Registers of the header (`PCI Local Bus 3.0 §6.1`), and bits of the latter (§6.2.2).
const COMMAND: u64 = 0x04;
const IO_DECODE: u16 = 1 << 0;
const MEMORY_DECODE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;

/// Bits of the interrupts' control words (§6.8.1.3, §6.8.2.3).
const MSI_ENABLE: u16 = 1 << 0;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// Which decoders a device needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decode {
    /// I/O ports.
    pub io: bool,
    /// Memory.
    pub memory: bool,
}

/// A function's configuration space.
pub struct Config {
    file: Box<dyn ConfigFile>,
    path: PathBuf,
}

impl Config {
    pub(super) fn open(kernel: &dyn Kernel, path: PathBuf) -> Result<Self, Error> {
        match kernel.open_config(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Makes the device quiet, as it must be while nobody uses it: no DMA, no interrupt of any kind. It goes on
    /// decoding its BARs: a guest may still have them mapped, and an access that nothing answers can bring the host down
    /// (XSA-120).
    ///
    /// # Errors
    /// The kernel's.
    pub fn quiesce(&self, decode: Decode) -> Result<(), Error> {
        self.change_word(COMMAND, |command| (command & !BUS_MASTER) | INTX_DISABLE | decode.bits())?;
        let [msi, msix] = self.find_capabilities([id::MSI, id::MSI_X])?;
        if let Some(msi) = msi {
            self.change_word(msi + 2, |control| control & !MSI_ENABLE)?;
        }
        if let Some(msix) = msix {
            // Xen does not assign a device whose vectors are all masked (`pdev_msix_assign`).
            self.change_word(msix + 2, |control| control & !(MSIX_ENABLE | MSIX_MASK_ALL))?;
        }
        Ok(())
    }

    /// Prepares a quiet device for its guest: interrupts by pin work, DMA waits until the guest's driver asks for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare(&self, decode: Decode) -> Result<(), Error> {
        self.change_word(COMMAND, |command| (command & !(BUS_MASTER | INTX_DISABLE)) | decode.bits())
    }

    /// Reads one register.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, offset: u64, width: Width) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        let (read, _) = bytes.split_at_mut(width as usize);
        self.result(self.file.read_exact_at(read, offset))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes one register, in one access: Linux makes one of what comes in one piece, aligned and of this length.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, offset: u64, width: Width, value: u32) -> Result<(), Error> {
        let bytes = value.to_le_bytes();
        let (written, _) = bytes.split_at(width as usize);
        self.result(self.file.write_all_at(written, offset))
    }

    /// The offset of a capability in the conventional list. The device is not trusted: the list may be anything.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find_capability(&self, id: u16) -> Result<Option<u64>, Error> {
        self.find_capabilities([id]).map(|[found]| found)
    }

    /// As [`Config::find_capability`] for several, in one walk: each register costs an emulated access or a microsecond. Of a kind that
    /// is there more than once it is the first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn find_capabilities<const N: usize>(&self, ids: [u16; N]) -> Result<[Option<u64>; N], Error> {
        self.look(|space| {
            let mut found = [None; N];
            for capability in Walk::conventional(space) {
                for (place, _) in found.iter_mut().zip(ids).filter(|(_, id)| *id == capability.id) {
                    place.get_or_insert(u64::from(capability.offset));
                }
                if found.iter().all(Option::is_some) {
                    break;
                }
            }
            found
        })
    }

    /// Has somebody look at the space who cannot deal with registers that cannot be read.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look<T>(&self, look: impl FnOnce(&Space<'_>) -> T) -> Result<T, Error> {
        let space = Space { config: self, failure: Cell::new(None) };
        let seen = look(&space);
        match space.failure.take() {
            None => Ok(seen),
            Some(error) => Err(error),
        }
    }

    fn read_word(&self, offset: u64) -> Result<u16, Error> {
        let mut bytes = [0; 2];
        self.result(self.file.read_exact_at(&mut bytes, offset))?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes only what changes, in one access of 16 bits: Xen intercepts writes to MSI-X control and refuses other widths.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change_word(&self, offset: u64, change: impl Fn(u16) -> u16) -> Result<(), Error> {
        let old = self.read_word(offset)?;
        let new = change(old);
        if new == old {
            return Ok(());
        }
        self.result(self.file.write_all_at(&new.to_le_bytes(), offset))
    }

    fn result<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::File { path: self.path.clone(), source })
    }
}

/// The space as [`Config::look`] shows it: what cannot be read reads as ones, and is told afterwards.
pub struct Space<'a> {
    config: &'a Config,
    failure: Cell<Option<Error>>,
}

impl ConfigSpace for Space<'_> {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        self.config.read(offset.into(), width).unwrap_or_else(|error| {
            self.failure.set(Some(error));
            width.bits()
        })
    }
}

impl Decode {
    /// As Command has them.
    #[must_use]
    pub fn bits(self) -> u16 {
        (if self.io { IO_DECODE } else { 0 }) | (if self.memory { MEMORY_DECODE } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fakes::{ConfigImage, TempTree};

    const MEMORY: Decode = Decode { io: false, memory: true };

    fn with_config(image: ConfigImage, act: impl FnOnce(&Config)) -> ConfigImage {
        let tree = TempTree::new();
        tree.write("config", image.0);
        struct Folder;
        impl Kernel for Folder {}
        act(&Config::open(&Folder, tree.path().join("config")).unwrap());
        ConfigImage(std::fs::read(tree.path().join("config")).unwrap())
    }

    #[test]
    fn a_quiet_device_neither_interrupts_nor_masters() {
        let mut busy = ConfigImage::endpoint();
        busy.set_word(COMMAND, BUS_MASTER | IO_DECODE);
        busy.add_capability(0x40, 0x01, 0x50);
        busy.add_capability(0x50, 0x05, 0x60);
        busy.add_capability(0x60, 0x11, 0);
        busy.set_word(0x52, 0x0181);
        busy.set_word(0x62, 0xc040);
        let quiet = with_config(busy, |config| config.quiesce(MEMORY).unwrap());
        assert_eq!(quiet.word(COMMAND), INTX_DISABLE | IO_DECODE | MEMORY_DECODE);
        assert_eq!(quiet.word(0x52), 0x0180);
        assert_eq!(quiet.word(0x62), 0x0040);
    }

    #[test]
    fn a_prepared_device_may_use_its_pin_but_not_master() {
        let mut quiet = ConfigImage::endpoint();
        quiet.set_word(COMMAND, INTX_DISABLE);
        let ready = with_config(quiet, |config| config.prepare(Decode { io: true, memory: true }).unwrap());
        assert_eq!(ready.word(COMMAND), IO_DECODE | MEMORY_DECODE);
    }

    #[test]
    fn capability_lists_that_never_end_are_left() {
        let mut circle = ConfigImage::endpoint();
        circle.add_capability(0x40, 0x01, 0x40);
        with_config(circle, |config| assert_eq!(config.find_capability(id::MSI_X).unwrap(), None));
        with_config(ConfigImage(vec![0xff; 256]), |config| {
            assert_eq!(config.find_capability(id::MSI).unwrap(), None);
        });
    }
}
