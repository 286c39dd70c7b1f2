//! How long accesses to configuration space take, as the guest sees it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

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

/// `time-access read|write FILE OFFSET LENGTH COUNT`: so many accesses of `LENGTH` bytes; prints median, 90th and 99th percentile in
/// nanoseconds. What is written is what was read before, with bit 4 of its first byte changed each time and as before at the end: a
/// backend may leave out a write that changes nothing. `COUNT` is even.
pub(crate) fn of_accesses(kind: &str, path: &str, offset: &str, length: &str, count: &str) -> Result<Vec<u8>> {
    let (offset, length, count): (u64, usize, usize) = (offset.parse()?, length.parse()?, count.parse()?);
    let is_write = kind == "write";
    let file = OpenOptions::new().read(true).write(is_write).open(path).with_context(|| format!("opening {path}"))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        if is_write {
            bytes[0] ^= 0x10;
        }
        let before = Instant::now();
        if is_write {
            file.write_all_at(&bytes, offset)?;
        } else {
            file.read_exact_at(&mut bytes, offset)?;
        }
        times.push(before.elapsed().as_nanos());
    }
    ensure!(!times.is_empty(), "no access");
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(format!("{} {} {}", at(50), at(90), at(99)).into_bytes())
}
