//! A host with many unrelated devices: none of them makes a command about another one fail.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use crate::dom0::{
    devices::{AHCI, E1000, E1000E, EDU, IDE, MANY_MORE, NVME, SMALL, VGA, attribute, sysfs},
    fixture::Fixture,
    report::Skipped,
};

pub(super) const CASES: &[Case] = &[
    case("a_device_is_attached_and_detached_beside_a_legacy_ide_function_and_a_vga", beside_all),
    case("the_pool_takes_every_device_that_dom0_does_not_need", pool_takes_all),
    case("devices_with_registers_in_one_page_go_to_a_guest_together", one_page),
    case("a_guest_has_twenty_eight_devices_and_lets_go_of_them", all_at_once),
];

/// Each does something to every device.
const fn case(name: &'static str, run: fn(&mut Fixture) -> Result<()>) -> Case {
    Case::within(Duration::from_mins(4), name, run)
}

/// The line of the expansion ROM in `resource`.
const ROM: usize = 6;

/// The guest of these cases.
const GUEST: &str = "one";

/// All that dom0 does not need.
fn all() -> Vec<&'static str> {
    [&[E1000, EDU, NVME, E1000E, AHCI, IDE, VGA][..], &SMALL, &MANY_MORE].concat()
}

/// All of them in the pool.
fn pool(fixture: &mut Fixture) -> Result<()> {
    fixture.broker()?;
    let stub = fixture.stub()?;
    let mut missing = Vec::new();
    for device in all() {
        if fixture.pool_state(&stub, device)?.is_none() {
            missing.push(device);
        }
    }
    if !missing.is_empty() {
        fixture.pcidom(&[&["assignable", "add"], &missing[..]].concat())?;
    }
    all().into_iter().try_for_each(|device| fixture.expect_free(device))
}

/// Moves the registers of the small devices to where Linux puts those of devices that come while it runs: one behind the other. Firmware gives
/// each a page of its own. A Linux that puts them elsewhere cannot try the case.
fn move_together(fixture: &mut Fixture) -> Result<()> {
    if memory_page(SMALL[0])? == memory_page(SMALL[1])? {
        return Ok(());
    }
    leave_pool(fixture)?;
    let remove = |device| fs::write(format!("{}/remove", sysfs(device)), "1");
    SMALL.into_iter().try_for_each(remove).context("removing the small devices")?;
    fs::write("/sys/bus/pci/rescan", "1").context("looking for devices again")?;
    let [one, other] = SMALL.map(memory_page);
    let (one, other) = (one?, other?);
    if one != other {
        bail!(Skipped(format!("registers are in the pages {one:#x} and {other:#x}, not in one")));
    }
    Ok(())
}

/// The small devices go back to dom0, whose kernel is to forget them.
fn leave_pool(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub()?;
    for device in SMALL {
        if fixture.pool_state(&stub, device)?.is_some() {
            fixture.in_pool(device)?;
            fixture.pcidom(&["assignable", "remove", device])?;
        }
    }
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

fn beside_all(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(GUEST, &[NVME])?;
    fixture.expect_in_guest(&guest, &[NVME])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.detach(&guest, &[NVME])
}

fn pool_takes_all(fixture: &mut Fixture) -> Result<()> {
    move_together(fixture)?;
    pool(fixture)
}

fn one_page(fixture: &mut Fixture) -> Result<()> {
    move_together(fixture)?;
    pool(fixture)?;
    let guest = fixture.having(GUEST, &[])?;
    let [one, other] = SMALL;
    fixture.pcidom_fails(&["attach", GUEST, one], 1, other)?;
    fixture.expect_free(one)?;
    fixture.attach(&guest, &SMALL)?;
    fixture.expect_in_guest(&guest, &SMALL)?;
    fixture.detach(&guest, &SMALL)
}

fn all_at_once(fixture: &mut Fixture) -> Result<()> {
    pool(fixture)?;
    let guest = fixture.having(GUEST, &[])?;
    fixture.pcidom(&[&["attach", "--timeout", "60", GUEST], &all()[..]].concat())?;
    fixture.expect_connected(&guest)?;
    fixture.expect_in_guest(&guest, &all())?;
    // The copy of the ROM that firmware made is dom0's memory, and no register of the card.
    let real = attribute(VGA, "resource")?;
    ensure!(real.lines().nth(ROM).is_some_and(|line| line.starts_with("0x00000000000c0000 ")), "in dom0: {real}");
    let address = fixture.virtual_address(&guest, VGA)?;
    let seen = fixture.in_guest(&guest, &format!("cat {}/resource", sysfs(&address)))?;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    ensure!(seen.lines().nth(ROM).is_some_and(|line| line.starts_with("0x0000000000000000 ")), "in the guest: {seen}");
    fixture.pcidom(&[&["detach", "--timeout", "60", GUEST], &all()[..]].concat())?;
    all().into_iter().try_for_each(|device| fixture.expect_free(device))
}
