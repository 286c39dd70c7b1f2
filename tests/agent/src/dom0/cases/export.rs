//! Export modes chosen for each guest (`attach --export`).

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{E1000, EDU, NVME, attribute, sysfs},
    fixture::Fixture,
    guests::{Domain, GuestOptions},
};

pub(super) const CASES: &[Case] = &[
    Case::new("in_slot_mode_devices_come_and_go_on_the_first_free_slots", slot),
    Case::new("in_passthrough_mode_devices_come_and_go_at_their_real_addresses", passthrough),
];

/// A running guest with two devices in this mode.
fn guest(fixture: &mut Fixture, mode: &str) -> Result<Domain> {
    fixture.stub_with_pool()?;
    for device in [E1000, EDU, NVME] {
        fixture.free(device)?;
    }
    let guest = fixture.create_guest(mode, GuestOptions::default())?;
    fixture.pcidom(&["attach", "--export", mode, mode, E1000, NVME])?;
    fixture.unpause(&guest)?;
    let deadline = fixture.deadline;
    let state = guest.node("device/pci/0/state");
    fixture.store.wait_for(&state, deadline, |state| state == Some("4")).context("the guest did not connect")?;
    Ok(guest)
}

/// The guest's kernel has just these devices, at these addresses.
fn check(fixture: &mut Fixture, guest: &Domain, want: &[(&str, &str)]) -> Result<()> {
    let mut found = fixture.addresses_in(guest)?;
    found.sort();
    let addresses: Vec<_> = want.iter().map(|(address, _)| *address).collect();
    ensure!(found == addresses, "the guest has {found:?}, not {addresses:?}");
    for (address, device) in want {
        let seen = fixture.in_guest(guest, &format!("cat {}/device", sysfs(address)))?;
        let seen = String::from_utf8_lossy(&seen).trim_end().to_owned();
        ensure!(seen == attribute(device, "device")?, "{device} is {seen} in the guest");
        let told = fixture.virtual_address(guest, device)?;
        ensure!(told == *address, "the stub says that {device} is at {told}");
    }
    Ok(())
}

fn slot(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture, "slot")?;
    check(fixture, &guest, &[("0000:00:00.0", E1000), ("0000:00:01.0", NVME)])?;
    fixture.pcidom(&["attach", "slot", &format!("{EDU}@5")])?;
    check(fixture, &guest, &[("0000:00:00.0", E1000), ("0000:00:01.0", NVME), ("0000:00:05.0", EDU)])?;
    fixture.pcidom(&["detach", "slot", E1000, EDU])?;
    check(fixture, &guest, &[("0000:00:01.0", NVME)])?;
    fixture.pcidom(&["attach", "slot", EDU])?;
    check(fixture, &guest, &[("0000:00:00.0", EDU), ("0000:00:01.0", NVME)])?;
    fixture.pcidom(&["detach", "slot", EDU, NVME])?;
    check(fixture, &guest, &[])?;
    fixture.destroy(&guest)
}

fn passthrough(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture, "passthrough")?;
    check(fixture, &guest, &[(E1000, E1000), (NVME, NVME)])?;
    fixture.pcidom_fails(&["attach", "--export", "slot", "passthrough", EDU], 1, "passthrough")?;
    fixture.pcidom(&["attach", "passthrough", &format!("{EDU}@1")])?;
    check(fixture, &guest, &[(E1000, E1000), (EDU, EDU), (NVME, NVME)])?;
    fixture.pcidom(&["detach", "passthrough", E1000])?;
    check(fixture, &guest, &[(EDU, EDU), (NVME, NVME)])?;
    fixture.pcidom(&["detach", "passthrough", EDU, NVME])?;
    fixture.destroy(&guest)
}
