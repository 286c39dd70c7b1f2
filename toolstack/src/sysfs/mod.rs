//! dom0's view of the PCI devices as commands have it: besides what the crate `dom0` reads, drivers, resets, and what firmware says
//! about configuration space.
//!
//! Everything written goes through [`Writes`], so that tests run on a folder with a fake kernel that answers writes as Linux does.

mod errors;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
pub(crate) mod identity;
pub(crate) mod legacy_list;
mod mcfg;
mod pending;
mod pristine;
mod reserved;
mod survey;
mod virtual_functions;
mod walk;
mod writer;

pub(crate) use ::dom0::sysfs::{Decode, Kernel, PCIBACK, Width};
pub(crate) use walk::ConfigWalk;

pub(crate) use errors::ErrorCounters;
pub(crate) use pending::Pending;

use std::fs;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ::dom0::Error as HostError;
use ::dom0::lock;
use ::dom0::sysfs::{Linux, resource};
use pci_registers::header;
use xen_types::{Mfn, Sbdf};

use crate::error::Error;

/// Class codes (`PCI Code and ID Assignment 1.11 §1.7`) of what a machine cannot do without, though its header is an endpoint's: host bridges,
/// and those to ISA, EISA and Micro Channel.
const PLATFORM: std::ops::RangeInclusive<u32> = 0x0600..=0x0603;

/// What happens when something is written to an attribute.
pub(crate) trait Writes: Kernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Begins to write what the kernel takes long over.
    fn begin(&self, path: &Path, text: &'static str) -> Pending {
        let done = self.write(path, text);
        Pending::new(|| done)
    }
}

impl Writes for Linux {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // An attribute is not to be created, and one write is one command.
        fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    }

    fn begin(&self, path: &Path, text: &'static str) -> Pending {
        writer::begin(lock::folder(), path, text)
    }
}

/// sysfs.
pub(crate) struct Sysfs {
    base: ::dom0::sysfs::Sysfs,
    kernel: Rc<dyn Writes>,
}

impl Deref for Sysfs {
    type Target = ::dom0::sysfs::Sysfs;

    fn deref(&self) -> &Self::Target {
        &self.base
    }
}

impl Sysfs {
    pub(crate) fn new(root: impl Into<PathBuf>, kernel: Rc<dyn Writes>) -> Self {
        Self { base: ::dom0::sysfs::Sysfs::new(root, kernel.clone()), kernel }
    }

    fn driver_dir(&self, driver: &str) -> PathBuf {
        self.root().join("bus/pci/drivers").join(driver)
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Error> {
        Ok(self.kernel.write(path, text).map_err(|source| HostError::File { path: path.to_owned(), source })?)
    }

    /// All functions that Linux has found, in order, but those of [`Sysfs::unnameable`].
    pub(crate) fn devices(&self) -> Result<Vec<Sbdf>, Error> {
        let mut devices: Vec<Sbdf> = self.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        devices.sort_unstable();
        Ok(devices)
    }

    /// Functions in segments that Xen cannot name: it has 16 bits for them, and Linux puts those behind a VMD controller at 10000h and above.
    pub(crate) fn unnameable(&self) -> Result<Vec<String>, Error> {
        let mut names = self.names()?;
        names.retain(|name| name.parse::<Sbdf>().is_err());
        names.sort_unstable();
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let path = self.root().join("bus/pci/devices");
        let entries = fs::read_dir(&path).map_err(|source| HostError::File { path, source })?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Whether the function is a bridge, or so much a part of the machine that it is for nobody else: the layout of its header says it, but of
    /// the latter. Classes alone do not: 0680h is also that of switches' endpoints.
    pub(crate) fn is_bridge(&self, device: Sbdf) -> Result<bool, Error> {
        let header = self.config(device)?.read(header::HEADER_TYPE, Width::Byte)?;
        if header == Width::Byte.bits() {
            return Ok(false); // nothing answers, and who wants the device is told so
        }
        if header & u32::from(header::LAYOUT) != 0 {
            return Ok(true);
        }
        let path = self.device_dir(device).join("class");
        let text = self.read(&path)?;
        let class = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .map_err(|_| HostError::Nonsense { place: path.display().to_string(), value: text.clone() })?;
        Ok(PLATFORM.contains(&(class >> 8)))
    }

    /// What the kernel says that the function has besides, as people read it: ranges that are in none of its registers.
    pub(crate) fn ranges_elsewhere(&self, device: Sbdf) -> Result<Vec<String>, Error> {
        Ok(self.parse_resource(device, resource::not_own)?)
    }

    /// First and last address of all memory in which the function may have registers.
    pub(crate) fn memory(&self, device: Sbdf) -> Result<Vec<(u64, u64)>, Error> {
        Ok(self.parse_resource(device, resource::memory)?)
    }

    /// Whether the function has an INTx pin.
    pub(crate) fn has_pin(&self, device: Sbdf) -> Result<bool, Error> {
        Ok(!matches!(self.config(device)?.read(header::INTERRUPT_PIN, Width::Byte)?, 0 | 0xff))
    }

    /// The only driver that the kernel lets have the device; none where any may.
    pub(crate) fn driver_override(&self, device: Sbdf) -> Option<String> {
        const UNSET: &str = "(null)";
        let text = fs::read_to_string(self.device_dir(device).join("driver_override")).ok()?;
        Some(text.trim().to_owned()).filter(|driver| !driver.is_empty() && driver != UNSET)
    }

    pub(crate) fn set_driver_override(&self, device: Sbdf, driver: &str) -> Result<(), Error> {
        self.write(&self.device_dir(device).join("driver_override"), driver)
    }

    pub(crate) fn bind(&self, device: Sbdf, driver: &str) -> Result<(), Error> {
        self.write(&self.driver_dir(driver).join("bind"), &device.to_string())
    }

    pub(crate) fn unbind(&self, device: Sbdf, driver: &str) -> Result<(), Error> {
        self.write(&self.driver_dir(driver).join("unbind"), &device.to_string())
    }

    pub(crate) fn has_pciback(&self) -> bool {
        self.driver_dir(PCIBACK).exists()
    }

    /// Whether xen-pciback would accept the device: it has a slot for it.
    pub(crate) fn has_pciback_slot(&self, device: Sbdf) -> Result<bool, Error> {
        let slots = self.read(&self.driver_dir(PCIBACK).join("slots"))?;
        Ok(slots.lines().any(|line| line.trim().parse() == Ok(device)))
    }

    pub(crate) fn add_pciback_slot(&self, device: Sbdf) -> Result<(), Error> {
        self.write(&self.driver_dir(PCIBACK).join("new_slot"), &device.to_string())
    }

    pub(crate) fn remove_pciback_slot(&self, device: Sbdf) -> Result<(), Error> {
        self.write(&self.driver_dir(PCIBACK).join("remove_slot"), &device.to_string())
    }

    /// Whether Linux knows a way to reset this function alone.
    pub(crate) fn can_reset(&self, device: Sbdf) -> bool {
        self.device_dir(device).join("reset").exists()
    }

    /// Begins to reset the function by whatever way Linux knows; `None` where it knows none for this function alone. What is answered
    /// waits for the end.
    pub(crate) fn begin_reset(&self, device: Sbdf) -> Option<impl FnOnce() -> Result<(), Error> + use<>> {
        let path = self.device_dir(device).join("reset");
        path.exists().then(|| {
            let pending = self.kernel.begin(&path, "1");
            move || {
                pending.wait().map_err(|source| match source.kind() {
                    io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy => HostError::ResetHangs(device).into(),
                    _ => HostError::File { path, source }.into(),
                })
            }
        })
    }

    /// The machine frame that holds the function's 4 KiB of configuration space.
    pub(crate) fn ecam_frame(&self, device: Sbdf) -> Result<Mfn, Error> {
        let path = self.root().join("firmware/acpi/tables/MCFG");
        match fs::read(&path) {
            Ok(table) => mcfg::ecam_frame(&table, device).ok_or(Error::NoEcam(device)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoEcam(device)),
            Err(source) => Err(HostError::File { path, source }.into()),
        }
    }
}
