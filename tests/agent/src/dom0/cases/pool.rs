//! The stub starts and takes devices.

use anyhow::{Result, ensure};

use super::Case;
use crate::{
    dom0::{
        devices::{ALL, attribute, sysfs},
        fixture::Fixture,
        stub,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("stub_boots_in_one_mib", boots_in_one_mib),
    Case::new("pool_takes_devices_and_finds_them_free", takes_devices),
    Case::new("pool_gives_a_device_back_to_dom0", gives_back),
];

fn boots_in_one_mib(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub()?;
    let listing = fixture.xl(&["list", stub::NAME])?;
    // Name ID Mem VCPUs State Time(s)
    let columns: Vec<&str> = listing.lines().last().unwrap_or_default().split_whitespace().collect();
    ensure!(columns.get(2..4) == Some(&["1", "1"]), "not 1 MiB and one CPU: {columns:?}");
    expect(
        "its version",
        fixture.store.text(&stub.node("data/pcidom/version"))?.as_deref(),
        concat!(env!("CARGO_PKG_VERSION"), " contract 1"),
    )?;
    expect("its export mode", fixture.store.text(&stub.node("data/pcidom/export"))?.as_deref(), "vpci")
}

fn takes_devices(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub_with_pool()?;
    let listing = fixture.pcidom(&["assignable", "list"])?;
    for device in ALL {
        expect(device, fixture.pool_state(&stub, device)?.as_deref(), "free")?;
        let driver = std::fs::read_link(format!("{}/driver", sysfs(device)))?;
        ensure!(driver.ends_with("pciback"), "{device} is with {}", driver.display());
        ensure!(listing.contains(device), "{device} is not in what `assignable list` prints: {listing}");
    }
    Ok(())
}

fn gives_back(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub_with_pool()?;
    let device = ALL[1];
    fixture.pcidom(&["assignable", "remove", device])?;
    ensure!(fixture.pool_state(&stub, device)?.is_none(), "its directory is still there");
    ensure!(!fixture.pcidom(&["assignable", "list"])?.contains(device), "it is still listed");
    ensure!(attribute(device, "driver_override")? == "(null)", "dom0's drivers are still kept from it");
    fixture.pcidom(&["assignable", "add", device])?;
    expect(device, fixture.pool_state(&stub, device)?.as_deref(), "free")
}
