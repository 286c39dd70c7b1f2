//! Guests slower than the command's time-out: none that runs is destroyed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Case,
    commands::{NAME, configuration, prepare},
};
use crate::{
    dom0::{
        devices::{EDU, component},
        fixture::Fixture,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::within(
        Duration::from_mins(4),
        "a_guest_whose_driver_comes_late_survives_pcidom_create_and_has_its_device_then",
        driver_comes_late,
    ),
    Case::new("what_a_guest_lacks_for_its_devices_is_told", what_it_lacks),
];

fn driver_comes_late(fixture: &mut Fixture) -> Result<()> {
    let stub = prepare(fixture, &[EDU])?;
    // It loads no module by itself.
    let file = configuration("'00:06.0'", "")?;
    fixture.pcidom_fails(&["create", "--timeout", "5", &file], 3, "stay attached")?;
    let guest = fixture.find(NAME)?.context("the guest is gone")?;
    fixture.domains.push(guest.clone());
    ensure!(fixture.store.children("/tool/pcidom/create")?.is_empty(), "the guest is noted as unfinished");
    let deadline = fixture.deadline;
    fixture.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
    // Neither do later commands take it down, or its device away.
    fixture.pcidom(&["reclaim"])?;
    let record = |name: &str| format!("/tool/pcidom/device/{}/{name}", component(EDU));
    expect("its phase", fixture.store.text(&record("phase"))?.as_deref(), "attached")?;
    ensure!(fixture.store.text(&record("persistent"))?.is_some(), "the device does not follow the guest");
    expect(EDU, fixture.pool_state(&stub, EDU)?.as_deref(), &format!("assigned {}", guest.id))?;
    fixture.in_guest(&guest, "load xen-pcifront")?;
    fixture.store.wait_for(&guest.node("device/pci/0/state"), deadline, |state| state == Some("4"))?;
    let found = fixture.addresses_in(&guest)?;
    ensure!(found.len() == 1, "the guest has {found:?}");
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"])?;
    expect(EDU, fixture.pool_state(&stub, EDU)?.as_deref(), "free")
}

/// By libxl's own record of how it was created.
fn what_it_lacks(fixture: &mut Fixture) -> Result<()> {
    prepare(fixture, &[EDU])?;
    let file = configuration("'00:06.0'", "")?;
    let complete = fixture.try_pcidom(&["create", "-p", &file])?;
    ensure!(complete.code() == 0 && !complete.stderr.contains("iommu=soft"), "{}", complete.stderr);
    let guest = fixture.find(NAME)?.context("there is no guest")?;
    fixture.domains.push(guest.clone());
    fixture.destroy(&guest)?;
    let lacking = fixture.try_pcidom(&["create", "-p", &file, "extra='console=hvc0'", "e820_host=0"])?;
    ensure!(lacking.code() == 0, "it ended with {}: {}", lacking.code(), lacking.stderr);
    let guest = fixture.find(NAME)?.context("there is no guest")?;
    fixture.domains.push(guest.clone());
    for word in ["has no iommu=soft", "without e820_host=1"] {
        ensure!(lacking.stderr.contains(word), "it does not say {word:?}: {}", lacking.stderr);
    }
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"]).map(drop)
}
