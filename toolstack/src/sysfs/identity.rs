//! Which device is at an address: vendor, device and serial number, which stay the same when the machine numbers its buses anew.

use std::fmt;

use ::dom0::Error as HostError;
use pci_config::Walk;
use xen_types::Sbdf;

use super::{ConfigWalk as _, Sysfs};

/// The Device Serial Number capability (PCIe 5.0 §7.9.3): its id, and where its two dwords are, the lower one first.
const DEVICE_SERIAL_NUMBER: u16 = 0x0003;
const SERIAL_LOW: u16 = 4;
const SERIAL_HIGH: u16 = 8;

/// Which device it is. What is `None` is not known, or not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) vendor: Option<u16>,
    pub(crate) device: Option<u16>,
    pub(crate) serial: Option<u64>,
}

impl Identity {
    /// Whether a device with the identity `found` is the one that is meant here: all that is known here is the same there.
    pub(crate) fn is_of(&self, found: &Self) -> bool {
        fn agrees<T: PartialEq>(wanted: Option<T>, found: Option<T>) -> bool {
            wanted.is_none() || wanted == found
        }
        agrees(self.vendor, found.vendor) && agrees(self.device, found.device) && agrees(self.serial, found.serial)
    }
}

/// A serial number as `lspci` writes it: eight bytes, the highest first.
pub(crate) fn parse_serial(text: &str) -> Option<u64> {
    let bytes: Vec<&str> = text.split('-').collect();
    let is_sound = bytes.len() == 8 && bytes.iter().all(|byte| byte.len() == 2);
    is_sound.then(|| u64::from_str_radix(&bytes.concat(), 16).ok()).flatten()
}

struct Serial(u64);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.to_be_bytes().into_iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { "-" })?;
        }
        Ok(())
    }
}

/// As the settings file has it: `vendor=8086,device=10d3,serial=52-54-00-ff-ff-12-34-56`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.vendor.map(|id| format!("vendor={id:04x}")),
            self.device.map(|id| format!("device={id:04x}")),
            self.serial.map(|serial| format!("serial={}", Serial(serial))),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(if words.is_empty() { "nothing known of it".to_owned() } else { words.join(",") }.as_str())
    }
}

impl Sysfs {
    /// The identity of the device at this address. One in conventional configuration space has no serial number.
    ///
    /// # Errors
    /// Files of the device that cannot be read, or make no sense.
    pub(crate) fn identity(&self, device: Sbdf) -> Result<Identity, HostError> {
        let [device_low, device_high, vendor_low, vendor_high] = self.ids(device)?.to_be_bytes();
        let path = self.device_dir(device).join("config");
        let bytes = std::fs::metadata(&path).map_err(|source| HostError::File { path, source })?.len();
        Ok(Identity {
            vendor: Some(u16::from_be_bytes([vendor_low, vendor_high])),
            device: Some(u16::from_be_bytes([device_low, device_high])),
            serial: if bytes > u64::from(pci_registers::EXTENDED) { self.serial(device)? } else { None },
        })
    }

    fn serial(&self, device: Sbdf) -> Result<Option<u64>, HostError> {
        let config = self.config(device)?;
        let found = config.look(|space| {
            Walk::extended(space).find(|capability| capability.id == DEVICE_SERIAL_NUMBER).map(|found| found.offset)
        })?;
        let Some(at) = found else { return Ok(None) };
        let dword = |offset: u16| config.read(at.saturating_add(offset), super::Width::Dword);
        Ok(Some(u64::from(dword(SERIAL_HIGH)?) << 32 | u64::from(dword(SERIAL_LOW)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Machine, NVME, device};

    #[test]
    fn a_device_is_known_by_its_ids_and_its_serial_number() {
        let machine = Machine::new();
        let dir = format!("bus/pci/devices/{NVME}");
        machine.tree.write(format!("{dir}/vendor"), "0x8086\n");
        machine.tree.write(format!("{dir}/device"), "0x10d3\n");
        let plain = machine.host.sysfs.identity(device(NVME)).unwrap();
        assert_eq!(plain.to_string(), "vendor=8086,device=10d3");
        let mut config = machine.config(NVME);
        config.bytes.resize(4096, 0);
        config.add_capability(0x60, 0x10, 0);
        config.bytes[0x51] = 0x60; // behind the last one of the list
        for (at, word) in
            [(0x100, 0x0003), (0x102, 0x0001), (0x104, 0x3456), (0x106, 0xff12), (0x108, 0x00ff), (0x10a, 0x5254)]
        {
            config.set_word(at, word);
        }
        machine.tree.write(format!("{dir}/config"), config.bytes);
        let full = machine.host.sysfs.identity(device(NVME)).unwrap();
        assert_eq!(full.to_string(), "vendor=8086,device=10d3,serial=52-54-00-ff-ff-12-34-56");
        assert_eq!(full.serial, parse_serial("52-54-00-ff-ff-12-34-56"));
        assert!(plain.is_of(&full) && !full.is_of(&plain) && Identity::default().is_of(&plain));
        assert!(!Identity { device: Some(0x10d4), ..plain }.is_of(&full));
    }

    #[test]
    fn serial_numbers_have_eight_bytes() {
        for text in [
            "",
            "52-54-00-ff-ff-12-34",
            "52-54-00-ff-ff-12-34-5",
            "52-54-00-ff-ff-12-34-+6",
            "52-54-00-ff-ff-12-34-56-78",
        ] {
            assert_eq!(parse_serial(text), None, "{text}");
        }
    }
}
