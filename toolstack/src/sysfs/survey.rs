//! Properties of a device that matter before it is assigned, and those that only `doctor` checks.

use std::fs;

use pci_config::Walk;
use pci_registers::{acs, express, extended_id, header, id, msix};
use xen_types::Sbdf;

use super::{ConfigWalk as _, Sysfs, Width, reserved};
use crate::error::Error;

/// The DMAR table's name, and the one that Xen gives it so that dom0's kernel leaves the IOMMU alone (`acpi_dmar_zap`).
const DMAR_NAMES: [&str; 2] = ["DMAR", "XMAR"];

impl Sysfs {
    /// Whether firmware describes an ECAM window at all.
    pub(crate) fn has_ecam(&self) -> bool {
        self.root().join("firmware/acpi/tables/MCFG").exists()
    }

    /// Linux' names of the function's reset methods; empty if there is none. Older kernels only say whether.
    pub(crate) fn reset_methods(&self, device: Sbdf) -> String {
        let dir = self.device_dir(device);
        let known = fs::read_to_string(dir.join("reset_method")).map(|methods| methods.trim().to_owned());
        match known {
            Ok(methods) => methods,
            Err(_) if dir.join("reset").exists() => "yes".to_owned(),
            Err(_) => String::new(),
        }
    }

    /// Other functions whose DMA the IOMMU may not tell from this one's: those of Linux's group where there is one, of the same slot, and, for
    /// a conventional device behind a bridge, all on its bus.
    pub(crate) fn siblings(&self, device: Sbdf) -> Result<Vec<Sbdf>, Error> {
        let group = self.device_dir(device).join("iommu_group/devices");
        if let Ok(entries) = fs::read_dir(group) {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            let mut group: Vec<Sbdf> = names.filter(|other| *other != device).collect();
            group.sort_unstable();
            return Ok(group);
        }
        let is_conventional = self.config(device)?.find_capability(id::PCI_EXPRESS)?.is_none();
        let shares_bus = is_conventional && self.parent(device).is_some();
        let same_bus = |other: Sbdf| (other.segment(), other.bus()) == (device.segment(), device.bus()) && shares_bus;
        let all = self.devices()?.into_iter();
        Ok(all.filter(|other| *other != device && (other.same_slot(device) || same_bus(*other))).collect())
    }

    /// The methods in the order in which Linux tries them; empty where it does not say.
    pub(crate) fn reset_methods_in_turn(&self, device: Sbdf) -> Vec<String> {
        let text = fs::read_to_string(self.device_dir(device).join("reset_method")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Has Linux try these methods alone, names with blanks between.
    pub(crate) fn set_reset_methods(&self, device: Sbdf, methods: &str) -> Result<(), Error> {
        self.write(&self.device_dir(device).join("reset_method"), methods)
    }

    /// The bridge that the device is behind; none on a root bus.
    pub(crate) fn parent(&self, device: Sbdf) -> Option<Sbdf> {
        self.device_dir(device).canonicalize().ok()?.parent()?.file_name()?.to_str()?.parse().ok()
    }

    /// The root and switch ports above the device that let requests from device to device past the IOMMU: Access Control Services are
    /// missing, or not all of those on that isolate.
    pub(crate) fn ports_without_acs(&self, device: Sbdf) -> Result<Vec<Sbdf>, Error> {
        let path = self.device_dir(device).canonicalize().unwrap_or_default();
        let mut ports = Vec::new();
        for port in path.iter().filter_map(|name| name.to_str()?.parse().ok()).filter(|port| *port != device) {
            if self.is_port(port)? && !self.isolates(port)? {
                ports.push(port);
            }
        }
        Ok(ports)
    }

    fn is_port(&self, bridge: Sbdf) -> Result<bool, Error> {
        let config = self.config(bridge)?;
        let Some(at) = config.find_capability(id::PCI_EXPRESS)? else { return Ok(false) };
        let kind = config.read(at + express::CAPABILITIES, Width::Word)? & u32::from(express::TYPE);
        Ok([express::ROOT_PORT, express::DOWNSTREAM_PORT].map(u32::from).contains(&kind))
    }

    fn isolates(&self, port: Sbdf) -> Result<bool, Error> {
        let config = self.config(port)?;
        // A space without a second part has no such capability.
        let found = config.look(|space| Walk::extended(space).find(|capability| capability.id == extended_id::ACS));
        let Ok(Some(found)) = found else { return Ok(false) };
        let control = config.read(found.offset + acs::CONTROL, Width::Word)?;
        Ok(control & u32::from(acs::ISOLATION) == u32::from(acs::ISOLATION))
    }

    /// Whether the function may use other functions' numbers for its own DMA (XSA-449).
    pub(crate) fn has_phantom_functions(&self, device: Sbdf) -> Result<bool, Error> {
        let config = self.config(device)?;
        Ok(match config.find_capability(id::PCI_EXPRESS)? {
            Some(at) => config.read(at + express::DEVICE_CAPABILITIES, Width::Dword)? & express::PHANTOM_FUNCTIONS != 0,
            None => false,
        })
    }

    /// Number of vectors in the function's MSI-X table; 0 without one.
    pub(crate) fn msix_vectors(&self, device: Sbdf) -> Result<u32, Error> {
        let config = self.config(device)?;
        Ok(match config.find_capability(id::MSI_X)? {
            Some(at) => (config.read(at + msix::CONTROL, Width::Word)? & u32::from(msix::TABLE_SIZE)) + 1,
            None => 0,
        })
    }

    /// Whether firmware reserved memory for the device's DMA; `None` where no table tells.
    pub(crate) fn has_reserved_memory(&self, device: Sbdf) -> Option<bool> {
        let tables = self.root().join("firmware/acpi/tables");
        let table = DMAR_NAMES.iter().find_map(|name| fs::read(tables.join(name)).ok())?;
        let secondary = |bridge| {
            let bus = self.config(bridge).ok()?.read(header::SECONDARY_BUS, Width::Byte).ok()?;
            u8::try_from(bus).ok()
        };
        Some(reserved::is_reserved_for(&table, device, secondary))
    }
}
