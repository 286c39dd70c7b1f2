//! xl and pcidom on one host.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    dom0::{
        attaching::Attaching,
        devices::{E1000, E1000E, EDU, NVME, component, config},
        fixture::Fixture,
        guests::Domain,
    },
    process::{self, Outcome},
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("xl_pci_attach_of_a_pool_device_fails_and_harms_nobody", attach_of_pool),
    Case::new("xl_pci_attach_that_fails_twice_does_not_reset_a_device_in_use", attach_twice),
    Case::new("xl_pci_detach_by_force_takes_no_device_of_ours", forced_detach),
    Case::new("without_a_broker_the_next_command_mends_the_guard", without_broker),
    Case::new("a_device_that_xl_took_from_pciback_is_prepared_anew_or_let_go", assignable_remove),
    Case::new("of_xl_and_pcidom_at_once_one_gets_the_device", at_once),
    Case::new("a_frontend_directory_that_xl_replaced_is_told_and_left", replaced),
];

/// The guests of these cases: one that uses its devices, and one to which xl wants to give something.
const OURS: &str = "ours";
const XLS: &str = "xls";

/// By then a guard is there again: the broker mends it within half a second, and a machine may have much else to do.
const MENDED: Duration = Duration::from_secs(20);

fn guard(device: &str) -> String {
    format!("/libxl/pci/{}/domid", component(device))
}

/// Runs `xl`, however it ends.
fn try_xl(fixture: &Fixture, arguments: &[&str]) -> Result<Outcome> {
    let outcome = process::run(Command::new("xl").args(arguments), fixture.deadline)?;
    println!("agent: xl {}: {} {}", arguments.join(" "), outcome.code(), outcome.stderr.trim());
    Ok(outcome)
}

fn await_guard(fixture: &mut Fixture, device: &str, owner: &Domain) -> Result<()> {
    let wanted = owner.id.to_string();
    fixture
        .store
        .wait_for(&guard(device), Instant::now() + MENDED, |value| value == Some(&wanted))
        .with_context(|| format!("the guard of {device}"))?;
    Ok(())
}

/// A guest at work with the disk, and the e1000 free in the pool.
fn at_work(fixture: &mut Fixture) -> Result<Domain> {
    let guest = fixture.having(OURS, &[NVME])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.in_pool(E1000)?;
    Ok(guest)
}

/// It goes on with it.
fn works(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    fixture.expect_connected(guest)?;
    fixture.expect_in_guest(guest, &[NVME])?;
    fixture.in_guest(guest, "disk-write /dev/nvme0n1 77 1")?;
    fixture.in_guest(guest, "disk-check /dev/nvme0n1 77 1").map(drop)
}

fn attach_of_pool(fixture: &mut Fixture) -> Result<()> {
    let guest = at_work(fixture)?;
    let other = fixture.running(XLS)?;
    let stub = fixture.stub()?;
    let listed = fixture.xl(&["pci-assignable-list"])?;
    for device in [E1000, NVME] {
        ensure!(!listed.contains(device.trim_start_matches("0000:")), "xl would give {device} away: {listed}");
    }
    for receiver in [&other, &guest] {
        let outcome = try_xl(fixture, &["pci-attach", &receiver.name, E1000])?;
        ensure!(outcome.code() != 0, "xl gave {} a device of the pool", receiver.name);
        await_guard(fixture, E1000, &stub)?;
    }
    fixture.expect_free(E1000)?;
    ensure!(fixture.store.text(&other.node("device/pci/0/state"))?.is_none(), "it has a frontend directory now");
    works(fixture, &guest)?;
    // And a guest gets it from us as ever.
    fixture.attach(&guest, &[E1000])?;
    fixture.detach(&guest, &[E1000])
}

fn attach_twice(fixture: &mut Fixture) -> Result<()> {
    let guest = at_work(fixture)?;
    fixture.running(XLS)?;
    let before = config(NVME)?;
    let lines = fixture.broker_lines(|fixture| {
        for _ in 0..2 {
            let outcome = try_xl(fixture, &["pci-attach", XLS, NVME])?;
            ensure!(outcome.code() != 0, "xl gave away a device that {} uses", guest.name);
            await_guard(fixture, NVME, &guest)?;
        }
        Ok(())
    })?;
    ensure!(config(NVME)? == before, "its configuration space has changed: it was reset");
    let told = lines.iter().filter(|line| line.contains(NVME) && line.contains("mended")).count();
    ensure!(told == 2, "the broker said {lines:?}");
    let listed = fixture.pcidom(&["list", "--json", &guest.name])?;
    ensure!(listed.contains("\"guard\": \"mended 2\""), "{listed}");
    let outcome = fixture.try_pcidom(&["doctor", NVME])?;
    ensure!(outcome.text().contains("its guard against xl was removed, 2 times"), "{}", outcome.text());
    works(fixture, &guest)
}

/// xl resets the device and takes its DMA from the guest, and looks only then whether it has anything to do with it (libxl 4.17,
/// `pci_remove_detached`). Nobody else gets it.
fn forced_detach(fixture: &mut Fixture) -> Result<()> {
    let guest = at_work(fixture)?;
    let lines = fixture.broker_lines(|fixture| {
        try_xl(fixture, &["pci-detach", "-f", &guest.name, NVME])?;
        await_guard(fixture, NVME, &guest)
    })?;
    ensure!(lines.iter().any(|line| line.contains("taken its DMA")), "the broker said {lines:?}");
    fixture.expect_connected(&guest)?;
    let listed = fixture.pcidom(&["list", &guest.name])?;
    ensure!(listed.contains("guard mended"), "{listed}");
    // Without force xl finds that it has nothing to do with the device.
    ensure!(try_xl(fixture, &["pci-detach", &guest.name, NVME])?.code() != 0, "xl detached it");
    await_guard(fixture, NVME, &guest)?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"])?;
    fixture.expect_free(NVME)
}

fn without_broker(fixture: &mut Fixture) -> Result<()> {
    let guest = at_work(fixture)?;
    fixture.running(XLS)?;
    let stub = fixture.stub()?;
    fixture.kill_broker();
    for device in [E1000, NVME] {
        let outcome = try_xl(fixture, &["pci-attach", XLS, device])?;
        ensure!(outcome.code() != 0, "xl gave {device} away");
        ensure!(fixture.store.text(&guard(device))?.is_none(), "xl has left its note: this case is about nothing");
    }
    let listed = fixture.pcidom(&["list"])?;
    ensure!(listed.matches("guard missing").count() == 2, "{listed}");
    let outcome = fixture.try_pcidom(&["reclaim"])?;
    ensure!(outcome.stderr.matches("mended").count() == 2, "{}", outcome.stderr);
    expect("the guard", fixture.store.text(&guard(NVME))?.as_deref(), &guest.id.to_string())?;
    expect("the guard", fixture.store.text(&guard(E1000))?.as_deref(), &stub.id.to_string())?;
    fixture.broker()?;
    works(fixture, &guest)
}

fn assignable_remove(fixture: &mut Fixture) -> Result<()> {
    let guest = at_work(fixture)?;
    for way_out in ["add", "remove"] {
        fixture.xl(&["pci-assignable-remove", E1000])?;
        let listed = fixture.pcidom(&["list"])?;
        ensure!(listed.contains("not parked"), "{listed}");
        fixture.pcidom_fails(&["attach", &guest.name, E1000], 1, "is not assignable")?;
        fixture.pcidom(&["assignable", way_out, E1000])?;
        if way_out == "add" {
            fixture.expect_free(E1000)?;
            fixture.attach(&guest, &[E1000])?;
            fixture.detach(&guest, &[E1000])?;
        } else {
            let stub = fixture.stub()?;
            ensure!(fixture.pool_state(&stub, E1000)?.is_none(), "it is in the pool");
            ensure!(fixture.store.text(&guard(E1000))?.is_none(), "xl would not get it");
            fixture.in_pool(E1000)?;
        }
    }
    // What a guest has Xen keeps from xl.
    ensure!(try_xl(fixture, &["pci-assignable-remove", NVME])?.code() != 0, "xl took a device from {}", guest.name);
    works(fixture, &guest)
}

/// A device that is parked and in no pool: both may have it.
fn at_once(fixture: &mut Fixture) -> Result<()> {
    at_work(fixture)?;
    let (ours, other) = (fixture.running(OURS)?, fixture.running(XLS)?);
    for round in 0_u64..3 {
        let stub = fixture.stub()?;
        if fixture.pool_state(&stub, EDU)?.is_some() {
            fixture.pcidom(&["assignable", "remove", EDU])?;
        }
        fixture.xl(&["pci-assignable-add", EDU])?;
        let attaching = Attaching::start(&ours, EDU)?;
        thread::sleep(Duration::from_millis(40 * round));
        let xl = try_xl(fixture, &["pci-attach", &other.name, EDU])?.code() == 0;
        let we = attaching.finish(fixture.deadline).is_ok();
        println!("agent: round {round}: xl {xl}, pcidom {we}");
        ensure!(!(xl && we), "both say that they have it");
        let attached = fixture.entries(&ours)?.iter().any(|entry| entry.device == EDU);
        ensure!(attached == we, "pcidom said {we}, and that is not so");
        if we {
            await_guard(fixture, EDU, &ours)?;
            fixture.detach(&ours, &[EDU])?;
        }
        if xl {
            expect("xl's note", fixture.store.text(&guard(EDU))?.as_deref(), &other.id.to_string())?;
            fixture.pcidom_fails(&["attach", &ours.name, EDU], 1, "already assigned")?;
            try_xl(fixture, &["pci-detach", "-f", &other.name, EDU])?;
        }
    }
    works(fixture, &ours)
}

fn replaced(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub()?;
    let guest = fixture.having(XLS, &[E1000E, E1000])?;
    fixture.in_pool(NVME)?;
    if fixture.pool_state(&stub, EDU)?.is_some() {
        fixture.pcidom(&["assignable", "remove", EDU])?;
    }
    fixture.xl(&["pci-assignable-add", EDU])?;
    fixture.broker_says("frontend directory was replaced", |fixture| {
        try_xl(fixture, &["pci-attach", XLS, EDU])?;
        let listed = fixture.pcidom(&["list", XLS])?;
        ensure!(listed.matches("frontend replaced").count() == 2, "{listed}");
        Ok(())
    })?;
    fixture.pcidom_fails(&["attach", XLS, NVME], 1, "frontend directory was replaced")?;
    fixture.pcidom_fails(&["detach", XLS, E1000E], 1, "frontend directory was replaced")?;
    for device in [E1000E, E1000] {
        fixture.pcidom(&["detach", "--force", XLS, device])?;
        fixture.expect_free(device)?;
    }
    expect("whose the frontend is", fixture.store.text(&guest.node("device/pci/0/backend-id"))?.as_deref(), "0")?;
    fixture.destroy(&guest)?;
    let deadline = fixture.deadline;
    fixture.store.wait_for(&guard(EDU), deadline, |value| value.is_none())?;
    fixture.xl(&["pci-assignable-remove", EDU])?;
    fixture.in_pool(EDU)
}
