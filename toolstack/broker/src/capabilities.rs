//! What a device's configuration space says it can, read by the broker itself each time. A guest cannot write these registers; a
//! device that lies about them is caught by Xen, which checks vectors against its own reading.

use pci_config::{Hidden, MAX_ENTRIES, id};
use xen_types::{Resource, ResourceKind};

use dom0::Error;
use dom0::sysfs::{Config, Width};

/// Message Control of MSI (§6.8.1.3).
const MSI_64BIT: u32 = 1 << 7;
const MSI_MASKABLE: u32 = 1 << 8;
/// log2 of 32 vectors; larger values are reserved.
const MSI_MAX_LOG2: u32 = 5;

/// The MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Msi {
    pub(crate) at: u64,
    /// Its registers' length, masks included.
    pub(crate) bytes: u64,
    /// Vectors that the device can send, a power of two.
    pub(crate) vectors: u32,
}

/// The MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Msix {
    pub(crate) at: u64,
    /// Entries of the table that a guest sees, 1 to 128.
    pub(crate) entries: u16,
    /// The BAR with the table.
    pub(crate) bar: u8,
}

impl Msix {
    const BYTES: u64 = 12;

    /// The address of the BAR with the table, as dom0's kernel knows it; `None` where that is no memory BAR.
    pub(crate) fn table_bar(&self, resources: &[(u8, Resource)]) -> Option<u64> {
        let (_, resource) = resources.iter().find(|(index, _)| *index == self.bar)?;
        (!matches!(resource.kind(), ResourceKind::Io | ResourceKind::Rom)).then(|| resource.start())
    }
}

/// The capabilities that the broker deals with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Power management.
    pub(crate) power: Option<u64>,
    /// Vital product data.
    pub(crate) vpd: Option<u64>,
    pub(crate) msi: Option<Msi>,
    pub(crate) msix: Option<Msix>,
}

impl Capabilities {
    pub(crate) fn read(config: &Config) -> Result<Self, Error> {
        let ids = [id::POWER_MANAGEMENT, id::VPD, id::MSI, id::MSI_X];
        let [power, vpd, msi, msix] = config.find_capabilities(ids)?;
        let msi = msi.map(|at| read_msi(config, at)).transpose()?;
        let msix = msix.map(|at| read_msix(config, at)).transpose()?;
        Ok(Self { power, vpd, msi, msix })
    }

    /// The same for writes of a guest that does not see some of them.
    pub(crate) fn without(self, hidden: Hidden) -> Self {
        let is_shown = |id| !hidden.contains(false, id);
        Self {
            power: self.power.filter(|_| is_shown(id::POWER_MANAGEMENT)),
            vpd: self.vpd.filter(|_| is_shown(id::VPD)),
            ..self
        }
    }

    /// Whether a register lies in what only the vector commands may touch. Capabilities do not overlap in a sound device.
    pub(crate) fn is_interrupt_register(&self, at: u64, bytes: u64) -> bool {
        let overlaps = |start: u64, length: u64| at < start + length && start < at + bytes;
        self.msi.is_some_and(|msi| overlaps(msi.at, msi.bytes))
            || self.msix.is_some_and(|msix| overlaps(msix.at, Msix::BYTES))
    }
}

/// Layouts: §6.8.1, figure 6-9.
fn read_msi(config: &Config, at: u64) -> Result<Msi, Error> {
    let control = config.read(at + 2, Width::Word)?;
    let upper_address = if control & MSI_64BIT != 0 { 4 } else { 0 };
    let bytes = if control & MSI_MASKABLE != 0 { 20 } else { 10 } + upper_address;
    Ok(Msi { at, bytes, vectors: 1 << (control >> 1 & 7).min(MSI_MAX_LOG2) })
}

/// §6.8.2.3, §6.8.2.4.
fn read_msix(config: &Config, at: u64) -> Result<Msix, Error> {
    let control = config.read(at + 2, Width::Word)?;
    let table = config.read(at + 4, Width::Dword)?;
    let entries = (u16::try_from(control & 0x7ff).unwrap_or_default() + 1).min(MAX_ENTRIES);
    Ok(Msix { at, entries, bar: u8::try_from(table & 7).unwrap_or_default() })
}
