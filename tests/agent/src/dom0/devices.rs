//! The devices that QEMU gives the machine for passing through (`tests/bench/src/boot.rs`), and what dom0 knows about them.

use std::fs;

use anyhow::{Context, Result};

/// Intel 82540EM: 32-bit memory and port BARs, INTx, no reset method.
pub(crate) const E1000: &str = "0000:00:05.0";
/// QEMU's educational device: one BAR of 1 MiB, INTx and MSI, no reset method.
pub(crate) const EDU: &str = "0000:00:06.0";
/// An NVMe disk: PCI Express, a 64-bit BAR, MSI-X, function level reset.
pub(crate) const NVME: &str = "0000:00:07.0";
/// Intel 82574L: PCI Express, INTx, MSI and MSI-X. QEMU 7.2's MSI fails the test that Linux' driver makes, with or without Xen.
pub(crate) const E1000E: &str = "0000:00:08.0";
/// A SATA controller with a disk: INTx and MSI, no reset method.
pub(crate) const AHCI: &str = "0000:00:0a.0";
/// Another NVMe disk, which can be unplugged. QEMU knows it as `hot`.
pub(crate) const HOT: &str = "0000:01:00.0";
/// The port that it is behind.
pub(crate) const PORT: &str = "0000:00:0b.0";
/// Two of QEMU's educational devices in one slot.
pub(crate) const PAIR: [&str; 2] = ["0000:00:0c.0", "0000:00:0c.1"];
/// Where cases want devices of many kinds: an NVMe controller behind [`PORT`], with virtual functions if dom0 says so,
pub(crate) const PHYSICAL: &str = "0000:01:00.0";
/// the first of them,
pub(crate) const VIRTUAL: &str = "0000:01:00.1";
/// a USB controller behind another port,
pub(crate) const XHCI: &str = "0000:02:00.0";
/// memory shared with nobody, in a prefetchable BAR of 64 bits,
pub(crate) const SHARED_MEMORY: &str = "0000:00:0e.0";
/// and a SCSI controller with an expansion ROM.
pub(crate) const PVSCSI: &str = "0000:00:0f.0";
/// Where cases want a host with much else on it: an IDE controller in legacy mode, to which Linux gives ports of its own, one of them alone,
pub(crate) const IDE: &str = "0000:00:01.0";
/// the primary VGA, whose ROM Linux takes for the copy that firmware made,
pub(crate) const VGA: &str = "0000:00:02.0";
/// two network cards with registers of 256 bytes,
pub(crate) const SMALL: [&str; 2] = ["0000:00:0b.0", "0000:00:0c.0"];
/// and a USB controller, virtio's network, disk, random numbers, SCSI, serial and balloon, megasas, vmxnet3, SD, PCnet, e100, mptsas, am53c974, an IndustryPack
/// carrier (class 0680h, as bridges have it), QEMU's test device, tulip, NE2000 and pvscsi.
pub(crate) const MANY_MORE: [&str; 19] = [
    "0000:00:04.0",
    "0000:00:0d.0",
    "0000:00:0e.0",
    "0000:00:0f.0",
    "0000:00:10.0",
    "0000:00:11.0",
    "0000:00:12.0",
    "0000:00:13.0",
    "0000:00:14.0",
    "0000:00:15.0",
    "0000:00:16.0",
    "0000:00:17.0",
    "0000:00:18.0",
    "0000:00:19.0",
    "0000:00:1a.0",
    "0000:00:1b.0",
    "0000:00:1c.0",
    "0000:00:1d.0",
    "0000:00:1e.0",
];
/// Those that the pool has from the start.
pub(crate) const ALL: [&str; 3] = [E1000, EDU, NVME];

/// A device's folder in sysfs, the same in dom0 and in guests.
pub(crate) fn sysfs(device: &str) -> String {
    format!("/sys/bus/pci/devices/{device}")
}

/// A file of a device in dom0, without the newline at its end.
pub(crate) fn attribute(device: &str, name: &str) -> Result<String> {
    let path = format!("{}/{name}", sysfs(device));
    Ok(fs::read_to_string(&path).with_context(|| format!("reading {path}"))?.trim_end().to_owned())
}

/// Vendor and device of a device as configuration space has them in its first dword.
pub(crate) fn ids(device: &str) -> Result<u32> {
    let hex =
        |name| Ok::<_, anyhow::Error>(u32::from_str_radix(attribute(device, name)?.trim_start_matches("0x"), 16)?);
    Ok(hex("device")? << 16 | hex("vendor")?)
}

/// A device's configuration space as dom0 reads it: 256 bytes, or 4,096 of a PCI Express device.
pub(crate) fn config(device: &str) -> Result<Vec<u8>> {
    let path = format!("{}/config", sysfs(device));
    fs::read(&path).with_context(|| format!("reading {path}"))
}

/// An address as a component of a xenstore path.
pub(crate) fn component(device: &str) -> String {
    device.replace([':', '.'], "-")
}
