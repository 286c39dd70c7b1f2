//! A host with much else on it than what guests get: what other devices are like never stops a command about one.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    bed::Bed,
    devices::{AHCI, E1000, E1000E, EDU, MANY_MORE, NVME, SMALL, VGA, attribute, sysfs},
};

pub(super) const CASES: &[Case] = &[case("the_pool_takes_every_device_that_dom0_does_not_need", pool_takes_all)];

/// Each does something to every device.
const fn case(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> Case {
    Case::within(Duration::from_mins(4), name, run)
}

/// All that dom0 does not need.
fn all() -> Vec<&'static str> {
    [&[E1000, EDU, NVME, E1000E, AHCI, VGA][..], &SMALL, &MANY_MORE].concat()
}

/// All of them in the pool.
fn pool(bed: &mut Bed) -> Result<()> {
    bed.broker()?;
    all().into_iter().try_for_each(|device| bed.in_pool(device).with_context(|| device.to_owned()))
}

/// Moves the registers of the small devices to where Linux puts those of devices that come while it runs: one behind the other. Firmware gives
/// each a page of its own.
fn move_together() -> Result<()> {
    let remove = |device| fs::write(format!("{}/remove", sysfs(device)), "1");
    SMALL.into_iter().try_for_each(remove).context("removing the small devices")?;
    fs::write("/sys/bus/pci/rescan", "1").context("looking for devices again")?;
    let [one, other] = SMALL.map(memory_page);
    let (one, other) = (one?, other?);
    ensure!(one == other, "registers are in the pages {one:#x} and {other:#x}, not in one");
    Ok(())
}

/// The page that a device's second BAR is in.
fn memory_page(device: &str) -> Result<u64> {
    let resources = attribute(device, "resource")?;
    let line = resources.lines().nth(1).context("no second line")?;
    let start = line.split(' ').next().and_then(|word| word.strip_prefix("0x")).context("no address")?;
    let start = u64::from_str_radix(start, 16).with_context(|| format!("no address: {line}"))?;
    ensure!(start != 0, "{device} has no registers: {line}");
    Ok(start >> 12)
}

fn pool_takes_all(bed: &mut Bed) -> Result<()> {
    move_together()?;
    pool(bed)
}
