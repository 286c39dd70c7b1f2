//! The stub at rest, and giving devices back.

use std::time::Duration;

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
