//! dom0's view of a PCI function: `/sys/bus/pci`.
//!
//! Everything is read below one root and through [`Kernel`], so that tests run on a folder, or on functions in memory.

mod config;
mod kernel;
mod pristine;
pub mod resource;

pub use config::{Config, Decode, Width};
pub use kernel::{ConfigFile, Kernel, PRISTINE};

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use pci_registers::{command, header, sr_iov};
use xen_types::{Resource, Sbdf};

use crate::error::Error;
use crate::lock::{self, Lock};

/// Where it is.
pub const SYSFS: &str = "/sys";
/// The directory of Linux's xen-pciback among the drivers; it parks the devices.
pub const PCIBACK: &str = "pciback";

/// Linux.
pub struct Linux;

impl Kernel for Linux {
    fn is_writing(&self, path: &Path) -> bool {
        is_under_way(lock::folder(), path)
    }
}

/// Time to wait for a write that is under way. The usual one takes a tenth of a second.
const UNTIL_WRITTEN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Whether such a write is under way, begun by whomever; waits for a moment for its end.
#[must_use]
pub fn is_under_way(folder: &Path, path: &Path) -> bool {
    folder.join(writer_lock(path)).exists() && !matches!(try_take_writer(folder, path), Ok(Some(_)))
}

/// Takes the lock that whoever writes to an attribute has as long as the kernel is at it; waits for a moment for somebody else's.
///
/// # Errors
/// The lock's.
pub fn try_take_writer(folder: &Path, path: &Path) -> io::Result<Option<Lock>> {
    let mut left = UNTIL_WRITTEN;
    loop {
        let lock = Lock::try_take_in(folder, &writer_lock(path)).map_err(io::Error::other)?;
        if lock.is_some() || left.is_zero() {
            return Ok(lock);
        }
        thread::sleep(LOOK_AGAIN);
        left = left.saturating_sub(LOOK_AGAIN);
    }
}

/// Its name: the function's and the attribute's.
fn writer_lock(path: &Path) -> String {
    let [device, attribute] = [path.parent().and_then(Path::file_name), path.file_name()]
        .map(|name| name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
    format!("pcidom-{attribute}-{device}.lock")
}

/// sysfs.
#[derive(Clone)]
pub struct Sysfs {
    root: PathBuf,
    kernel: Rc<dyn Kernel>,
}

impl Sysfs {
    /// Below this folder.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, kernel: Rc<dyn Kernel>) -> Self {
        Self { root: root.into(), kernel }
    }

    /// The folder that all of it is in.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a function's attributes.
    #[must_use]
    pub fn device_dir(&self, device: Sbdf) -> PathBuf {
        self.root.join("bus/pci/devices").join(device.to_string())
    }

    /// An attribute's text.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, path: &Path) -> Result<String, Error> {
        self.kernel.read(path).map_err(|source| Error::File { path: path.to_owned(), source })
    }

    /// Whether dom0 sees the function.
    #[must_use]
    pub fn exists(&self, device: Sbdf) -> bool {
        self.kernel.exists(&self.device_dir(device))
    }

    /// Resources of the function's BARs and ROM, by index (6 is the ROM).
    ///
    /// # Errors
    /// A file that cannot be read, or makes no sense.
    pub fn resources(&self, device: Sbdf) -> Result<Vec<(u8, Resource)>, Error> {
        self.parse_resource(device, resource::parse)
    }

    /// What a parser makes of the attribute `resource`.
    ///
    /// # Errors
    /// A file that cannot be read, or makes no sense.
    pub fn parse_resource<T>(&self, device: Sbdf, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Error> {
        let path = self.device_dir(device).join("resource");
        parse(&self.read(&path)?).map_err(|value| Error::Nonsense { place: path.display().to_string(), value })
    }

    /// The global interrupt of the device's INTx pin; `None` where it has none that a guest could have. 255 in the interrupt line register means
    /// "not connected" on x86 (PCI Local Bus 3.0 §6.2.4), the kernel's word for that is 2^31 (`IRQ_NOTCONNECTED`), which some show with a
    /// sign, and what is beyond eight bits does not go into a guest's register.
    ///
    /// # Errors
    /// A file that cannot be read, or makes no sense.
    pub fn gsi(&self, device: Sbdf) -> Result<Option<u32>, Error> {
        let path = self.device_dir(device).join("irq");
        let text = self.read(&path)?;
        let irq: i64 = text
            .trim()
            .parse()
            .map_err(|_| Error::Nonsense { place: path.display().to_string(), value: text.clone() })?;
        Ok(u32::try_from(irq).ok().filter(|irq| (1..255).contains(irq)))
    }

    /// The name of the driver that has the device.
    #[must_use]
    pub fn driver(&self, device: Sbdf) -> Option<String> {
        self.kernel.read_link(&self.device_dir(device).join("driver"))
    }

    /// The physical function that this is a virtual one of; `None` where it is none.
    #[must_use]
    pub fn physical_function(&self, device: Sbdf) -> Option<Sbdf> {
        self.kernel.read_link(&self.device_dir(device).join("physfn"))?.parse().ok()
    }

    /// Vendor and device id as dom0's kernel knows them, as their dword.
    ///
    /// # Errors
    /// A file that cannot be read, or makes no sense.
    pub fn ids(&self, device: Sbdf) -> Result<u32, Error> {
        let id = |name| {
            let path = self.device_dir(device).join(name);
            let text = self.read(&path)?;
            u16::from_str_radix(text.trim().trim_start_matches("0x"), 16)
                .map_err(|_| Error::Nonsense { place: path.display().to_string(), value: text.clone() })
        };
        Ok(u32::from(id("device")?) << 16 | u32::from(id("vendor")?))
    }

    /// Whether the registers of a function's virtual ones answer. Their own decode bits are hard-wired (§9.3.4.1.3), and Xen looks for the physical
    /// function's besides (`memory_decoded`, `xen/arch/x86/msi.c`). `sr_iov` is where that one has its SR-IOV capability.
    ///
    /// # Errors
    /// A file that cannot be read, or makes no sense.
    pub fn decodes_virtual_functions(&self, physical: Sbdf, sr_iov: u16) -> Result<bool, Error> {
        const ON: u32 = (sr_iov::ENABLE | sr_iov::MEMORY_ENABLE) as u32;
        let config = self.config(physical)?;
        let is_on = config.read(sr_iov + sr_iov::CONTROL, Width::Word)? & ON == ON;
        Ok(is_on && config.read(header::COMMAND, Width::Word)? & u32::from(command::MEMORY_DECODE) != 0)
    }

    /// The function's configuration space.
    ///
    /// # Errors
    /// [`Error::ResetHangs`] while a reset is under way that does not end: whoever reads there would wait for it, and nothing could interrupt
    /// that.
    pub fn config(&self, device: Sbdf) -> Result<Config, Error> {
        if self.is_resetting(device) {
            return Err(Error::ResetHangs(device));
        }
        Config::open(&*self.kernel, self.device_dir(device).join("config"))
    }

    /// Whether a reset is under way that does not end.
    #[must_use]
    pub fn is_resetting(&self, device: Sbdf) -> bool {
        self.kernel.is_writing(&self.device_dir(device).join("reset"))
    }

    /// As [`Sysfs::config`]; `None` where dom0 does not see the function (any more).
    ///
    /// # Errors
    /// A file that cannot be read, or makes no sense.
    pub fn find_config(&self, device: Sbdf) -> Result<Option<Config>, Error> {
        match self.config(device) {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            outcome => outcome.map(Some),
        }
    }
}
