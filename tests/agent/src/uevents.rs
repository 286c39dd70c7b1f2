//! Kernel uevents of devices and drivers.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, bind, netlink, socket};

/// The group that the kernel itself sends to.
const KERNEL: u32 = 1;

/// `await-bound DRIVER`: waits until a PCI driver has a device.
pub(crate) fn await_bound(driver: &str) -> Result<Vec<u8>> {
    let events = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::KOBJECT_UEVENT))?;
    bind(&events, &netlink::SocketAddrNetlink::new(0, KERNEL))?;
    // Only now, so that no event is missed.
    let dir = format!("/sys/bus/pci/drivers/{driver}");
    let mut buffer = [0; 4096];
    while !has_device(Path::new(&dir))? {
        loop {
            let length = rustix::io::read(&events, &mut buffer)?;
            // `bind@/devices/pci…` and then `KEY=VALUE`s, each with a zero behind it.
            if buffer.get(..length).context("a short buffer")?.starts_with(b"bind@/devices/pci") {
                break;
            }
        }
    }
    Ok(Vec::new())
}

/// Whether one of a driver's entries is a device's address.
fn has_device(driver: &Path) -> Result<bool> {
    let entries = fs::read_dir(driver).with_context(|| format!("listing {}", driver.display()))?;
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains(':')))
}
