//! XSA-302 (CVE-2019-18424): a device that left its guest went back to dom0 in the IOMMU, and what it still did of DMA went into dom0's memory.
//!
//! Xen quarantines such devices since then. Ours: a device leaves its guest quiesced, and nobody but the quarantine (`DOMID_IO`) has it until the next guest
//! gets it, wherever on the way a command fails.

use xen_types::DomId;

use super::{attached, detach_from_web};
use crate::fake::{E1000, EDU, Machine, NVME, WEB, device};

const ALL: [&str; 3] = [E1000, EDU, NVME];
const BUS_MASTER: u16 = 4;

/// "web" uses its devices, which do DMA.
fn busy() -> Machine {
    let machine = attached();
    for name in ALL {
        let mut config = machine.config(name);
        config.set_word(4, config.word(4) | BUS_MASTER);
        machine.tree.write(format!("bus/pci/devices/{name}/config"), config.bytes);
    }
    machine
}

/// Each device is the guest's, or nobody's and quiesced.
#[track_caller]
fn assert_contained(machine: &Machine, when: &str) {
    for name in ALL {
        let owner = machine.with(|world| world.owners[&device(name)]);
        assert!([WEB, DomId::IO].contains(&owner), "{when}: domain {owner} has {name}");
        let does_dma = machine.config(name).word(4) & BUS_MASTER != 0;
        assert!(owner == WEB || !does_dma, "{when}: {name} is nobody's and does DMA");
    }
}

#[test]
fn a_device_that_leaves_its_guest_is_quiet_and_in_quarantine() {
    let machine = busy();
    detach_from_web(&machine, &ALL).unwrap();
    assert_contained(&machine, "detached");
    for name in ALL {
        assert_eq!(machine.with(|world| world.owners[&device(name)]), DomId::IO, "{name}");
    }
}

#[test]
fn and_so_it_is_wherever_a_detach_ends() {
    for at in 1..400 {
        let machine = busy();
        let before = machine.with(|world| {
            world.failing_after = Some(world.changes + at - 1);
            world.changes
        });
        let done = detach_from_web(&machine, &ALL);
        assert_contained(&machine, &format!("nothing works from change {at} on"));
        if done.is_ok() && machine.with(|world| world.changes < before + at) {
            assert!(at > 10, "{at} changes");
            return;
        }
    }
    panic!("a detach takes fewer changes");
}
