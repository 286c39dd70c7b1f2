//! Guests that load the stub as much as they can, and the effect on others.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    access_times,
    crashes::{CHANGING, restarts},
    devices::{EDU, NVME, sysfs},
    fixture::Fixture,
    guests::Domain,
    network,
    services::SHARE,
    snapshot::Snapshot,
    stub,
};

pub(super) const CASES: &[Case] = &[
    Case::new("a_guest_that_restarts_in_a_loop_is_slowed_down_and_disturbs_no_other", starts_anew_without_end),
    Case::within(Duration::from_mins(3), "a_hostile_frontend_gains_nothing_and_disturbs_no_other", |fixture| {
        hostile(fixture, 2, &mut |_| Ok(()))
    }),
];

/// How often it starts anew. Without a budget each round took 60 ms of the stub's time.
const ROUNDS: u32 = 300;
/// What the rounds may take of it, in seconds: a third of that.
const SECONDS: f64 = 6.0;
/// Lines about the device on the stub's console: a few at once, then ten a minute.
const LINES: usize = 60;

/// A guest removes its `state` and writes 1, again and again, which gives its device back and takes it each time. An honest one reads
/// meanwhile.
fn starts_anew_without_end(fixture: &mut Fixture) -> Result<()> {
    let honest = fixture.guest_with("honest", &[NVME])?;
    let storming = fixture.guest_with("storming", &[EDU])?;
    let config = format!("{}/config", sysfs("0000:00:00.0"));
    let (time, lines) = (stub_time(fixture)?, lines_about(EDU)?);
    let storm = fixture.ask(&storming, &format!("start-anew {ROUNDS}"))?;
    fixture.in_guest(&honest, &format!("read-often {config} 0 1000"))?;
    fixture.answer_well(&storm)?;
    let (took, told) = (stub_time(fixture)? - time, lines_about(EDU)?.saturating_sub(lines));
    ensure!(took < SECONDS, "{ROUNDS} rounds took {took} s of the stub's time");
    ensure!(told < LINES, "{told} lines about the device");
    fixture.in_guest(&honest, &format!("read-often {config} 0 1000"))?;
    fixture.destroy(&storming)
}

/// How long a hostile guest is at work, in milliseconds.
const HOSTILE_MS: u32 = 8_000;
/// Within this time everything is as it was.
const SETTLED: Duration = Duration::from_secs(15);
const DISK: &str = "/dev/nvme0n1";

/// So many hostile frontends (`tests/guests/frontend/src/hostile.rs`), one after the other, each with another number, beside a Linux guest that reads registers and moves data. `progress`
/// hears of each ten.
pub(crate) fn hostile(fixture: &mut Fixture, count: u32, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    const LIMIT: Duration = Duration::from_mins(2);
    fixture.clear();
    fixture.broker()?;
    let honest = fixture.guest_with("honest", &[NVME])?;
    fixture.in_guest(&honest, "load nvme")?;
    fixture.await_disk(&honest, DISK)?;
    fixture.in_pool(EDU)?;
    let stub = fixture.stub()?;
    let config = format!("{}/config", sysfs("0000:00:00.0"));
    let reads = format!("time-access read {config} 4 4 2000");
    let alone = access_times::parse(&fixture.in_guest(&honest, &reads)?)?;
    let before = Snapshot::take(fixture, &stub)?;
    let (restarts_before, _) = restarts(fixture, &stub)?;
    let first = network::seed()?;
    let mut beside = [0; 3];
    for number in 0..count {
        fixture.set_limit(LIMIT);
        // The first one is the same each time.
        let seed = if number == 0 { 1 } else { first.wrapping_add(number.into()) };
        let guest = fixture.create_small("hostile", "netbsd")?;
        fixture.pcidom(&["attach", "hostile", EDU])?;
        fixture.unpause(&guest)?;
        fixture.await_frontend(&guest, "4")?;
        let asked = fixture.ask(&guest, &format!("hostile {seed} {HOSTILE_MS}"))?;
        let work = (|| {
            let now = access_times::parse(&fixture.in_guest(&honest, &reads)?)?;
            fixture.in_guest(&honest, &format!("read-often {config} 0 1000"))?;
            ensure!(fixture.is_at_work(&asked)?, "the hostile guest ended before the honest one had read");
            fixture.in_guest(&honest, &format!("disk-write {DISK} {seed} 2"))?;
            fixture.in_guest(&honest, &format!("disk-check {DISK} {seed} 2"))?;
            fixture.expect_connected(&honest)?;
            Ok::<_, anyhow::Error>(now)
        })();
        let now = work.with_context(|| format!("beside a hostile guest with the seed {seed}"))?;
        let did = String::from_utf8(fixture.answer_well(&asked)?)?;
        println!("agent: seed {seed}: {did}; the other guest's reads take {now:?} ns, {alone:?} alone");
        let answers = did.split(' ').next().and_then(|answers| answers.parse::<u32>().ok());
        ensure!(answers > Some(100), "the hostile guest was hardly served: {did}");
        for (most, now) in beside.iter_mut().zip(now) {
            *most = now.max(*most);
        }
        end(fixture, &guest)?;
        fixture.pcidom(&["reclaim"])?;
        fixture.expect_free(EDU)?;
        let (crashes, _) = restarts(fixture, &stub)?;
        ensure!(crashes == restarts_before, "the stub crashed beside a hostile guest with the seed {seed}");
        if (number + 1) % 10 == 0 {
            progress(&format!(
                "{} hostile guests; reads of another one take {beside:?} ns at most, {alone:?} alone",
                number + 1
            ))?;
        }
    }
    // The broker, too, has what is left put right, and its command may be at it: what stays is left.
    let started = Instant::now();
    loop {
        let result = before.compare_but(&Snapshot::take(fixture, &stub)?, &CHANGING);
        if result.is_ok() || started.elapsed() > SETTLED {
            return result;
        }
    }
}

/// Ends a guest, unless its own driver has: NetBSD's panics where it does not know a state.
fn end(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    if let Err(error) = fixture.destroy(guest) {
        let deadline = fixture.deadline;
        if fixture.store.wait_for(&guest.node("vm"), deadline, |value| value.is_none()).is_err() {
            return Err(error);
        }
        fixture.domains.retain(|domain| domain != guest);
    }
    Ok(())
}

/// The stub's CPU time in seconds, from the last column of `xl list`.
fn stub_time(fixture: &Fixture) -> Result<f64> {
    let listing = fixture.xl(&["list", stub::NAME])?;
    let time = listing.lines().last().and_then(|line| line.split_whitespace().last());
    time.and_then(|time| time.parse().ok()).with_context(|| format!("no time in {listing:?}"))
}

/// Lines about a device on the stub's console.
fn lines_about(device: &str) -> Result<usize> {
    let console = fs::read(format!("{SHARE}/console/guest-{}.log", stub::NAME))?;
    Ok(String::from_utf8_lossy(&console).lines().filter(|line| line.contains(device)).count())
}
