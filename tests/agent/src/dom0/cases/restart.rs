//! The stub's image is started again in the same domain, and no guest notices (docs/restart.md). What crashes it here is an NMI, at whatever it is at.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    dom0::{
        devices::{EDU, NVME},
        fixture::Fixture,
        guests::Domain,
        snapshot::Snapshot,
        stub::NAME,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::within(
        Duration::from_mins(4),
        "a_guest_reads_on_and_moves_data_while_the_backend_is_started_again_thirty_times",
        thirty_times,
    ),
    Case::within(Duration::from_mins(4), "devices_come_and_go_while_the_backend_is_started_again", while_devices_move),
    Case::within(
        Duration::from_mins(3),
        "the_third_crash_within_a_minute_ends_the_domain_where_the_backend_is_started_again_no_more",
        three_in_a_minute,
    ),
];

/// A stub that starts again however often, and a guest with a disk whose driver uses several vectors.
fn begin(fixture: &mut Fixture) -> Result<(Domain, Domain)> {
    fixture.clear();
    fixture.set_limit(Duration::from_mins(4));
    fixture.broker()?;
    let stub = fixture.start_stub(NAME, "restart=always")?;
    let guest = fixture.guest_with("reader", &[NVME, EDU])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    Ok((stub, guest))
}

/// How often the stub says that it was started again, and how long the last time took.
fn restarts(fixture: &mut Fixture, stub: &Domain) -> Result<(u32, Duration)> {
    let Some(text) = fixture.store.text(&stub.node("data/pcidom/restarts"))?.filter(|text| !text.is_empty()) else {
        return Ok((0, Duration::ZERO));
    };
    let mut words = text.split(' ');
    let mut number = || words.next().context("too short")?.parse::<u64>().context("no number");
    let (count, took) = (number()?, number()?);
    Ok((u32::try_from(count)?, Duration::from_nanos(took)))
}

/// Has Xen interrupt the stub, and waits until it is there again.
fn interrupt(fixture: &mut Fixture, stub: &Domain) -> Result<Duration> {
    let (before, _) = restarts(fixture, stub)?;
    fixture.xl(&["trigger", NAME, "nmi"])?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (count, took) = restarts(fixture, stub)?;
        if count > before {
            ensure!(count == before + 1, "{count} restarts after {before}");
            return Ok(took);
        }
        ensure!(Instant::now() < deadline, "the stub does not come back");
        sleep(Duration::from_millis(1));
    }
}

fn thirty_times(fixture: &mut Fixture) -> Result<()> {
    let (stub, guest) = begin(fixture)?;
    let address = fixture.virtual_address(&guest, EDU)?;
    // Twice, so that what the first restart adds (its node) is there.
    interrupt(fixture, &stub)?;
    let before = Snapshot::take(fixture, &stub)?;
    let heap = |fixture: &mut Fixture| fixture.pcidom(&["status", "--json"]);
    println!("agent: {}", heap(fixture)?);
    let mut times = Vec::new();
    for round in 0..10u64 {
        let reads = fixture.ask(&guest, &format!("read-often /sys/bus/pci/devices/{address}/config 0 3000"))?;
        for _ in 0..3 {
            times.push(interrupt(fixture, &stub)?);
            sleep(Duration::from_millis(37 * round));
        }
        fixture.answer_well(&reads)?;
        let seed = 77 + round;
        fixture.in_guest(&guest, &format!("disk-write /dev/nvme0n1 {seed} 1"))?;
        fixture.in_guest(&guest, &format!("disk-check /dev/nvme0n1 {seed} 1"))?;
        fixture.expect_connected(&guest)?;
    }
    times.sort();
    println!("agent: from crash to ready: {times:?}");
    let log = String::from_utf8_lossy(&fixture.in_guest(&guest, "dmesg")?).into_owned();
    ensure!(!log.contains("not responding"), "the guest has waited in vain: {log}");
    println!("agent: {}", heap(fixture)?);
    let after = Snapshot::take(fixture, &stub)?;
    before.compare_but(&after, &["data/pcidom/restarts", "data/pcidom/statistics"])
}

fn while_devices_move(fixture: &mut Fixture) -> Result<()> {
    let (stub, guest) = begin(fixture)?;
    for _ in 0..4 {
        interrupt(fixture, &stub)?;
        fixture.detach(&guest, &[NVME])?;
        interrupt(fixture, &stub)?;
        expect("the disk", fixture.pool_state(&stub, NVME)?.as_deref(), "free")?;
        fixture.attach(&guest, &[NVME])?;
        fixture.await_disk(&guest, "/dev/nvme0n1")?;
        fixture.in_guest(&guest, "disk-write /dev/nvme0n1 5 1")?;
        // Beside a command that is under way.
        let name = guest.name.clone();
        let command =
            std::thread::spawn(move || std::process::Command::new("pcidom").args(["detach", &name, NVME]).output());
        sleep(Duration::from_millis(150));
        interrupt(fixture, &stub)?;
        let done = command.join().map_err(|_| anyhow::anyhow!("the command's thread panicked"))??;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fixture.attach(&guest, &[NVME])?;
        fixture.await_disk(&guest, "/dev/nvme0n1")?;
        fixture.in_guest(&guest, "disk-check /dev/nvme0n1 5 1")?;
    }
    // A guest that ends while the stub is down is cleaned up after.
    fixture.destroy(&guest)?;
    interrupt(fixture, &stub)?;
    fixture.pcidom(&["reclaim"])?;
    for device in [NVME, EDU] {
        expect(device, fixture.pool_state(&stub, device)?.as_deref(), "free")?;
    }
    Ok(())
}

fn three_in_a_minute(fixture: &mut Fixture) -> Result<()> {
    fixture.clear();
    fixture.set_limit(Duration::from_mins(3));
    fixture.broker()?;
    let stub = fixture.stub()?;
    for _ in 0..2 {
        interrupt(fixture, &stub)?;
    }
    fixture.xl(&["trigger", NAME, "nmi"])?;
    // on_crash="destroy" of its configuration.
    let deadline = Instant::now() + Duration::from_secs(30);
    while fixture.find(NAME)?.is_some() {
        ensure!(Instant::now() < deadline, "the domain goes on");
        sleep(Duration::from_millis(100));
    }
    fixture.domains.retain(|domain| domain.id != stub.id);
    Ok(())
}
