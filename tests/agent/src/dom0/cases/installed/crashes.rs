//! What dies comes back by itself, and the guest's device with it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};

use super::super::case::Case;
use crate::dom0::{
    domain::Domain,
    fixture::Fixture,
    installed::{BACKEND, BROKER},
};

pub(super) const CASES: &[Case] = &[
    Case::within(LONG, "a_broker_that_is_killed_comes_back_and_serves_the_guest", broker),
    Case::within(LONG, "the_watcher_of_the_driver_domain_is_killed_and_adopts_the_same_domain", watcher),
    Case::within(LONG, "a_driver_domain_that_is_destroyed_comes_back_with_its_devices_and_guests", destroyed),
    Case::within(LONG, "without_xenconsoled_all_goes_on_and_a_new_driver_domain_waits_for_it", consoles),
];

const LONG: Duration = Duration::from_mins(5);

/// What needs broker, driver domain and device: interrupts set up anew, and data.
fn use_device(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    fixture.in_guest(guest, "reload nvme 1")?;
    fixture.await_disk(guest, "/dev/nvme0n1")?;
    fixture.in_guest(guest, "disk-check /dev/nvme0n1 7 2")?;
    Ok(())
}

/// The guest with its driver and what [`use_device`] looks for on its disk.
fn guest_with_disk(fixture: &mut Fixture) -> Result<Domain> {
    let guest = fixture.running_guest()?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.in_guest(&guest, "disk-write /dev/nvme0n1 7 2")?;
    Ok(guest)
}

fn broker(fixture: &mut Fixture) -> Result<()> {
    let guest = guest_with_disk(fixture)?;
    fixture.kill_and_await(BROKER)?;
    use_device(fixture, &guest)
}

fn watcher(fixture: &mut Fixture) -> Result<()> {
    let guest = guest_with_disk(fixture)?;
    let stub = fixture.driver_domain()?;
    fixture.kill_and_await(BACKEND)?;
    ensure!(fixture.driver_domain()? == stub, "it is another domain");
    use_device(fixture, &guest)
}

fn destroyed(fixture: &mut Fixture) -> Result<()> {
    let guest = guest_with_disk(fixture)?;
    let stub = destroy_driver_domain(fixture, &guest)?;
    await_next_driver_domain(fixture, &guest, &stub)?;
    use_device(fixture, &guest)
}

/// Destroys the driver domain, as an admin who errs.
fn destroy_driver_domain(fixture: &mut Fixture, guest: &Domain) -> Result<Domain> {
    let stub = fixture.driver_domain()?;
    fixture.in_guest(guest, "unload nvme")?;
    fixture.destroy(&stub)?;
    Ok(stub)
}

/// Another one comes by itself, and the guest connects to it.
fn await_next_driver_domain(fixture: &mut Fixture, guest: &Domain, stub: &Domain) -> Result<()> {
    let next = fixture.driver_domain()?;
    ensure!(next.id != stub.id, "the domain is still there");
    fixture.await_connected(guest, &next)?;
    fixture.until("the unit is not active again", || Ok(fixture.property(BACKEND, "ActiveState")? == "active"))?;
    fixture.in_guest(guest, "load nvme")?;
    fixture.await_disk(guest, "/dev/nvme0n1")
}

/// xl creates no domain without xenconsoled. All else works without it, and what needs it comes when it is back.
fn consoles(fixture: &mut Fixture) -> Result<()> {
    let guest = guest_with_disk(fixture)?;
    let daemon = fixture.process_called("xenconsoled")?.context("no xenconsoled")?;
    kill_process(daemon, Signal::KILL)?;
    use_device(fixture, &guest)?;
    fixture.kill_and_await(BROKER)?;
    fixture.kill_and_await(BACKEND)?;
    use_device(fixture, &guest)?;
    let stub = destroy_driver_domain(fixture, &guest)?;
    fixture.until("nothing is said of xenconsoled", || Ok(fixture.log_of(BACKEND)?.contains("without xenconsoled")))?;
    // Debian's script starts it again; nothing of it is ours.
    fixture.run("/etc/init.d/xen", &["restart"])?;
    fixture.process_called("xenconsoled")?.context("xenconsoled did not start again")?;
    await_next_driver_domain(fixture, &guest, &stub)?;
    use_device(fixture, &guest)
}
