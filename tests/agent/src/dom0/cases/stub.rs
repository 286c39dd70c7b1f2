//! The stub at rest, and giving devices back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, one_guest};
use crate::{
    dom0::{bed::Bed, devices::ALL, trace},
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("idle_stub_is_not_woken_for_10_s", idle_is_asleep),
    Case::new("detached_devices_are_free_again", detach),
    Case::new("detached_devices_can_go_to_another_guest", attach_to_another),
    Case::new("stub_reboots_and_shuts_down_when_xl_asks", obeys_xl),
];

/// With a guest connected and doing nothing on PCI, Xen wakes the stub not once.
fn idle_is_asleep(bed: &mut Bed) -> Result<()> {
    one_guest::guest(bed)?;
    let stub = bed.stub()?;
    let before = cpu_time(bed, &stub.name)?;
    let wakes = trace::wakes(bed, Duration::from_secs(10))?;
    let after = cpu_time(bed, &stub.name)?;
    // Somebody was woken, or the trace shows nothing at all.
    ensure!(wakes.get(&0).is_some_and(|count| *count > 0), "the trace has no wake-ups of dom0: {wakes:?}");
    let count = wakes.get(&stub.id).copied().unwrap_or_default();
    ensure!(count == 0, "{count} wake-ups");
    ensure!(before == after, "`xl vcpu-list` says {before} s before and {after} s after");
    Ok(())
}

/// The last column but the affinities of `xl vcpu-list`: Name ID VCPU CPU State Time(s) Affinity.
fn cpu_time(bed: &Bed, name: &str) -> Result<String> {
    let listing = bed.xl(&["vcpu-list", name])?;
    let line = listing.lines().last().context("an empty list")?;
    Ok(line.split_whitespace().nth(5).with_context(|| format!("no time in {line:?}"))?.to_owned())
}

fn detach(bed: &mut Bed) -> Result<()> {
    let guest = one_guest::guest(bed)?;
    let stub = bed.stub()?;
    bed.pcidom(&[&["detach", &guest.name][..], &ALL].concat())?;
    for device in ALL {
        expect(device, bed.pool_state(&stub, device)?.as_deref(), "free")?;
    }
    let left = bed.addresses_in(&guest)?;
    ensure!(left.is_empty(), "the guest still has {left:?}");
    ensure!(bed.store.children(&stub.node("backend/pci"))?.is_empty(), "the backend's directory is still there");
    ensure!(bed.store.children(&guest.node("device/pci"))?.is_empty(), "the frontend's directory is still there");
    Ok(())
}

fn attach_to_another(bed: &mut Bed) -> Result<()> {
    let other = bed.guest_with("other", &ALL)?;
    let found = bed.addresses_in(&other)?;
    ensure!(found.len() == ALL.len(), "the other guest has {found:?}");
    for domain in bed.domains.clone().iter().filter(|domain| domain.name != crate::dom0::stub::NAME) {
        bed.destroy(domain)?;
    }
    Ok(())
}

/// Another stub, so that nobody loses a device: `xl reboot` and `xl shutdown` are acknowledged and obeyed.
fn obeys_xl(bed: &mut Bed) -> Result<()> {
    const NAME: &str = "second";
    // What comes later counts.
    let config = format!("{}name = \"{NAME}\"\n", fs::read_to_string("/etc/xen/pcidom.cfg")?);
    let first = bed.create_paused(NAME, &config)?;
    bed.xl(&["unpause", NAME])?;
    await_version(bed, &first.id.to_string())?;
    bed.xl(&["reboot", "-w", NAME])?;
    // The name changes hands when `on_reboot="restart"` has built the new domain.
    let second = loop {
        match bed.xl(&["domid", NAME]) {
            Ok(id) if id.trim() != first.id.to_string() => break id.trim().to_owned(),
            _ => ensure!(Instant::now() < bed.deadline, "no new domain"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    bed.domains.retain(|domain| domain.name != NAME);
    await_version(bed, &second)?;
    bed.xl(&["shutdown", "-w", NAME])?;
    ensure!(bed.xl(&["domid", NAME]).is_err(), "it is still there");
    Ok(())
}

/// Waits until a stub is ready to serve, and thus watches for requests to end.
fn await_version(bed: &mut Bed, id: &str) -> Result<()> {
    let (node, deadline) = (format!("/local/domain/{id}/data/pcidom/version"), bed.deadline);
    bed.store.wait_for(&node, deadline, |value| value.is_some_and(|text| !text.is_empty()))?;
    Ok(())
}
