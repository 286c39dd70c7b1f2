//! XSA-476 (CVE-2025-58149): detaching a device, libxl did not take away the right to BARs of 64 bits: the guest could go on mapping them.
//!
//! Ours: what a guest was given for a device is taken back whatever its kind and place, and a detach ends with a look at what the guest has mapped.

use super::{TIMEOUT, attach_to_web, attached, detach_from_web};
use crate::fake::{E1000, EDU, Machine, NVME, WEB, device};

/// A device with a BAR of every kind, those of 64 bits above 4 GiB and below, and ports.
const KINDS: [(u64, u64, u64); 5] = [
    (0xfe90_0000, 0x1000, 0x4_0200),
    (0x10_0000_0000, 0x10_0000, 0x14_0204),
    (0xfd00_0000, 0x1_0000, 0x14_0204),
    (0x20_0000_0000, 0x4000, 0x14_220c),
    (0xd000, 0x80, 0x4_0101),
];
const MANY: &str = "0000:00:0b.0";

#[track_caller]
fn assert_no_rights(machine: &Machine) {
    machine.with(|world| {
        let left: Vec<_> = world.iomem.iter().filter(|(domain, _)| *domain == WEB).collect();
        assert!(left.is_empty(), "frames {left:x?}");
        assert!(world.ioports.iter().all(|(domain, _)| *domain != WEB), "ports");
        assert!(world.irqs.iter().all(|(domain, _)| *domain != WEB), "interrupts");
        assert!(world.pirqs.iter().all(|(domain, _)| *domain != WEB), "pirqs");
    });
}

#[test]
fn rights_to_bars_of_every_kind_go_with_the_device() {
    let machine = Machine::new();
    machine.add_function(MANY, "0x020000", "pciback", 17, &KINDS);
    attach_to_web(&machine, &[MANY]).unwrap();
    machine.with(|world| {
        for (start, size, _) in &KINDS[..4] {
            for frame in [start >> 12, (start + size - 1) >> 12] {
                assert!(world.iomem.contains(&(WEB, frame)), "{frame:x}");
            }
        }
    });
    detach_from_web(&machine, &[MANY]).unwrap();
    assert_no_rights(&machine);
    machine.assert_no_violations();
}

#[test]
fn by_force_too() {
    let machine = attached();
    machine.with(|world| world.guest.keeps = true);
    let request = crate::ops::detach::Request {
        guest: "web".to_owned(),
        backend: None,
        devices: [E1000, EDU, NVME].map(device).to_vec(),
        timeout: TIMEOUT,
        force: true,
    };
    let reclaimed = crate::ops::recover::reclaim(&machine.host).unwrap();
    crate::ops::detach::detach(&machine.host, &request, &reclaimed).unwrap();
    assert_no_rights(&machine);
}
