//! Counts hypercalls and the time spent in them (feature `counting`, for benchmarks only).

use crate::tsc::ticks;
use core::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);
static ASLEEP: AtomicU64 = AtomicU64::new(0);

/// Counters since the start.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Hypercalls.
    pub hypercalls: u64,
    /// Ticks of the time-stamp counter outside of hypercalls.
    pub own_ticks: u64,
    /// Ticks since the start in [`crate::events::wait`]: asleep, or about to be.
    pub asleep_ticks: u64,
}

/// The counters now.
#[must_use]
pub fn counted() -> Counted {
    let hypercalls = CALLS.load(Ordering::Relaxed);
    let own_ticks = ticks().wrapping_sub(TICKS.load(Ordering::Relaxed));
    Counted { hypercalls, own_ticks, asleep_ticks: ASLEEP.load(Ordering::Relaxed) }
}

pub(crate) fn slept(since: u64) {
    ASLEEP.fetch_add(ticks().wrapping_sub(since), Ordering::Relaxed);
}

pub(crate) fn enter() -> u64 {
    ticks()
}

pub(crate) fn leave(entered: u64) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    TICKS.fetch_add(ticks().wrapping_sub(entered), Ordering::Relaxed);
}
