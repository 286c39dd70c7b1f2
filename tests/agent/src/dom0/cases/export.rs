//! How a guest sees its devices, chosen for that guest.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    bed::Bed,
    devices::{E1000, EDU, NVME, attribute, sysfs},
    guests::{Domain, GuestOptions},
};

pub(super) const CASES: &[Case] = &[
    Case::new("in_slot_mode_devices_come_and_go_on_the_first_free_slots", slot),
    Case::new("in_passthrough_mode_devices_come_and_go_at_their_real_addresses", passthrough),
];

/// A running guest with two devices in this mode.
fn guest(bed: &mut Bed, mode: &str) -> Result<Domain> {
    bed.stub_with_pool()?;
    for device in [E1000, EDU, NVME] {
        bed.free(device)?;
    }
    let guest = bed.create_guest(mode, GuestOptions::default())?;
    bed.pcidom(&["attach", "--export", mode, mode, E1000, NVME])?;
    bed.unpause(&guest)?;
    let deadline = bed.deadline;
    let state = guest.node("device/pci/0/state");
    bed.store.wait_for(&state, deadline, |state| state == Some("4")).context("the guest did not connect")?;
    Ok(guest)
}

/// The guest's kernel has just these devices, at these addresses.
fn check(bed: &mut Bed, guest: &Domain, want: &[(&str, &str)]) -> Result<()> {
    let mut found = bed.addresses_in(guest)?;
    found.sort();
    let addresses: Vec<_> = want.iter().map(|(address, _)| *address).collect();
    ensure!(found == addresses, "the guest has {found:?}, not {addresses:?}");
    for (address, device) in want {
        let seen = bed.in_guest(guest, &format!("cat {}/device", sysfs(address)))?;
        let seen = String::from_utf8_lossy(&seen).trim_end().to_owned();
        ensure!(seen == attribute(device, "device")?, "{device} is {seen} in the guest");
        let told = bed.virtual_address(guest, device)?;
        ensure!(told == *address, "the stub says that {device} is at {told}");
    }
    Ok(())
}

fn slot(bed: &mut Bed) -> Result<()> {
    let guest = guest(bed, "slot")?;
    check(bed, &guest, &[("0000:00:00.0", E1000), ("0000:00:01.0", NVME)])?;
    bed.pcidom(&["attach", "slot", &format!("{EDU}@5")])?;
    check(bed, &guest, &[("0000:00:00.0", E1000), ("0000:00:01.0", NVME), ("0000:00:05.0", EDU)])?;
    bed.pcidom(&["detach", "slot", E1000, EDU])?;
    check(bed, &guest, &[("0000:00:01.0", NVME)])?;
    bed.pcidom(&["attach", "slot", EDU])?;
    check(bed, &guest, &[("0000:00:00.0", EDU), ("0000:00:01.0", NVME)])?;
    bed.pcidom(&["detach", "slot", EDU, NVME])?;
    check(bed, &guest, &[])?;
    bed.destroy(&guest)
}

fn passthrough(bed: &mut Bed) -> Result<()> {
    let guest = guest(bed, "passthrough")?;
    check(bed, &guest, &[(E1000, E1000), (NVME, NVME)])?;
    bed.pcidom_fails(&["attach", "--export", "slot", "passthrough", EDU], 1, "passthrough")?;
    bed.pcidom(&["attach", "passthrough", &format!("{EDU}@1")])?;
    check(bed, &guest, &[(E1000, E1000), (EDU, EDU), (NVME, NVME)])?;
    bed.pcidom(&["detach", "passthrough", E1000])?;
    check(bed, &guest, &[(EDU, EDU), (NVME, NVME)])?;
    bed.pcidom(&["detach", "passthrough", EDU, NVME])?;
    bed.destroy(&guest)
}
