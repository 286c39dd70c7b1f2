//! Counting wake-ups with Xen's own trace buffers.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::fixture::Fixture;
use crate::process;

/// `TRC_SCHED_WAKE` (`xen/include/public/trace.h`): a vCPU that slept becomes runnable. Its data: domain id, vCPU number.
const WAKE: u32 = 0x0002_8004;
/// All events of its class (`TRC_SCHED_VERBOSE`), as `xentrace -e` takes them.
const CLASS: &str = "0x00028000";

/// How often vCPUs of each domain were woken during `time`.
pub(crate) fn wakes(fixture: &Fixture, time: Duration) -> Result<BTreeMap<u16, u64>> {
    let file = "/tmp/trace";
    let seconds = time.as_secs().to_string();
    let deadline = fixture.deadline.max(Instant::now() + time + Duration::from_secs(10));
    // -D: what the buffers hold from earlier does not count.
    process::check(Command::new("xentrace").args(["-D", "-e", CLASS, "-T", &seconds, file]), deadline)?;
    let trace = fs::read(file)?;
    fs::remove_file(file)?;
    let mut counts = BTreeMap::new();
    for Record { event, data } in Records(&trace) {
        if event == WAKE {
            let domain = data.first().copied().context("a record without data")?;
            *counts.entry(u16::try_from(domain)?).or_default() += 1;
        }
    }
    Ok(counts)
}

/// One record: a word with the event (bits 27:0), the number of data words (30:28) and whether a time stamp of two words
/// follows (31); then these.
struct Record {
    event: u32,
    data: Vec<u32>,
}

struct Records<'a>(&'a [u8]);

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let mut word = || {
            let (word, rest) = self.0.split_first_chunk::<4>()?;
            self.0 = rest;
            Some(u32::from_le_bytes(*word))
        };
        let header = word()?;
        if header >> 31 == 1 {
            word()?;
            word()?;
        }
        let data = (0..(header >> 28) & 7).map_while(|_| word()).collect();
        Some(Record { event: header & 0x0fff_ffff, data })
    }
}
