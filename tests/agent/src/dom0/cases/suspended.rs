//! A guest that the admin suspends to memory, as Qubes does before the host sleeps.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{EDU, NVME},
    fixture::Fixture,
    network,
    report::Skipped,
};

pub(super) const CASES: &[Case] =
    &[Case::new("a_guest_that_is_suspended_to_memory_and_resumed_has_its_disk_and_interrupts", suspended_and_resumed)];

const DISK: &str = "/dev/nvme0n1";
const MIB: u32 = 4;

/// The devices stay the guest's own while it is suspended, and others are served. Its driver turns interrupts off before and on again afterwards.
fn suspended_and_resumed(fixture: &mut Fixture) -> Result<()> {
    if !fixture.xl(&["help"])?.lines().any(|line| line.trim_start().starts_with("suspend ")) {
        return Err(Skipped("this xl has no `suspend` (Xen 4.20 has)".to_owned()).into());
    }
    fixture.clear();
    fixture.broker()?;
    let other = fixture.guest_with("other", &[EDU])?;
    let guest = fixture.guest_with("sleeper", &[NVME])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    let seed = network::seed()?;
    for round in 0..3 {
        let (before, after) = (seed ^ round, seed ^ (round + 16));
        fixture.in_guest(&guest, &format!("disk-write {DISK} {before} {MIB}"))?;
        fixture.xl(&["suspend", &guest.name])?;
        let listed = fixture.pcidom(&["list"])?;
        ensure!(
            listed.lines().any(|line| line.contains(NVME) && line.contains(&guest.name)),
            "it is not the guest's while that is suspended:\n{listed}"
        );
        fixture.pcidom_fails(&["attach", &guest.name, EDU], 1, "sleeper")?;
        fixture.in_guest(&other, "read-often /sys/bus/pci/devices/0000:00:00.0/config 0 500")?;
        // The broker looks for guests that have ended.
        std::thread::sleep(Duration::from_secs(1));
        fixture.xl(&["resume", &guest.name])?;
        fixture.in_guest(&guest, &format!("disk-check {DISK} {before} {MIB}"))?;
        fixture.in_guest(&guest, &format!("disk-write {DISK} {after} {MIB}"))?;
        fixture.in_guest(&guest, &format!("disk-check {DISK} {after} {MIB}"))?;
        fixture.expect_connected(&guest)?;
    }
    fixture.detach(&guest, &[NVME])?;
    fixture.destroy(&guest)
}
