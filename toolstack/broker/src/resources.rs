//! What a device has: its registers' addresses and its interrupt.

use dom0::sysfs::Decode;
use dom0::{Dom0, Error};
use pcidom_abi::{paths, pool};
use xen_types::{DomId, Resource, ResourceKind, Sbdf};
use xenstore::path;

/// A device as dom0 sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceResources {
    /// Which one.
    pub device: Sbdf,
    /// BARs and ROM by index.
    pub resources: Vec<(u8, Resource)>,
    /// The global interrupt of its INTx pin.
    pub gsi: Option<u32>,
    /// Vendor and device id of a virtual function, as their dword: its own registers read as ones.
    pub ids: Option<u32>,
}

impl DeviceResources {
    /// From dom0.
    ///
    /// # Errors
    /// Xen's, xenstore's and the kernel's, and what makes no sense.
    pub fn gather(host: &Dom0, device: Sbdf) -> Result<Self, Error> {
        let is_virtual = host.sysfs.physical_function(device).is_some();
        Ok(Self {
            device,
            resources: host.sysfs.resources(device)?,
            gsi: host.sysfs.gsi(device)?,
            ids: is_virtual.then(|| host.sysfs.ids(device)).transpose()?,
        })
    }

    /// Its registers alone: every other file in sysfs takes as long to read.
    ///
    /// # Errors
    /// Xen's, xenstore's and the kernel's, and what makes no sense.
    pub fn of_registers(host: &Dom0, device: Sbdf) -> Result<Self, Error> {
        Ok(Self { device, resources: host.sysfs.resources(device)?, gsi: None, ids: None })
    }

    /// From dom0, or from the pool where dom0 does not see the device any more.
    ///
    /// # Errors
    /// Xen's, xenstore's and the kernel's, and what makes no sense.
    pub fn find(host: &Dom0, stub: DomId, device: Sbdf) -> Result<Self, Error> {
        if host.sysfs.exists(device) { Self::gather(host, device) } else { Self::recall(host, stub, device) }
    }

    /// Those of a guest's devices that a command is not about. Where dom0's files about one make no sense, it is what the pool says that
    /// counts: its guest was given that. One of which nothing is known is left out: the command goes on.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn of_others(host: &Dom0, stub: DomId, devices: &[Sbdf]) -> Result<Vec<Self>, Error> {
        let mut found = Vec::new();
        for device in devices.iter().copied() {
            match Self::find_or_recall(host, stub, device) {
                Ok(resources) => found.push(resources),
                Err(error @ Error::Store(_)) => return Err(error),
                Err(error) => host.note(&format!("{device} is left out: {error}")),
            }
        }
        Ok(found)
    }

    /// As [`Self::find`], or from the pool where dom0's files of the device make no sense.
    ///
    /// # Errors
    /// Xen's, xenstore's and the kernel's, and what makes no sense.
    pub fn find_or_recall(host: &Dom0, stub: DomId, device: Sbdf) -> Result<Self, Error> {
        Self::find(host, stub, device).or_else(|error| {
            if !host.exists(&paths::pool_dir(stub, device))? {
                return Err(error);
            }
            host.note(&format!("{device}: {error}; what the pool says of it counts"));
            Self::recall(host, stub, device)
        })
    }

    /// Resources from the pool's nodes, for a device that dom0 no longer sees.
    ///
    /// # Errors
    /// Xen's, xenstore's and the kernel's, and what makes no sense.
    pub fn recall(host: &Dom0, stub: DomId, device: Sbdf) -> Result<Self, Error> {
        let dir = paths::pool_dir(stub, device);
        let mut resources = Vec::new();
        for (index, name) in (0..).zip(pool::RESOURCES) {
            let place = path::child(&dir, name);
            if let Some(value) = host.read(&place)? {
                resources.push((index, value.parse().map_err(|_| Error::Nonsense { place, value })?));
            }
        }
        let irq = host.read(&path::child(&dir, pool::IRQ))?.and_then(|value| value.parse().ok());
        let ids = host.read(&path::child(&dir, pool::IDS))?.and_then(|value| u32::from_str_radix(&value, 16).ok());
        Ok(Self { device, resources, gsi: irq.filter(|irq| *irq != 0), ids })
    }

    /// Whether it is a virtual function of an SR-IOV device.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.ids.is_some()
    }

    /// Which decoders the device needs. A ROM has its own switch and stays off. Those of virtual functions are a bit of their physical
    /// function, for all of them (PCIe 5.0 §9.3.3.3.4).
    #[must_use]
    pub fn decode(&self) -> Decode {
        if self.is_virtual() {
            return Decode::default();
        }
        let kinds = || self.resources.iter().map(|(_, resource)| resource.kind());
        Decode {
            io: kinds().any(|kind| kind == ResourceKind::Io),
            memory: kinds().any(|kind| !matches!(kind, ResourceKind::Io | ResourceKind::Rom)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(device: &str, gsi: Option<u32>, resources: &[&str]) -> DeviceResources {
        let resources = (0..).zip(resources).map(|(index, text)| (index, text.parse().unwrap())).collect();
        DeviceResources { device: device.parse().unwrap(), resources, gsi, ids: None }
    }

    #[test]
    fn decoders_are_those_of_the_bars_alone() {
        let decode = |resources: &[&str]| described("00:05.0", None, resources).decode();
        assert_eq!(decode(&["0xc000 0x20 io"]), Decode { io: true, memory: false });
        assert_eq!(decode(&["0xfeb00000 0x1000 mem64p"]), Decode { io: false, memory: true });
        assert_eq!(decode(&["0xfeb00000 0x1000 rom"]), Decode::default());
        let virtual_function =
            DeviceResources { ids: Some(0x1520_8086), ..described("03:10.0", None, &["0xfeb00000 0x1000 mem64p"]) };
        assert_eq!(virtual_function.decode(), Decode::default());
    }
}
