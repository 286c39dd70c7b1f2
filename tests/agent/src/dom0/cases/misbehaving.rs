//! Guests that load the stub as much as they can, and the effect on others.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{EDU, NVME, sysfs},
    fixture::Fixture,
    services::SHARE,
    stub,
};

pub(super) const CASES: &[Case] =
    &[Case::new("a_guest_that_restarts_in_a_loop_is_slowed_down_and_disturbs_no_other", starts_anew_without_end)];

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
