//! How long a guest stands still for the audit, for each GiB that it has.

use anyhow::{Context, Result};

use super::{DEVICE, Session};
use crate::{dom0::guests::Domain, process};

/// Frames of 4 KiB.
const FRAMES_PER_GIB: f64 = 262_144.0;

impl Session<'_> {
    /// What a detach says of its audit (`docs/audit.md`): the time in which it looked through the stopped guest, and how many frames that has.
    pub(super) fn measure_audit(&mut self, guest: &Domain) -> Result<()> {
        process::check(&mut self.who.attach(guest, DEVICE), self.fixture.deadline)?;
        let outcome = process::run(self.who.detach(guest, DEVICE).arg("-v"), self.fixture.deadline)?;
        anyhow::ensure!(outcome.code() == 0, "detach: {}", outcome.stderr);
        // … looked through default (domain 2): 155 tables in 65536 frames, … not its own, 69.0 ms, …
        let said = outcome.stderr.lines().find(|line| line.contains("looked through "));
        let said = said.with_context(|| format!("no audit in {:?}", outcome.stderr))?;
        let number = |before: &str| -> Option<f64> { said.split_once(before)?.0.rsplit(' ').next()?.parse().ok() };
        let numbers = number(" frames,").zip(number(" ms, "));
        let (frames, took) = numbers.with_context(|| format!("no figures in {said:?}"))?;
        self.sample("audit_per_gib", "ms", took * FRAMES_PER_GIB / frames)
    }
}
