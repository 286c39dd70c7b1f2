//! Guests and stubs come and go, and so do frontends.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, ONE, TWO};
use crate::dom0::{
    bed::Bed,
    devices::{E1000E, EDU, NVME, component},
    guests::{Domain, GuestOptions},
    stub,
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_frontend_that_is_unloaded_and_loaded_again_gets_devices", reloaded),
    Case::new("a_frontend_that_is_unbound_and_loaded_again_gets_devices", unbound),
    Case::new("a_backend_directory_removed_by_force_lets_go_of_its_devices", directory_removed),
    Case::new("a_guest_with_devices_is_destroyed_in_less_than_3_s", destroyed),
    Case::new("the_devices_of_a_guest_that_crashes_are_free_again", crashed),
    Case::new("devices_follow_a_guest_that_reboots", rebooted),
    Case::new("devices_follow_or_are_free_when_the_stub_was_shut_down_and_started_again", stub_stopped),
    Case::new("devices_follow_when_the_stub_was_destroyed_and_started_again", stub_destroyed),
];

/// A guest that uses a disk with its driver, and one that must not notice anything.
fn guests(bed: &mut Bed) -> Result<(Domain, Domain)> {
    let guest = bed.having(ONE, &[NVME, EDU])?;
    bed.in_guest(&guest, "load nvme")?;
    bed.await_disk(&guest, "/dev/nvme0n1")?;
    Ok((guest, bed.having(TWO, &[E1000E])?))
}

fn unharmed(bed: &mut Bed, other: &Domain) -> Result<()> {
    bed.expect_connected(other)?;
    bed.expect_in_guest(other, &[E1000E])
}

/// As long as a device is bound to the driver, the guest's kernel does not let its module go.
fn reloaded(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    let refused = bed.ask(&guest, "unload xen-pcifront")?;
    ensure!(bed.answer(&refused)?.0 != 0, "the driver went, and its devices were in use");
    bed.detach(&guest, &[NVME, EDU])?;
    bed.in_guest(&guest, "unload xen-pcifront")?;
    bed.pcidom_fails(&["attach", "--timeout", "2", &guest.name, NVME, EDU], 3, "did not answer")?;
    bed.in_guest(&guest, "load xen-pcifront")?;
    back_again(bed, &guest)?;
    unharmed(bed, &other)
}

/// A driver that is taken off its device closes, and one that is put on it again finds our end at 6 and gives up at once (Linux 6.1,
/// `pcifront_backend_changed`). With a new directory it begins anew.
fn unbound(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    bed.in_guest(&guest, "echo pci-0 >/sys/bus/xen/drivers/pcifront/unbind")?;
    bed.await_frontend(&guest, "6")?;
    bed.await_backend(&guest, "6")?;
    ensure!(bed.addresses_in(&guest)?.is_empty(), "the guest still has devices");
    bed.in_guest(&guest, "unload xen-pcifront")?;
    unharmed(bed, &other)?;
    bed.in_guest(&guest, "load xen-pcifront")?;
    bed.detach(&guest, &[NVME, EDU])?;
    back_again(bed, &guest)?;
    unharmed(bed, &other)
}

/// The guest gets its devices and uses them.
fn back_again(bed: &mut Bed, guest: &Domain) -> Result<()> {
    bed.attach(guest, &[NVME, EDU])?;
    bed.expect_in_guest(guest, &[NVME, EDU])?;
    bed.await_disk(guest, "/dev/nvme0n1")?;
    bed.check_kind(guest, "nvme0q", "pcifront-msi-x", 2)?;
    bed.in_guest(guest, "disk-write /dev/nvme0n1 3 1")?;
    bed.in_guest(guest, "disk-check /dev/nvme0n1 3 1").map(drop)
}

fn directory_removed(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    let (stub, backend) = (bed.stub()?, bed.backend(&guest)?);
    bed.store.remove(&backend)?;
    let deadline = bed.deadline;
    for device in [NVME, EDU] {
        let state = stub.node(&format!("pool/{}/state", component(device)));
        bed.store.wait_for(&state, deadline, |state| state == Some("free"))?;
    }
    unharmed(bed, &other)?;
    bed.in_guest(&guest, "true")?;
    // Nobody told the guest, and its drivers ask in vain until they give up. As long as they are there, nobody else gets their devices.
    let outcome = bed.try_pcidom(&["detach", &guest.name, NVME, EDU])?;
    println!("agent: detach says: {}", outcome.stderr.trim());
    ensure!(outcome.code() == 0 || outcome.stderr.contains("still held by one"), "{outcome:?}");
    bed.destroy(&guest)?;
    ensure!(bed.domains.contains(&stub), "the stub is another one");
    bed.having(TWO, &[E1000E, EDU])?;
    bed.expect_in_guest(&other, &[E1000E, EDU])
}

fn destroyed(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    let started = Instant::now();
    bed.xl(&["destroy", &guest.name])?;
    let took = started.elapsed();
    println!("agent: `xl destroy` took {:.2} s", took.as_secs_f64());
    gone(bed, &guest)?;
    println!("agent: after {:.2} s its devices were free", started.elapsed().as_secs_f64());
    ensure!(took < Duration::from_secs(3), "{took:?}");
    unharmed(bed, &other)
}

fn crashed(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    // It does not answer any more.
    bed.ask(&guest, "echo c >/proc/sysrq-trigger")?;
    gone(bed, &guest)?;
    unharmed(bed, &other)
}

/// A guest has gone by itself; the broker takes its devices back without being asked.
fn gone(bed: &mut Bed, guest: &Domain) -> Result<()> {
    let deadline = bed.deadline;
    bed.store.wait_for(&guest.node("vm"), deadline, |value| value.is_none())?;
    bed.domains.retain(|other| other != guest);
    for device in [NVME, EDU] {
        let owner = format!("/tool/pcidom/device/{}/frontend", component(device));
        bed.store.wait_for(&owner, deadline, |owner| owner.is_none()).context("the table still has it")?;
        let state = bed.stub()?.node(&format!("pool/{}/state", component(device)));
        bed.store.wait_for(&state, deadline, |state| state == Some("free"))?;
        bed.expect_free(device)?;
    }
    let backend = bed.stub()?.node(&format!("backend/pci/{}", guest.id));
    bed.store.wait_for(&backend, deadline, |dir| dir.is_none()).context("its directory is still there")?;
    Ok(())
}

/// The guest comes again under another number, and its devices follow.
fn rebooted(bed: &mut Bed) -> Result<()> {
    const NAME: &str = "again";
    let (_, other) = guests(bed)?;
    bed.having(ONE, &[])?;
    let guest = bed.create_guest(NAME, GuestOptions { on_reboot: "restart", ..GuestOptions::default() })?;
    bed.unpause(&guest)?;
    keep(bed, &guest, &[NVME, EDU])?;
    // It does not answer any more.
    bed.ask(&guest, "reboot -f")?;
    let id = loop {
        match bed.xl(&["domid", NAME]) {
            Ok(id) if id.trim() != guest.id.to_string() => break id.trim().parse()?,
            _ => ensure!(Instant::now() < bed.deadline, "no new domain"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    bed.domains.retain(|domain| *domain != guest);
    let guest = Domain { name: NAME.into(), id };
    bed.domains.push(guest.clone());
    let deadline = bed.deadline;
    bed.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
    followed(bed, &guest, &[NVME, EDU])?;
    unharmed(bed, &other)?;
    // Told otherwise, they follow no longer.
    bed.detach(&guest, &[NVME, EDU])?;
    bed.destroy(&guest)
}

/// Gives devices to a guest, wherever it goes.
fn keep(bed: &mut Bed, guest: &Domain, devices: &[&str]) -> Result<()> {
    devices.iter().try_for_each(|device| bed.in_pool(device))?;
    bed.pcidom(&[&["attach", "--keep", &*guest.name], devices].concat())?;
    bed.expect_in_guest(guest, devices)
}

/// The broker has given a guest its devices again, whose driver works with them.
fn followed(bed: &mut Bed, guest: &Domain, devices: &[&str]) -> Result<()> {
    let deadline = bed.deadline;
    for device in devices {
        let owner = format!("/tool/pcidom/device/{}/frontend", component(device));
        bed.store.wait_for(&owner, deadline, |owner| owner == Some(&guest.id.to_string()))?;
        let phase = format!("/tool/pcidom/device/{}/phase", component(device));
        bed.store.wait_for(&phase, deadline, |phase| phase == Some("attached"))?;
    }
    bed.await_backend(guest, "4")?;
    bed.await_frontend(guest, "4")?;
    let mut entries: Vec<String> = bed.entries(guest)?.into_iter().map(|entry| entry.device).collect();
    entries.sort();
    let mut wanted = devices.to_vec();
    wanted.sort_unstable();
    ensure!(entries == wanted, "the guest has {entries:?}, not {wanted:?}");
    bed.in_guest(guest, "load nvme")?;
    bed.await_disk(guest, "/dev/nvme0n1")?;
    bed.check_kind(guest, "nvme0q", "pcifront-msi-x", 2)?;
    Ok(())
}

fn stub_stopped(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    bed.having(ONE, &[])?;
    keep(bed, &guest, &[NVME, EDU])?;
    let stub = bed.stub()?;
    bed.xl(&["shutdown", "-w", &stub.name])?;
    bed.domains.retain(|domain| *domain != stub);
    for guest in [&guest, &other] {
        let left = bed.addresses_in(guest)?;
        ensure!(left.is_empty(), "{} still has {left:?}", guest.name);
    }
    bed.start_stub(stub::NAME, "")?;
    followed(bed, &guest, &[NVME, EDU])?;
    // What does not follow is in the pool again.
    await_free(bed, E1000E)?;
    bed.having(TWO, &[E1000E])?;
    unharmed(bed, &other)
}

fn stub_destroyed(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    bed.having(ONE, &[])?;
    keep(bed, &guest, &[NVME, EDU])?;
    let stub = bed.stub()?;
    bed.destroy(&stub)?;
    let listing = bed.pcidom(&["list"])?;
    ensure!(listing.contains("stub gone"), "{listing}");
    bed.start_stub(stub::NAME, "")?;
    followed(bed, &guest, &[NVME, EDU])?;
    // A guest goes on with what it has, until it is taken.
    bed.pcidom(&["detach", &other.name, E1000E])?;
    await_free(bed, E1000E)?;
    bed.having(TWO, &[E1000E])?;
    unharmed(bed, &other)
}

/// Waits until a device is in the stub's pool.
fn await_free(bed: &mut Bed, device: &str) -> Result<()> {
    let (state, deadline) = (bed.stub()?.node(&format!("pool/{}/state", component(device))), bed.deadline);
    bed.store.wait_for(&state, deadline, |state| state == Some("free"))?;
    bed.expect_free(device)
}
