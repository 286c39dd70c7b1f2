//! Time since Xen started: the paravirtual clock (`struct vcpu_time_info`, `xen/include/public/xen.h`).

use crate::shared_info;
use core::sync::atomic::{AtomicU64, Ordering, fence};

pub use crate::tsc::ticks;

/// Nanoseconds since Xen started. Never goes back on the one vCPU.
#[must_use]
pub fn now_ns() -> u64 {
    shared_info::try_get().map_or(0, |page| {
        let record = page.time();
        loop {
            let before = record.read();
            fence(Ordering::Acquire);
            let tsc = ticks();
            fence(Ordering::Acquire);
            // An odd version: Xen is writing. A changed one: it wrote while we read.
            if before.version & 1 == 0 && record.read().version == before.version {
                let delta = tsc.wrapping_sub(before.tsc_timestamp);
                return before.system_time.wrapping_add(scale(delta, before.tsc_to_system_mul, before.tsc_shift));
            }
        }
    })
}

/// When the image's first instructions ran, in [`now_ns`]'s time.
static START_NS: AtomicU64 = AtomicU64::new(0);

/// When this domain started to run, in [`now_ns`]'s time: for figures such as the time until it is ready.
#[must_use]
pub fn start_ns() -> u64 {
    START_NS.load(Ordering::Relaxed)
}

/// The time at which the counter had the value `then`.
pub(crate) fn at_ns(then: u64) -> u64 {
    shared_info::try_get().map_or(0, |page| {
        let record = page.time().read();
        let passed = scale(ticks().wrapping_sub(then), record.tsc_to_system_mul, record.tsc_shift);
        now_ns().saturating_sub(passed)
    })
}

/// Keeps the time of the start, told by the counter's value there ([`ticks`]): at that moment there was no clock yet.
pub(crate) fn set_start(tsc_at_start: u64) {
    START_NS.store(at_ns(tsc_at_start), Ordering::Relaxed);
}

/// TSC ticks to nanoseconds: shift, then a 32.32 fixed-point multiplication (xen.h, "vcpu_time_info").
fn scale(delta: u64, multiplier: u32, shift: i8) -> u64 {
    let shifted = match u32::from(shift.unsigned_abs()).min(63) {
        bits if shift < 0 => delta >> bits,
        bits => delta << bits,
    };
    #[expect(clippy::cast_possible_truncation, reason = "after 584 years")]
    let nanoseconds = ((u128::from(shifted) * u128::from(multiplier)) >> 32) as u64;
    nanoseconds
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn ticks_become_nanoseconds() {
        // 1 GHz: one tick is one nanosecond, as 2^31 * 2 / 2^32.
        assert_eq!(scale(1_000_000_007, 0x8000_0000, 1), 1_000_000_007);
        // 4 GHz.
        assert_eq!(scale(4_000_000_000, 0x8000_0000, -1), 1_000_000_000);
        // No overflow after a year at 3 GHz.
        let year = 3_000_000_000u64 * 31_536_000;
        assert_eq!(scale(year, 0x5555_5555, 0) / 1_000_000_000, 31_535_999);
    }
}
