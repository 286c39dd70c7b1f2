//! How long reads of configuration space take, as the guest sees it.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// `read-latency FILE OFFSET MILLISECONDS`: reads the dword at `OFFSET` of a configuration space file for so long and prints how many reads
/// that were, then the median, the 90th percentile and the longest in microseconds.
pub(crate) fn of_reads(path: &str, offset: &str, milliseconds: &str) -> Result<Vec<u8>> {
    let (offset, time) = (offset.parse()?, Duration::from_millis(milliseconds.parse()?));
    let file = File::open(path).with_context(|| format!("opening {path}"))?;
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let before = Instant::now();
        file.read_exact_at(&mut [0; 4], offset)?;
        times.push(before.elapsed().as_micros());
    }
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len().saturating_sub(1)) * percent / 100).context("not one read");
    Ok(format!("{} {} {} {}", times.len(), at(50)?, at(90)?, at(100)?).into_bytes())
}
