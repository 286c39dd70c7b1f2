//! The stub starts and takes devices.

use anyhow::{Result, ensure};

use super::Case;
use crate::{
    dom0::{
        bed::Bed,
        devices::{ALL, attribute, sysfs},
        stub,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("stub_boots_in_one_mib", boots_in_one_mib),
    Case::new("pool_takes_devices_and_finds_them_free", takes_devices),
    Case::new("pool_gives_a_device_back_to_dom0", gives_back),
];

fn boots_in_one_mib(bed: &mut Bed) -> Result<()> {
    let stub = bed.stub()?;
    let listing = bed.xl(&["list", stub::NAME])?;
    // Name ID Mem VCPUs State Time(s)
    let columns: Vec<&str> = listing.lines().last().unwrap_or_default().split_whitespace().collect();
    ensure!(columns.get(2..4) == Some(&["1", "1"]), "not 1 MiB and one CPU: {columns:?}");
    expect("its version", bed.store.text(&stub.node("data/pcidom/version"))?.as_deref(), env!("CARGO_PKG_VERSION"))?;
    expect("its export mode", bed.store.text(&stub.node("data/pcidom/export"))?.as_deref(), "vpci")
}

fn takes_devices(bed: &mut Bed) -> Result<()> {
    let stub = bed.stub_with_pool()?;
    let listing = bed.pcidom(&["assignable", "list"])?;
    for device in ALL {
        expect(device, bed.pool_state(&stub, device)?.as_deref(), "free")?;
        let driver = std::fs::read_link(format!("{}/driver", sysfs(device)))?;
        ensure!(driver.ends_with("pciback"), "{device} is with {}", driver.display());
        ensure!(listing.contains(device), "{device} is not in what `assignable list` prints: {listing}");
    }
    Ok(())
}

fn gives_back(bed: &mut Bed) -> Result<()> {
    let stub = bed.stub_with_pool()?;
    let device = ALL[1];
    bed.pcidom(&["assignable", "remove", device])?;
    ensure!(bed.pool_state(&stub, device)?.is_none(), "its directory is still there");
    ensure!(!bed.pcidom(&["assignable", "list"])?.contains(device), "it is still listed");
    ensure!(attribute(device, "driver_override")? == "(null)", "dom0's drivers are still kept from it");
    bed.pcidom(&["assignable", "add", device])?;
    expect(device, bed.pool_state(&stub, device)?.as_deref(), "free")
}
