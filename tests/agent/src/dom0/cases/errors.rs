//! Each way in which an attach can be impossible has an exit code and a text that names it, and leaves nothing behind.

use anyhow::{Result, ensure};

use super::Case;
use crate::{
    dom0::{
        bed::Bed,
        devices::{E1000, EDU, NVME},
        guests::GuestOptions,
        stub,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("attach_says_that_the_device_is_assigned", assigned),
    Case::new("attach_says_that_there_is_no_such_guest", |bed| {
        refused(bed, &["attach", "nobody", EDU], 1, "no guest nobody")
    }),
    Case::new("attach_says_that_there_is_no_such_device", no_such_device),
    Case::new("attach_says_that_the_device_is_not_assignable", not_assignable),
    Case::new("attach_says_that_the_guest_has_no_passthrough", no_passthrough),
    Case::new("attach_says_that_the_guest_does_not_answer", no_answer),
    Case::new("attach_says_that_the_stub_is_not_running", no_stub),
    Case::new("a_command_line_without_sense_is_told_apart", |bed| {
        refused(bed, &["attach", "guest", "not-an-address"], 2, "")
    }),
];

/// The tool refuses, and the pool is as it was.
fn refused(bed: &mut Bed, arguments: &[&str], code: i32, word: &str) -> Result<()> {
    let stub = bed.stub_with_pool()?;
    bed.pcidom_fails(arguments, code, word)?;
    expect(EDU, bed.pool_state(&stub, EDU)?.as_deref(), "free")
}

/// A paused guest that could take devices.
fn paused_guest(bed: &mut Bed) -> Result<String> {
    let name = "paused";
    if !bed.domains.iter().any(|domain| domain.name == name) {
        bed.stub_with_pool()?;
        bed.create_guest(name, GuestOptions::default())?;
    }
    Ok(name.to_owned())
}

fn assigned(bed: &mut Bed) -> Result<()> {
    let guest = bed.guest_with("left", &[E1000])?;
    let paused = paused_guest(bed)?;
    refused(bed, &["attach", &paused, E1000], 1, "already assigned to left")?;
    for domain in bed.domains.clone().iter().filter(|domain| ["left", "right"].contains(&&*domain.name)) {
        bed.destroy(domain)?;
    }
    ensure!(!bed.domains.contains(&guest), "it should be gone");
    Ok(())
}

fn no_such_device(bed: &mut Bed) -> Result<()> {
    let guest = paused_guest(bed)?;
    refused(bed, &["attach", &guest, "0000:00:1e.0"], 1, "no PCI device 0000:00:1e.0")
}

fn not_assignable(bed: &mut Bed) -> Result<()> {
    let guest = paused_guest(bed)?;
    // The SATA controller of the chip set, which nobody has given away.
    refused(bed, &["attach", &guest, "0000:00:1f.2"], 1, "not assignable")
}

fn no_passthrough(bed: &mut Bed) -> Result<()> {
    bed.stub_with_pool()?;
    let guest = bed.create_guest("plain", GuestOptions { passthrough: false, ..GuestOptions::default() })?;
    refused(bed, &["attach", &guest.name, EDU], 4, "passthrough")?;
    bed.destroy(&guest)
}

/// A running guest without the frontend driver.
fn no_answer(bed: &mut Bed) -> Result<()> {
    bed.stub_with_pool()?;
    let guest = bed.create_guest("silent", GuestOptions { modules: "", ..GuestOptions::default() })?;
    bed.unpause(&guest)?;
    refused(bed, &["attach", "--timeout", "3", &guest.name, EDU], 3, "did not answer")?;
    ensure!(bed.store.children(&guest.node("device/pci"))?.is_empty(), "the frontend's directory is still there");
    bed.destroy(&guest)
}

fn no_stub(bed: &mut Bed) -> Result<()> {
    let guest = paused_guest(bed)?;
    bed.pcidom_fails(&["attach", "--backend", "nowhere", &guest, NVME], 1, "nowhere is not running")?;
    let stub = bed.stub()?;
    for device in [E1000, EDU, NVME] {
        bed.pcidom(&["assignable", "remove", device])?;
    }
    bed.destroy(&stub)?;
    bed.pcidom_fails(&["attach", &guest, NVME], 1, &format!("{} is not running", stub::NAME))
}
