//! A failing device or guest does not affect others.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use xen_types::DomId;
use xenstore::{Nodes as _, Permission};

use super::{Case, ONE, TWO};
use crate::dom0::{
    devices::{E1000, E1000E, EDU, NVME},
    fixture::Fixture,
    guests::Domain,
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_device_that_cannot_be_exported_fails_alone_and_the_reason_is_told", fails_alone),
    Case::new("one_device_of_several_that_is_refused_undoes_the_whole_command", all_or_nothing),
    Case::new("without_a_broker_devices_come_and_go_all_the_same", without_broker),
    Case::new("attach_to_a_guest_that_does_not_answer_is_rolled_back", silent_at_attach),
    Case::new("detach_from_a_guest_that_does_not_answer_is_rolled_back", silent_at_detach),
    Case::new("detach_by_force_needs_no_answer", by_force),
];

/// A paused guest answers nothing. It runs again when dropped, whatever happens meanwhile.
struct Paused<'a> {
    fixture: &'a mut Fixture,
    name: String,
}

impl<'a> Paused<'a> {
    fn new(fixture: &'a mut Fixture, guest: &Domain) -> Result<Self> {
        fixture.xl(&["pause", &guest.name])?;
        Ok(Self { fixture, name: guest.name.clone() })
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.fixture.xl(&["unpause", &self.name]) {
            println!("agent: {error:#}");
        }
    }
}

/// Two guests with a device each: what happens to one must not reach the other.
fn guests(fixture: &mut Fixture) -> Result<(Domain, Domain)> {
    let guest = fixture.having(ONE, &[E1000])?;
    let other = fixture.having(TWO, &[E1000E])?;
    fixture.in_pool(EDU)?;
    Ok((guest, other))
}

fn unharmed(fixture: &mut Fixture, guest: &Domain, device: &str) -> Result<()> {
    fixture.expect_connected(guest)?;
    fixture.expect_in_guest(guest, &[device])
}

/// An entry for a device that is in nobody's pool, which the tool would never write, beside one for a device that is.
fn fails_alone(fixture: &mut Fixture) -> Result<()> {
    const NOT_OURS: &str = "0000:00:1f.2";
    let (guest, other) = guests(fixture)?;
    let dir = fixture.backend(&guest)?;
    let node = |name: &str| format!("{dir}/{name}");
    let stubs =
        [Permission::none(DomId::DOM0), Permission::both(DomId(fixture.stub()?.id)), Permission::read(DomId(guest.id))];
    fixture.store.transaction(|nodes| {
        for (index, device) in [(1, NOT_OURS), (2, EDU)] {
            nodes.write(&node(&format!("dev-{index}")), device)?;
            for (name, value) in [("state", "1"), ("vdev", "")] {
                let path = node(&format!("{name}-{index}"));
                nodes.write(&path, value)?;
                nodes.set_permissions(&path, &stubs)?;
            }
        }
        nodes.write(&node("num_devs"), "3")?;
        nodes.write(&node("state"), "7")
    })?;
    fixture.await_backend(&guest, "4")?;
    fixture.expect_connected(&guest)?;
    let entries = fixture.entries(&guest)?;
    let states: Vec<&str> = entries.iter().map(|entry| &*entry.state).collect();
    ensure!(states == ["3", "6", "3"], "{entries:?}");
    let text = fixture.error_text(&guest)?;
    println!("agent: the error node says {text:?}");
    ensure!(text.contains(NOT_OURS), "the error node says {text:?}");
    ensure!(fixture.addresses_in(&guest)?.len() == 2, "the guest has {:?}", fixture.addresses_in(&guest)?);
    unharmed(fixture, &other, E1000E)?;
    // As it was, for the tool's sake.
    fixture.store.transaction(|nodes| {
        nodes.write(&node("state-2"), "5")?;
        nodes.write(&node("state"), "7")
    })?;
    fixture.await_backend(&guest, "4")?;
    fixture.store.transaction(|nodes| {
        for name in ["dev-1", "state-1", "vdev-1", "dev-2", "state-2", "vdev-2"] {
            nodes.remove(&node(name))?;
        }
        nodes.write(&node("num_devs"), "1")
    })?;
    fixture.expect_free(EDU)?;
    unharmed(fixture, &guest, E1000)
}

/// The second one is another guest's.
fn all_or_nothing(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.pcidom_fails(&["attach", &guest.name, EDU, E1000E], 1, "already assigned to two")?;
    fixture.expect_free(EDU)?;
    unharmed(fixture, &guest, E1000)?;
    unharmed(fixture, &other, E1000E)
}

fn without_broker(fixture: &mut Fixture) -> Result<()> {
    let (guest, _) = guests(fixture)?;
    fixture.kill_broker();
    fixture.attach(&guest, &[EDU])?;
    fixture.expect_in_guest(&guest, &[E1000, EDU])?;
    fixture.detach(&guest, &[EDU])?;
    fixture.broker()?;
    Ok(())
}

fn silent_at_attach(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    {
        let paused = Paused::new(fixture, &guest)?;
        let started = Instant::now();
        paused.fixture.pcidom_fails(&["attach", "--timeout", "2", &guest.name, EDU], 3, "did not answer")?;
        println!("agent: given up after {:.1} s", started.elapsed().as_secs_f64());
        paused.fixture.expect_connected(&guest)?;
        paused.fixture.expect_free(EDU)?;
        unharmed(paused.fixture, &other, E1000E)?;
    }
    // What it does late must not confuse anybody.
    unharmed(fixture, &guest, E1000)?;
    fixture.attach(&guest, &[EDU])?;
    fixture.expect_in_guest(&guest, &[E1000, EDU])?;
    fixture.detach(&guest, &[EDU])
}

fn silent_at_detach(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.having(ONE, &[E1000, EDU])?;
    {
        let paused = Paused::new(fixture, &guest)?;
        paused.fixture.pcidom_fails(&["detach", "--timeout", "2", &guest.name, EDU], 3, "did not answer")?;
        paused.fixture.expect_connected(&guest)?;
        unharmed(paused.fixture, &other, E1000E)?;
    }
    fixture.expect_connected(&guest)?;
    fixture.expect_in_guest(&guest, &[E1000, EDU])?;
    fixture.detach(&guest, &[EDU])?;
    unharmed(fixture, &guest, E1000)
}

fn by_force(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.having(ONE, &[E1000, NVME])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    {
        let paused = Paused::new(fixture, &guest)?;
        // It has lost the disk, and could not even unmap its registers: nobody else gets it, unless the tool is told to trust the guest.
        let force = ["detach", "--force", "--timeout", "2", &guest.name, NVME];
        paused.fixture.pcidom_fails(&force, 1, "still with one")?;
        paused.fixture.pcidom_fails(&["attach", &other.name, NVME], 1, "leaked")?;
        paused.fixture.pcidom(&force)?;
        paused.fixture.expect_free(NVME).context("after a detach by force")?;
        paused.fixture.expect_connected(&guest)?;
        unharmed(paused.fixture, &other, E1000E)?;
    }
    fixture.in_guest(&guest, "true")?;
    fixture.expect_connected(&guest)?;
    fixture.expect_readable(&guest, E1000)?;
    // Its kernel still believes in the disk. The other guest gets it.
    fixture.attach(&other, &[NVME])?;
    fixture.in_guest(&other, "load nvme")?;
    fixture.await_disk(&other, "/dev/nvme0n1")?;
    // Its driver may take minutes to give up. As long as it is there, nobody but it could have the disk without being told to trust it.
    fixture.destroy(&guest)?;
    fixture.detach(&other, &[NVME])
}
