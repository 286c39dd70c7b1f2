//! The idle stub, and `assignable remove`.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, one_guest};
use crate::{
    dom0::{devices::ALL, fixture::Fixture, trace},
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("idle_stub_is_not_woken_for_10_s", idle_is_asleep),
    Case::new("detached_devices_are_free_again", detach),
    Case::new("detached_devices_can_go_to_another_guest", attach_to_another),
    Case::new("stub_reboots_and_shuts_down_when_xl_asks", obeys_xl),
];

/// With a guest connected and doing nothing on PCI, Xen wakes the stub not once.
fn idle_is_asleep(fixture: &mut Fixture) -> Result<()> {
    one_guest::guest(fixture)?;
    let stub = fixture.stub()?;
    let before = cpu_time(fixture, &stub.name)?;
    let wakes = trace::wakes(fixture, Duration::from_secs(10))?;
    let after = cpu_time(fixture, &stub.name)?;
    // Somebody was woken, or the trace shows nothing at all.
    ensure!(wakes.get(&0).is_some_and(|count| *count > 0), "the trace has no wake-ups of dom0: {wakes:?}");
    let count = wakes.get(&stub.id).copied().unwrap_or_default();
    ensure!(count == 0, "{count} wake-ups");
    ensure!(before == after, "`xl vcpu-list` says {before} s before and {after} s after");
    Ok(())
}

/// The last column but the affinities of `xl vcpu-list`: Name ID VCPU CPU State Time(s) Affinity.
fn cpu_time(fixture: &Fixture, name: &str) -> Result<String> {
    let listing = fixture.xl(&["vcpu-list", name])?;
    let line = listing.lines().last().context("an empty list")?;
    Ok(line.split_whitespace().nth(5).with_context(|| format!("no time in {line:?}"))?.to_owned())
}

fn detach(fixture: &mut Fixture) -> Result<()> {
    let guest = one_guest::guest(fixture)?;
    let stub = fixture.stub()?;
    fixture.pcidom(&[&["detach", &guest.name][..], &ALL].concat())?;
    for device in ALL {
        expect(device, fixture.pool_state(&stub, device)?.as_deref(), "free")?;
    }
    let left = fixture.addresses_in(&guest)?;
    ensure!(left.is_empty(), "the guest still has {left:?}");
    ensure!(fixture.store.children(&stub.node("backend/pci"))?.is_empty(), "the backend's directory is still there");
    ensure!(fixture.store.children(&guest.node("device/pci"))?.is_empty(), "the frontend's directory is still there");
    Ok(())
}

fn attach_to_another(fixture: &mut Fixture) -> Result<()> {
    let other = fixture.guest_with("other", &ALL)?;
    let found = fixture.addresses_in(&other)?;
    ensure!(found.len() == ALL.len(), "the other guest has {found:?}");
    for domain in fixture.domains.clone().iter().filter(|domain| domain.name != crate::dom0::stub::NAME) {
        fixture.destroy(domain)?;
    }
    Ok(())
}

/// Another stub, so that nobody loses a device: `xl reboot` and `xl shutdown` are acknowledged and obeyed.
fn obeys_xl(fixture: &mut Fixture) -> Result<()> {
    const NAME: &str = "second";
    // What comes later counts.
    let config = format!("{}name = \"{NAME}\"\n", fs::read_to_string("/etc/xen/pcidom.cfg")?);
    let first = fixture.create_paused(NAME, &config)?;
    fixture.xl(&["unpause", NAME])?;
    await_version(fixture, &first.id.to_string())?;
    fixture.xl(&["reboot", "-w", NAME])?;
    // The name changes hands when `on_reboot="restart"` has built the new domain.
    let second = loop {
        match fixture.xl(&["domid", NAME]) {
            Ok(id) if id.trim() != first.id.to_string() => break id.trim().to_owned(),
            _ => ensure!(Instant::now() < fixture.deadline, "no new domain"),
        }
        thread::sleep(Duration::from_millis(100));
    };
    fixture.domains.retain(|domain| domain.name != NAME);
    await_version(fixture, &second)?;
    fixture.xl(&["shutdown", "-w", NAME])?;
    ensure!(fixture.xl(&["domid", NAME]).is_err(), "it is still there");
    Ok(())
}

/// Waits until a stub is ready to serve, and thus watches for requests to end.
fn await_version(fixture: &mut Fixture, id: &str) -> Result<()> {
    let (node, deadline) = (format!("/local/domain/{id}/data/pcidom/version"), fixture.deadline);
    fixture.store.wait_for(&node, deadline, |value| value.is_some_and(|text| !text.is_empty()))?;
    Ok(())
}
