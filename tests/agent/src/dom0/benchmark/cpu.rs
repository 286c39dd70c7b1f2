//! CPU time of dom0 for a guest's reads.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::Session;
use crate::dom0::guests::Domain;

const READS: u32 = 10_000;

impl Session<'_> {
    /// dom0's CPU time while a guest reads, less what it takes in the same time when nobody does.
    pub(super) fn measure_cpu(&mut self, guest: &Domain) -> Result<()> {
        let start = self.dom0_time()?;
        let started = Instant::now();
        self.fixture.in_guest(guest, &format!("read-often {} 4 {READS}", Self::config_file()))?;
        let took = started.elapsed();
        let middle = self.dom0_time()?;
        thread::sleep(took.max(Duration::from_secs(1)));
        let idle = (self.dom0_time()? - middle) * took.as_secs_f64() / took.as_secs_f64().max(1.0);
        self.report_figure("dom0_cpu_per_10000_reads_s", "s", (middle - start - idle).max(0.0))
    }

    /// Seconds, from the last column of `xl list`.
    fn dom0_time(&self) -> Result<f64> {
        let listing = self.fixture.xl(&["list", "Domain-0"])?;
        let time = listing.lines().last().and_then(|line| line.split_whitespace().last());
        time.and_then(|time| time.parse().ok()).with_context(|| format!("no time in {listing:?}"))
    }
}
