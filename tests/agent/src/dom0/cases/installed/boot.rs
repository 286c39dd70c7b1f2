//! What a host comes up with.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};

use super::super::case::Case;
use crate::dom0::{
    fixture::Fixture,
    installed::{BACKEND, BROKER, DEVICE, GUEST, GUESTS, XENDOMAINS, guest_config},
};

pub(super) const CASES: &[Case] = &[
    Case::new("broker_and_driver_domain_are_up_before_any_guest", order),
    Case::new("a_device_that_is_another_one_is_refused_with_both_told", refused),
    Case::within(Duration::from_mins(3), "a_device_that_is_another_one_is_kept_from_xl_too", kept_from_xl),
    Case::within(Duration::from_mins(5), "a_guest_of_auto_is_created_through_us_and_drives_its_device", auto),
];

fn order(fixture: &mut Fixture) -> Result<()> {
    for unit in [BROKER, BACKEND, GUESTS, XENDOMAINS] {
        fixture.check_active(unit)?;
    }
    let ready = fixture.moment(BACKEND, "ActiveEnterTimestampMonotonic")?;
    let broker = fixture.moment(BROKER, "ActiveEnterTimestampMonotonic")?;
    let guests = fixture.moment(GUESTS, "InactiveExitTimestampMonotonic")?;
    let created = fixture.moment(GUESTS, "ActiveEnterTimestampMonotonic")?;
    let others = fixture.moment(XENDOMAINS, "InactiveExitTimestampMonotonic")?;
    ensure!(
        broker <= ready && ready <= guests && created <= others,
        "broker {broker}, driver domain {ready}, guests {guests} to {created}, xendomains {others}"
    );
    // What it said when it was ready.
    let log = fixture.log_of(BACKEND)?;
    ensure!(log.contains("serves"), "{log}");
    let status = fixture.pcidom(&["status"])?;
    println!("{status}");
    Ok(())
}

fn refused(fixture: &mut Fixture) -> Result<()> {
    let log = fixture.log_of(BACKEND)?;
    let line =
        log.lines().find(|line| line.contains("0000:00:06.0 is not in the pool")).context("it is in the pool")?;
    for word in ["vendor=1234,device=11e8", "vendor=1234,device=beef"] {
        ensure!(line.contains(word), "no {word} in {line:?}");
    }
    let status = fixture.property(BACKEND, "StatusText")?;
    ensure!(status.contains("1 of 2 devices are not in the pool"), "the unit's status is {status:?}");
    let pool = fixture.pcidom(&["assignable", "list"])?;
    ensure!(!pool.contains("0000:00:06.0"), "{pool}");
    Ok(())
}

/// A guest that has it by its address, of which the address is all that xl knows.
fn kept_from_xl(fixture: &mut Fixture) -> Result<()> {
    const OTHER: &str = "0000:00:06.0";
    let config = "/run/other.cfg";
    fs::write(config, guest_config("other", OTHER))?;
    // As a host is on which it was parked at boot, by its address.
    fixture.xl(&["pci-assignable-add", OTHER])?;
    let guard = "/libxl/pci/0000-00-06-0/domid";
    let deadline = fixture.deadline;
    for _ in 0..2 {
        fixture.store.wait_for(guard, deadline, |owner| owner == Some("0"))?;
        let error = fixture.xl(&["create", "-p", config]).err().context("xl gave it to a guest")?.to_string();
        ensure!(error.contains("not assignable"), "{error}");
        ensure!(fixture.find("other")?.is_none(), "the guest is there");
    }
    fixture.xl(&["pci-assignable-remove", "-r", OTHER])?;
    Ok(())
}

fn auto(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.running_guest()?;
    let stub = fixture.driver_domain()?;
    let list = fixture.pcidom(&["list", GUEST])?;
    ensure!(list.contains(DEVICE), "{list}");
    fixture.await_connected(&guest, &stub)?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.in_guest(&guest, "disk-write /dev/nvme0n1 7 2")?;
    fixture.in_guest(&guest, "disk-check /dev/nvme0n1 7 2")?;
    Ok(())
}
