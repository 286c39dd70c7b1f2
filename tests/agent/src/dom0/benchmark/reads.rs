//! Accesses to configuration space, timed in the guest.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::{Clock, Session};
use crate::dom0::{access_times, guests::Domain};

/// Command and Status: neither backend can answer it without the hardware.
const REGISTER: u32 = 4;
/// Cache Line Size: a register that guests may write and that both backends write to the hardware.
const WRITABLE: u32 = 0xc;

/// Percentiles of how long something took.
struct Times {
    p50: f64,
    p90: f64,
    p99: f64,
}

impl Session<'_> {
    /// Reads of one dword.
    pub(super) fn measure_reads(&mut self, guest: &Domain, suffix: &str) -> Result<()> {
        let count = if self.clock == Clock::Real { 2000 } else { 500 };
        self.measure_reads_as(guest, &format!("config_read{suffix}"), count)
    }

    fn measure_reads_as(&mut self, guest: &Domain, name: &str, count: u32) -> Result<()> {
        let times = self.time_in(guest, "read", REGISTER, 4, count)?;
        // The instruction clock's median is the figure, which its name says.
        let median = if self.clock == Clock::Real { format!("{name}_p50") } else { name.to_owned() };
        self.sample(&median, "us", times.p50)?;
        self.sample(&format!("{name}_p90"), "us", times.p90)?;
        self.sample(&format!("{name}_p99"), "us", times.p99)
    }

    /// Whole configuration spaces, and writes.
    pub(super) fn measure_io(&mut self, guest: &Domain) -> Result<()> {
        let few = if self.clock == Clock::Real { 5 } else { 2 };
        let conventional = self.time_in(guest, "read", 0, 256, 4 * few)?.p50;
        self.sample("config_dump_256", "us", conventional)?;
        let extended = self.time_in(guest, "read", 0, 4096, few)?.p50;
        self.sample("config_dump_4k", "us", extended)?;
        let write = self.time_in(guest, "write", WRITABLE, 1, 100 * few)?.p50;
        self.sample("config_write", "us", write)
    }

    /// Reads while all of dom0's CPUs are busy.
    pub(super) fn measure_reads_with_busy_dom0(&mut self, guest: &Domain) -> Result<()> {
        let stop = AtomicBool::new(false);
        let cpus = thread::available_parallelism()?.get();
        thread::scope(|scope| {
            for _ in 0..cpus {
                scope.spawn(|| {
                    let mut work = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        work = black_box(work.wrapping_mul(3).wrapping_add(1));
                    }
                });
            }
            let result = self.measure_reads_as(guest, "config_read_busy_dom0", 500);
            stop.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Reads while others read as well.
    pub(super) fn measure_reads_beside_others(&mut self, guest: &Domain) -> Result<()> {
        self.measure_reads_as(guest, "config_read_beside_7", 500)
    }

    /// Microseconds.
    fn time_in(&mut self, guest: &Domain, kind: &str, offset: u32, length: u32, count: u32) -> Result<Times> {
        let file = Self::config_file();
        let said = self.fixture.in_guest(guest, &format!("time-access {kind} {file} {offset} {length} {count}"))?;
        let [p50, p90, p99] =
            access_times::parse(&said)?.map(|nanoseconds| Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6);
        Ok(Times { p50, p90, p99 })
    }
}
