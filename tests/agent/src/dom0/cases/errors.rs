//! Each way in which an attach can be impossible has an exit code and a text that names it, and leaves nothing behind.

use anyhow::{Result, ensure};

use super::Case;
use crate::{
    dom0::{
        devices::{E1000, EDU, NVME},
        fixture::Fixture,
        guests::GuestOptions,
        stub,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("attach_says_that_the_device_is_assigned", assigned),
    Case::new("attach_says_that_there_is_no_such_guest", |fixture| {
        refused(fixture, &["attach", "nobody", EDU], 1, "no guest nobody")
    }),
    Case::new("attach_says_that_there_is_no_such_device", no_such_device),
    Case::new("attach_says_that_the_device_is_not_assignable", not_assignable),
    Case::new("attach_says_that_the_guest_has_no_passthrough", no_passthrough),
    Case::new("attach_says_that_the_guest_does_not_answer", no_answer),
    Case::new("attach_says_that_the_stub_is_not_running", no_stub),
    Case::new("a_wrong_command_line_ends_with_exit_code_2", |fixture| {
        refused(fixture, &["attach", "guest", "not-an-address"], 2, "")
    }),
];

/// The tool refuses, and the pool is as it was.
fn refused(fixture: &mut Fixture, arguments: &[&str], code: i32, word: &str) -> Result<()> {
    let stub = fixture.stub_with_pool()?;
    fixture.pcidom_fails(arguments, code, word)?;
    expect(EDU, fixture.pool_state(&stub, EDU)?.as_deref(), "free")
}

/// A paused guest that could take devices.
fn paused_guest(fixture: &mut Fixture) -> Result<String> {
    let name = "paused";
    if !fixture.domains.iter().any(|domain| domain.name == name) {
        fixture.stub_with_pool()?;
        fixture.create_guest(name, GuestOptions::default())?;
    }
    Ok(name.to_owned())
}

fn assigned(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.guest_with("left", &[E1000])?;
    let paused = paused_guest(fixture)?;
    refused(fixture, &["attach", &paused, E1000], 1, "already assigned to left")?;
    for domain in fixture.domains.clone().iter().filter(|domain| ["left", "right"].contains(&&*domain.name)) {
        fixture.destroy(domain)?;
    }
    ensure!(!fixture.domains.contains(&guest), "it should be gone");
    Ok(())
}

fn no_such_device(fixture: &mut Fixture) -> Result<()> {
    let guest = paused_guest(fixture)?;
    refused(fixture, &["attach", &guest, "0000:00:1e.0"], 1, "no PCI device 0000:00:1e.0")
}

fn not_assignable(fixture: &mut Fixture) -> Result<()> {
    let guest = paused_guest(fixture)?;
    // The SATA controller of the chip set, which nobody has given away.
    refused(fixture, &["attach", &guest, "0000:00:1f.2"], 1, "not assignable")
}

fn no_passthrough(fixture: &mut Fixture) -> Result<()> {
    fixture.stub_with_pool()?;
    let guest = fixture.create_guest("plain", GuestOptions { passthrough: false, ..GuestOptions::default() })?;
    refused(fixture, &["attach", &guest.name, EDU], 4, "passthrough")?;
    fixture.destroy(&guest)
}

/// A running guest without the frontend driver.
fn no_answer(fixture: &mut Fixture) -> Result<()> {
    fixture.stub_with_pool()?;
    let guest = fixture.create_guest("silent", GuestOptions { modules: "", ..GuestOptions::default() })?;
    fixture.unpause(&guest)?;
    refused(fixture, &["attach", "--timeout", "3", &guest.name, EDU], 3, "did not answer")?;
    ensure!(fixture.store.children(&guest.node("device/pci"))?.is_empty(), "the frontend's directory is still there");
    fixture.destroy(&guest)
}

fn no_stub(fixture: &mut Fixture) -> Result<()> {
    let guest = paused_guest(fixture)?;
    fixture.pcidom_fails(&["attach", "--backend", "nowhere", &guest, NVME], 1, "nowhere is not running")?;
    let stub = fixture.stub()?;
    for device in [E1000, EDU, NVME] {
        fixture.pcidom(&["assignable", "remove", device])?;
    }
    fixture.destroy(&stub)?;
    fixture.pcidom_fails(&["attach", &guest, NVME], 1, &format!("{} is not running", stub::NAME))
}
