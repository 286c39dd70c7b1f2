//! A function's configuration space through sysfs, for what the tool itself sets: the state in which a device changes hands.

use std::io;
use std::path::PathBuf;

use pci_registers::command::{BUS_MASTER, INTX_DISABLE, IO_DECODE, MEMORY_DECODE};
use pci_registers::header::{COMMAND, REVISION_ID, VENDOR_ID};
use pci_registers::{msi, msix};
use pcidom_abi::{Capabilities, Identity};

pub use pci_registers::Width;

use super::kernel::{ConfigFile, Kernel};
use crate::error::Error;

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

    /// Quiesces the device, as it must be while nobody uses it: no DMA, no interrupt of any kind. It goes on
    /// decoding its BARs: a guest may still have them mapped, and an access that nothing answers can bring the host down
    /// (XSA-120).
    ///
    /// # Errors
    /// The kernel's.
    pub fn quiesce(&self, decode: Decode, capabilities: &Capabilities) -> Result<(), Error> {
        self.change_word(COMMAND, |command| (command & !BUS_MASTER) | INTX_DISABLE | decode.bits())?;
        if let Some(msi) = capabilities.msi {
            self.change_word(msi.at + msi::CONTROL, |control| control & !msi::ENABLE)?;
        }
        if let Some(msix) = capabilities.msix {
            // Xen does not assign a device whose vectors are all masked (`pdev_msix_assign`).
            self.change_word(msix.at + msix::CONTROL, |control| control & !(msix::ENABLE | msix::MASK_ALL))?;
        }
        Ok(())
    }

    /// Prepares a quiesced device for its guest: interrupts by pin work, DMA waits until the guest's driver asks for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prepare(&self, decode: Decode) -> Result<(), Error> {
        self.change_word(COMMAND, |command| (command & !(BUS_MASTER | INTX_DISABLE)) | decode.bits())
    }

    /// Which device it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn identity(&self) -> Result<Identity, Error> {
        // The class first: of a device that begins to answer in between it still says that it did not.
        let class = self.read(REVISION_ID, Width::Dword)?;
        Ok(Identity { ids: self.read(VENDOR_ID, Width::Dword)?, class })
    }

    /// Reads one register.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, offset: u16, width: Width) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        let (read, _) = bytes.split_at_mut(width as usize);
        self.result(self.file.read_exact_at(read, offset.into()))?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes one register, in one access: Linux makes one of what comes in one piece, aligned and of this length.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, offset: u16, width: Width, value: u32) -> Result<(), Error> {
        let bytes = value.to_le_bytes();
        let (written, _) = bytes.split_at(width as usize);
        self.result(self.file.write_all_at(written, offset.into()))
    }

    fn read_word(&self, offset: u16) -> Result<u16, Error> {
        let mut bytes = [0; 2];
        self.result(self.file.read_exact_at(&mut bytes, offset.into()))?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes only what changes, in one access of 16 bits: Xen intercepts writes to MSI-X control and refuses other widths.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change_word(&self, offset: u16, change: impl Fn(u16) -> u16) -> Result<(), Error> {
        let old = self.read_word(offset)?;
        let new = change(old);
        if new == old {
            return Ok(());
        }
        self.result(self.file.write_all_at(&new.to_le_bytes(), offset.into()))
    }

    fn result<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::File { path: self.path.clone(), source })
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
    use fakes::{Memory, TempTree};
    use pcidom_abi::{Msi, Msix};

    const MEMORY: Decode = Decode { io: false, memory: true };

    fn with_config(image: Memory, act: impl FnOnce(&Config)) -> Memory {
        let tree = TempTree::new();
        tree.write("config", image.bytes);
        struct Folder;
        impl Kernel for Folder {}
        act(&Config::open(&Folder, tree.path().join("config")).unwrap());
        Memory::from_bytes(std::fs::read(tree.path().join("config")).unwrap())
    }

    #[test]
    fn a_quiet_device_neither_interrupts_nor_masters() {
        let mut busy = Memory::conventional();
        busy.set_word(4, BUS_MASTER | IO_DECODE);
        busy.add_capability(0x40, 0x01, 0x50);
        busy.add_capability(0x50, 0x05, 0x60);
        busy.add_capability(0x60, 0x11, 0);
        busy.set_word(0x52, 0x0181);
        busy.set_word(0x62, 0xc040);
        let capabilities = Capabilities {
            msi: Some(Msi { at: 0x50, vectors: 1 }),
            msix: Some(Msix { at: 0x60, entries: 65, bar: 0 }),
            ..Capabilities::default()
        };
        let quiet = with_config(busy, |config| config.quiesce(MEMORY, &capabilities).unwrap());
        assert_eq!(quiet.word(4), INTX_DISABLE | IO_DECODE | MEMORY_DECODE);
        assert_eq!(quiet.word(0x52), 0x0180);
        assert_eq!(quiet.word(0x62), 0x0040);
    }

    #[test]
    fn a_prepared_device_may_use_its_pin_but_not_master() {
        let mut quiet = Memory::conventional();
        quiet.set_word(4, INTX_DISABLE);
        let ready = with_config(quiet, |config| config.prepare(Decode { io: true, memory: true }).unwrap());
        assert_eq!(ready.word(4), IO_DECODE | MEMORY_DECODE);
    }
}
