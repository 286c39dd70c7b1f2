//! A function's configuration as it was when it came into its pool: written back after resets, wake-ups and guests.

use pci_registers::header::{BASE_ADDRESS_0, EXPANSION_ROM, IO_FLAGS, MEMORY_FLAGS, ROM_FLAGS};
use pci_registers::{Width, express};
use pcidom_abi::{Payload, Pristine, SavedKind};
use xen_types::{Resource, ResourceKind, Sbdf};

use super::{Config, Sysfs};
use crate::error::Error;

impl Sysfs {
    /// What was saved of a function; `None` where nothing was.
    #[must_use]
    pub fn pristine(&self, device: Sbdf) -> Option<Pristine> {
        self.kernel.read(&self.kernel.pristine_folder().join(device.to_string())).ok()?.parse().ok()
    }

    /// Writes it back, with the addresses that dom0's kernel knows (none for a virtual function, which has no such registers, PCIe 5.0 §9.3.4.1.11),
    /// and the bits that `permissive=1` opens only `with_open`. Of Command, Bus Master, INTx Disable and decoding stay as they are. False where another
    /// function answers, or none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore(
        &self,
        config: &Config,
        addresses: &[(u8, Resource)],
        pristine: &Pristine,
        with_open: bool,
    ) -> Result<bool, Error> {
        let identity = config.identity()?;
        if identity.class == u32::MAX || pristine.identity.is_other(identity) {
            return Ok(false);
        }
        self.write_saved(config, pristine, SavedKind::Size)?;
        config.restore_addresses(addresses)?;
        if with_open {
            self.write_saved(config, pristine, SavedKind::Open)?;
        }
        self.write_saved(config, pristine, SavedKind::Plain)?;
        Ok(true)
    }

    fn write_saved(&self, config: &Config, pristine: &Pristine, kind: SavedKind) -> Result<(), Error> {
        for saved in pristine.registers.iter().filter(|saved| saved.kind == kind) {
            let mut value = saved.value;
            if let Some(payload) =
                pristine.payload.filter(|payload| saved.offset == payload.at + express::DEVICE_CONTROL)
            {
                value = self.with_payload_of_port(config, payload, value)?;
            }
            let old = config.read(saved.offset, saved.width)?;
            if old & saved.mask != value {
                config.write(saved.offset, saved.width, old & !saved.mask | value)?;
            }
        }
        Ok(())
    }

    /// Device Control with the payload size that the port has by now, if the function can have that.
    fn with_payload_of_port(&self, config: &Config, payload: Payload, control: u32) -> Result<u32, Error> {
        const PAYLOAD: u32 = express::PAYLOAD as u32;
        let Some(port) = self.find_config(payload.port)? else { return Ok(control) };
        let size = port.read(payload.port_at + express::DEVICE_CONTROL, Width::Word)? & PAYLOAD;
        let most = config.read(payload.at + express::DEVICE_CAPABILITIES, Width::Dword)? & express::PAYLOAD_SUPPORTED;
        Ok(if size >> 5 <= most { control & !PAYLOAD | size } else { control })
    }
}

impl Config {
    /// Writes the addresses of BARs and ROM where the device has others. The ROM stays off.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restore_addresses(&self, addresses: &[(u8, Resource)]) -> Result<(), Error> {
        addresses.iter().try_for_each(|(index, resource)| self.restore_address(*index, *resource))
    }

    fn restore_address(&self, index: u8, resource: Resource) -> Result<(), Error> {
        let bar = BASE_ADDRESS_0 + 4 * u16::from(index);
        // Bits beside the address, and those of them that are written as they are: the ROM stays off.
        let (offset, flags, kept) = match resource.kind() {
            ResourceKind::Rom => (EXPANSION_ROM, ROM_FLAGS, 0),
            ResourceKind::Io => (bar, IO_FLAGS, IO_FLAGS),
            _ => (bar, MEMORY_FLAGS, MEMORY_FLAGS),
        };
        let [low, high] = [resource.start(), resource.start() >> 32]
            .map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or_default());
        let restore = |offset, want: u32, flags: u32| match self.read(offset, Width::Dword)? {
            old if old & !flags == want => Ok(()),
            old => self.write(offset, Width::Dword, want | old & flags & kept),
        };
        restore(offset, low, flags)?;
        if resource.kind().is_64bit() { restore(offset + 4, high, 0) } else { Ok(()) }
    }
}
