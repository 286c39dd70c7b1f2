//! Guests and stubs come and go, and so do frontends.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, ONE, TWO};
use crate::dom0::{
    devices::{E1000E, EDU, NVME, component},
    fixture::Fixture,
    guests::{Domain, GuestOptions},
    stub,
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_frontend_that_is_unloaded_and_loaded_again_gets_devices", reloaded),
    Case::new("a_frontend_that_is_unbound_and_loaded_again_gets_devices", unbound),
    Case::new("a_backend_directory_removed_by_force_lets_go_of_its_devices", directory_removed),
    Case::new("a_guest_with_devices_is_destroyed_in_less_than_3_s", destroyed),
    Case::new("the_devices_of_a_guest_that_crashes_are_free_again", crashed),
    Case::new("persistent_devices_return_to_a_guest_that_reboots", rebooted),
    Case::new(
        "persistent_devices_return_and_others_are_free_when_the_stub_was_shut_down_and_started_again",
        stub_stopped,
    ),
    Case::new("persistent_devices_return_when_the_stub_was_destroyed_and_started_again", stub_destroyed),
];

/// A guest that uses a disk with its driver, and one that must not notice anything.
fn guests(fixture: &mut Fixture) -> Result<(Domain, Domain)> {
    let guest = fixture.having(ONE, &[NVME, EDU])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    Ok((guest, fixture.having(TWO, &[E1000E])?))
}

fn unharmed(fixture: &mut Fixture, other: &Domain) -> Result<()> {
    fixture.expect_connected(other)?;
    fixture.expect_in_guest(other, &[E1000E])
}

/// As long as a device is bound to the driver, the guest's kernel does not let its module go.
fn reloaded(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    let refused = fixture.ask(&guest, "unload xen-pcifront")?;
    ensure!(fixture.answer(&refused)?.0 != 0, "the driver went, and its devices were in use");
    fixture.detach(&guest, &[NVME, EDU])?;
    fixture.in_guest(&guest, "unload xen-pcifront")?;
    fixture.pcidom_fails(&["attach", "--timeout", "2", &guest.name, NVME, EDU], 3, "did not answer")?;
    fixture.in_guest(&guest, "load xen-pcifront")?;
    back_again(fixture, &guest)?;
    unharmed(fixture, &other)
}

/// A driver that is taken off its device closes, and one that is put on it again finds our end at 6 and gives up at once (Linux 6.1,
/// `pcifront_backend_changed`). With a new directory it begins anew.
fn unbound(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.in_guest(&guest, "echo pci-0 >/sys/bus/xen/drivers/pcifront/unbind")?;
    fixture.await_frontend(&guest, "6")?;
    fixture.await_backend(&guest, "6")?;
    ensure!(fixture.addresses_in(&guest)?.is_empty(), "the guest still has devices");
    fixture.in_guest(&guest, "unload xen-pcifront")?;
    unharmed(fixture, &other)?;
    fixture.in_guest(&guest, "load xen-pcifront")?;
    fixture.detach(&guest, &[NVME, EDU])?;
    back_again(fixture, &guest)?;
    unharmed(fixture, &other)
}

/// The guest gets its devices and uses them.
fn back_again(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    fixture.attach(guest, &[NVME, EDU])?;
    fixture.expect_in_guest(guest, &[NVME, EDU])?;
    fixture.await_disk(guest, "/dev/nvme0n1")?;
    fixture.check_kind(guest, "nvme0q", "pcifront-msi-x", 2)?;
    fixture.in_guest(guest, "disk-write /dev/nvme0n1 3 1")?;
    fixture.in_guest(guest, "disk-check /dev/nvme0n1 3 1").map(drop)
}

fn directory_removed(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    let (stub, backend) = (fixture.stub()?, fixture.backend(&guest)?);
    fixture.store.remove(&backend)?;
    let deadline = fixture.deadline;
    for device in [NVME, EDU] {
        let state = stub.node(&format!("pool/{}/state", component(device)));
        fixture.store.wait_for(&state, deadline, |state| state == Some("free"))?;
    }
    unharmed(fixture, &other)?;
    fixture.in_guest(&guest, "true")?;
    // Nobody told the guest, and its drivers ask in vain until they give up. As long as they are there, nobody else gets their devices.
    let outcome = fixture.try_pcidom(&["detach", &guest.name, NVME, EDU])?;
    println!("agent: detach says: {}", outcome.stderr.trim());
    ensure!(outcome.code() == 0 || outcome.stderr.contains("still with one"), "{outcome:?}");
    fixture.destroy(&guest)?;
    ensure!(fixture.domains.contains(&stub), "the stub is another one");
    fixture.having(TWO, &[E1000E, EDU])?;
    fixture.expect_in_guest(&other, &[E1000E, EDU])
}

fn destroyed(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    let started = Instant::now();
    fixture.xl(&["destroy", &guest.name])?;
    let took = started.elapsed();
    println!("agent: `xl destroy` took {:.2} s", took.as_secs_f64());
    gone(fixture, &guest)?;
    println!("agent: after {:.2} s its devices were free", started.elapsed().as_secs_f64());
    ensure!(took < Duration::from_secs(3), "{took:?}");
    unharmed(fixture, &other)
}

fn crashed(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    // It does not answer any more.
    fixture.ask(&guest, "echo c >/proc/sysrq-trigger")?;
    gone(fixture, &guest)?;
    unharmed(fixture, &other)
}

/// A guest has gone by itself; the broker takes its devices back without being asked.
fn gone(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    let deadline = fixture.deadline;
    fixture.store.wait_for(&guest.node("vm"), deadline, |value| value.is_none())?;
    fixture.domains.retain(|other| other != guest);
    for device in [NVME, EDU] {
        let owner = format!("/tool/pcidom/device/{}/frontend", component(device));
        fixture.store.wait_for(&owner, deadline, |owner| owner.is_none()).context("the table still has it")?;
        let state = fixture.stub()?.node(&format!("pool/{}/state", component(device)));
        fixture.store.wait_for(&state, deadline, |state| state == Some("free"))?;
        fixture.expect_free(device)?;
    }
    let backend = fixture.stub()?.node(&format!("backend/pci/{}", guest.id));
    fixture.store.wait_for(&backend, deadline, |dir| dir.is_none()).context("its directory is still there")?;
    Ok(())
}

/// The guest comes again under another number, and its devices follow.
fn rebooted(fixture: &mut Fixture) -> Result<()> {
    const NAME: &str = "again";
    let (_, other) = guests(fixture)?;
    fixture.having(ONE, &[])?;
    let guest = fixture.create_guest(NAME, GuestOptions { on_reboot: "restart", ..GuestOptions::default() })?;
    fixture.unpause(&guest)?;
    keep(fixture, &guest, &[NVME, EDU])?;
    // It does not answer any more.
    fixture.ask(&guest, "reboot -f")?;
    let id = loop {
        match fixture.xl(&["domid", NAME]) {
            Ok(id) if id.trim() != guest.id.to_string() => break id.trim().parse()?,
            _ => ensure!(Instant::now() < fixture.deadline, "no new domain"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    fixture.domains.retain(|domain| *domain != guest);
    let guest = Domain { name: NAME.into(), id };
    fixture.domains.push(guest.clone());
    let deadline = fixture.deadline;
    fixture.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
    followed(fixture, &guest, &[NVME, EDU])?;
    unharmed(fixture, &other)?;
    // Told otherwise, they follow no longer.
    fixture.detach(&guest, &[NVME, EDU])?;
    fixture.destroy(&guest)
}

/// Gives devices to a guest, wherever it goes.
fn keep(fixture: &mut Fixture, guest: &Domain, devices: &[&str]) -> Result<()> {
    devices.iter().try_for_each(|device| fixture.in_pool(device))?;
    fixture.pcidom(&[&["attach", "--keep", &*guest.name], devices].concat())?;
    fixture.expect_in_guest(guest, devices)
}

/// The broker has given a guest its devices again, whose driver works with them.
fn followed(fixture: &mut Fixture, guest: &Domain, devices: &[&str]) -> Result<()> {
    let deadline = fixture.deadline;
    for device in devices {
        let owner = format!("/tool/pcidom/device/{}/frontend", component(device));
        fixture.store.wait_for(&owner, deadline, |owner| owner == Some(&guest.id.to_string()))?;
        let phase = format!("/tool/pcidom/device/{}/phase", component(device));
        fixture.store.wait_for(&phase, deadline, |phase| phase == Some("attached"))?;
    }
    fixture.await_backend(guest, "4")?;
    fixture.await_frontend(guest, "4")?;
    let mut entries: Vec<String> = fixture.entries(guest)?.into_iter().map(|entry| entry.device).collect();
    entries.sort();
    let mut wanted = devices.to_vec();
    wanted.sort_unstable();
    ensure!(entries == wanted, "the guest has {entries:?}, not {wanted:?}");
    fixture.in_guest(guest, "load nvme")?;
    fixture.await_disk(guest, "/dev/nvme0n1")?;
    fixture.check_kind(guest, "nvme0q", "pcifront-msi-x", 2)?;
    Ok(())
}

fn stub_stopped(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.having(ONE, &[])?;
    keep(fixture, &guest, &[NVME, EDU])?;
    let stub = fixture.stub()?;
    fixture.xl(&["shutdown", "-w", &stub.name])?;
    fixture.domains.retain(|domain| *domain != stub);
    for guest in [&guest, &other] {
        let left = fixture.addresses_in(guest)?;
        ensure!(left.is_empty(), "{} still has {left:?}", guest.name);
    }
    fixture.start_stub(stub::NAME, "")?;
    followed(fixture, &guest, &[NVME, EDU])?;
    // What does not follow is in the pool again.
    await_free(fixture, E1000E)?;
    fixture.having(TWO, &[E1000E])?;
    unharmed(fixture, &other)
}

fn stub_destroyed(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.having(ONE, &[])?;
    keep(fixture, &guest, &[NVME, EDU])?;
    let stub = fixture.stub()?;
    fixture.destroy(&stub)?;
    let listing = fixture.pcidom(&["list"])?;
    ensure!(listing.contains("stub gone"), "{listing}");
    fixture.start_stub(stub::NAME, "")?;
    followed(fixture, &guest, &[NVME, EDU])?;
    // A guest goes on with what it has, until it is taken.
    fixture.pcidom(&["detach", &other.name, E1000E])?;
    await_free(fixture, E1000E)?;
    fixture.having(TWO, &[E1000E])?;
    unharmed(fixture, &other)
}

/// Waits until a device is in the stub's pool.
fn await_free(fixture: &mut Fixture, device: &str) -> Result<()> {
    let (state, deadline) = (fixture.stub()?.node(&format!("pool/{}/state", component(device))), fixture.deadline);
    fixture.store.wait_for(&state, deadline, |state| state == Some("free"))?;
    fixture.expect_free(device)
}
