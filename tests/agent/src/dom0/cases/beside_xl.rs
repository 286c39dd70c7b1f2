//! xl on the same host, which knows nothing of the stub.

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
        bed::Bed,
        devices::{E1000, E1000E, EDU, NVME, component, config},
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

/// How soon a guard is there again.
const SOON: Duration = Duration::from_secs(2);

fn guard(device: &str) -> String {
    format!("/libxl/pci/{}/domid", component(device))
}

/// Runs `xl`, however it ends.
fn try_xl(bed: &Bed, arguments: &[&str]) -> Result<Outcome> {
    let outcome = process::run(Command::new("xl").args(arguments), bed.deadline)?;
    println!("agent: xl {}: {} {}", arguments.join(" "), outcome.code(), outcome.stderr.trim());
    Ok(outcome)
}

fn await_guard(bed: &mut Bed, device: &str, owner: &Domain) -> Result<()> {
    let wanted = owner.id.to_string();
    bed.store
        .wait_for(&guard(device), Instant::now() + SOON, |value| value == Some(&wanted))
        .with_context(|| format!("the guard of {device}"))?;
    Ok(())
}

/// A guest at work with the disk, and the e1000 free in the pool.
fn at_work(bed: &mut Bed) -> Result<Domain> {
    let guest = bed.having(OURS, &[NVME])?;
    bed.in_guest(&guest, "load nvme")?;
    bed.await_disk(&guest, "/dev/nvme0n1")?;
    bed.in_pool(E1000)?;
    Ok(guest)
}

/// It goes on with it.
fn works(bed: &mut Bed, guest: &Domain) -> Result<()> {
    bed.expect_connected(guest)?;
    bed.expect_in_guest(guest, &[NVME])?;
    bed.in_guest(guest, "disk-write /dev/nvme0n1 77 1")?;
    bed.in_guest(guest, "disk-check /dev/nvme0n1 77 1").map(drop)
}

fn attach_of_pool(bed: &mut Bed) -> Result<()> {
    let guest = at_work(bed)?;
    let other = bed.running(XLS)?;
    let stub = bed.stub()?;
    let listed = bed.xl(&["pci-assignable-list"])?;
    for device in [E1000, NVME] {
        ensure!(!listed.contains(device.trim_start_matches("0000:")), "xl would give {device} away: {listed}");
    }
    for receiver in [&other, &guest] {
        let outcome = try_xl(bed, &["pci-attach", &receiver.name, E1000])?;
        ensure!(outcome.code() != 0, "xl gave {} a device of the pool", receiver.name);
        await_guard(bed, E1000, &stub)?;
    }
    bed.expect_free(E1000)?;
    ensure!(bed.store.text(&other.node("device/pci/0/state"))?.is_none(), "it has a frontend directory now");
    works(bed, &guest)?;
    // And a guest gets it from us as ever.
    bed.attach(&guest, &[E1000])?;
    bed.detach(&guest, &[E1000])
}

fn attach_twice(bed: &mut Bed) -> Result<()> {
    let guest = at_work(bed)?;
    bed.running(XLS)?;
    let before = config(NVME)?;
    let lines = bed.broker_lines(|bed| {
        for _ in 0..2 {
            let outcome = try_xl(bed, &["pci-attach", XLS, NVME])?;
            ensure!(outcome.code() != 0, "xl gave away a device that {} uses", guest.name);
            await_guard(bed, NVME, &guest)?;
        }
        Ok(())
    })?;
    ensure!(config(NVME)? == before, "its configuration space has changed: it was reset");
    let told = lines.iter().filter(|line| line.contains(NVME) && line.contains("mended")).count();
    ensure!(told == 2, "the broker said {lines:?}");
    let listed = bed.pcidom(&["list", "--json", &guest.name])?;
    ensure!(listed.contains("\"guard\": \"mended 2\""), "{listed}");
    let outcome = bed.try_pcidom(&["doctor", NVME])?;
    ensure!(outcome.text().contains("its guard against xl was removed, 2 times"), "{}", outcome.text());
    works(bed, &guest)
}

/// xl resets the device and takes its DMA from the guest, and looks only then whether it has anything to do with it (libxl 4.17,
/// `pci_remove_detached`). Nobody else gets it.
fn forced_detach(bed: &mut Bed) -> Result<()> {
    let guest = at_work(bed)?;
    let lines = bed.broker_lines(|bed| {
        try_xl(bed, &["pci-detach", "-f", &guest.name, NVME])?;
        await_guard(bed, NVME, &guest)
    })?;
    ensure!(lines.iter().any(|line| line.contains("taken its DMA")), "the broker said {lines:?}");
    bed.expect_connected(&guest)?;
    let listed = bed.pcidom(&["list", &guest.name])?;
    ensure!(listed.contains("guard mended"), "{listed}");
    // Without force xl finds that it has nothing to do with the device.
    ensure!(try_xl(bed, &["pci-detach", &guest.name, NVME])?.code() != 0, "xl detached it");
    await_guard(bed, NVME, &guest)?;
    bed.destroy(&guest)?;
    bed.pcidom(&["reclaim"])?;
    bed.expect_free(NVME)
}

fn without_broker(bed: &mut Bed) -> Result<()> {
    let guest = at_work(bed)?;
    bed.running(XLS)?;
    let stub = bed.stub()?;
    bed.kill_broker();
    for device in [E1000, NVME] {
        let outcome = try_xl(bed, &["pci-attach", XLS, device])?;
        ensure!(outcome.code() != 0, "xl gave {device} away");
        ensure!(bed.store.text(&guard(device))?.is_none(), "xl has left its note: this case is about nothing");
    }
    let listed = bed.pcidom(&["list"])?;
    ensure!(listed.matches("guard missing").count() == 2, "{listed}");
    let outcome = bed.try_pcidom(&["reclaim"])?;
    ensure!(outcome.stderr.matches("mended").count() == 2, "{}", outcome.stderr);
    expect("the guard", bed.store.text(&guard(NVME))?.as_deref(), &guest.id.to_string())?;
    expect("the guard", bed.store.text(&guard(E1000))?.as_deref(), &stub.id.to_string())?;
    bed.broker()?;
    works(bed, &guest)
}

fn assignable_remove(bed: &mut Bed) -> Result<()> {
    let guest = at_work(bed)?;
    for way_out in ["add", "remove"] {
        bed.xl(&["pci-assignable-remove", E1000])?;
        let listed = bed.pcidom(&["list"])?;
        ensure!(listed.contains("not parked"), "{listed}");
        bed.pcidom_fails(&["attach", &guest.name, E1000], 1, "is not assignable")?;
        bed.pcidom(&["assignable", way_out, E1000])?;
        if way_out == "add" {
            bed.expect_free(E1000)?;
            bed.attach(&guest, &[E1000])?;
            bed.detach(&guest, &[E1000])?;
        } else {
            let stub = bed.stub()?;
            ensure!(bed.pool_state(&stub, E1000)?.is_none(), "it is in the pool");
            ensure!(bed.store.text(&guard(E1000))?.is_none(), "xl would not get it");
            bed.in_pool(E1000)?;
        }
    }
    // What a guest has Xen keeps from xl.
    ensure!(try_xl(bed, &["pci-assignable-remove", NVME])?.code() != 0, "xl took a device from {}", guest.name);
    works(bed, &guest)
}

/// A device that is parked and in no pool: both may have it.
fn at_once(bed: &mut Bed) -> Result<()> {
    at_work(bed)?;
    let (ours, other) = (bed.running(OURS)?, bed.running(XLS)?);
    for round in 0_u64..3 {
        let stub = bed.stub()?;
        if bed.pool_state(&stub, EDU)?.is_some() {
            bed.pcidom(&["assignable", "remove", EDU])?;
        }
        bed.xl(&["pci-assignable-add", EDU])?;
        let attaching = Attaching::start(&ours, EDU)?;
        thread::sleep(Duration::from_millis(40 * round));
        let xl = try_xl(bed, &["pci-attach", &other.name, EDU])?.code() == 0;
        let we = attaching.finish(bed.deadline).is_ok();
        println!("agent: round {round}: xl {xl}, pcidom {we}");
        ensure!(!(xl && we), "both say that they have it");
        let attached = bed.entries(&ours)?.iter().any(|entry| entry.device == EDU);
        ensure!(attached == we, "pcidom said {we}, and that is not so");
        if we {
            await_guard(bed, EDU, &ours)?;
            bed.detach(&ours, &[EDU])?;
        }
        if xl {
            expect("xl's note", bed.store.text(&guard(EDU))?.as_deref(), &other.id.to_string())?;
            bed.pcidom_fails(&["attach", &ours.name, EDU], 1, "already assigned")?;
            try_xl(bed, &["pci-detach", "-f", &other.name, EDU])?;
        }
    }
    works(bed, &ours)
}

fn replaced(bed: &mut Bed) -> Result<()> {
    let stub = bed.stub()?;
    let guest = bed.having(XLS, &[E1000E, E1000])?;
    if bed.pool_state(&stub, EDU)?.is_some() {
        bed.pcidom(&["assignable", "remove", EDU])?;
    }
    bed.xl(&["pci-assignable-add", EDU])?;
    let lines = bed.broker_lines(|bed| {
        try_xl(bed, &["pci-attach", XLS, EDU])?;
        let listed = bed.pcidom(&["list", XLS])?;
        ensure!(listed.matches("frontend replaced").count() == 2, "{listed}");
        thread::sleep(SOON);
        Ok(())
    })?;
    ensure!(lines.iter().any(|line| line.contains("frontend directory was replaced")), "the broker said {lines:?}");
    bed.pcidom_fails(&["attach", XLS, NVME], 1, "frontend directory was replaced")?;
    bed.pcidom_fails(&["detach", XLS, E1000E], 1, "frontend directory was replaced")?;
    for device in [E1000E, E1000] {
        bed.pcidom(&["detach", "--force", XLS, device])?;
        bed.expect_free(device)?;
    }
    expect("whose the frontend is", bed.store.text(&guest.node("device/pci/0/backend-id"))?.as_deref(), "0")?;
    bed.destroy(&guest)?;
    let deadline = bed.deadline;
    bed.store.wait_for(&guard(EDU), deadline, |value| value.is_none())?;
    bed.xl(&["pci-assignable-remove", EDU])?;
    bed.in_pool(EDU)
}
