//! XSA-449 (CVE-2023-46839): a device with phantom functions does DMA under numbers that belong to no function, and those could be in another domain's IOMMU context.
//!
//! That is Xen's, which has mended it. Ours: `doctor` tells which devices have them.

use crate::doctor::{Opened, examine};
use crate::fake::{EDU, Machine, NVME};

#[test]
fn doctor_tells_of_phantom_functions() {
    let machine = Machine::new();
    let mut config = machine.config(NVME);
    config.add_capability(0x60, 0x10, 0);
    config.bytes[0x51] = 0x60;
    config.set_word(0x64, 1 << 3); // Device Capabilities: one bit of the function number
    machine.tree.write(format!("bus/pci/devices/{NVME}/config"), config.bytes);
    let text = examine(&Opened::of(machine.host), "pcidom", &[NVME.to_owned(), EDU.to_owned()]).text();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("XSA-449")).collect();
    assert!(matches!(told[..], [line] if line.contains(NVME)), "{text}");
}
