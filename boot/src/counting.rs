//! Reports what requests cost: instructions outside of hypercalls, and hypercalls (feature `counting`, not in the released image).

use kernel::counting::{Counted, counted};
use pciback::Counters;

/// Turns of the main loop between two looks at the counters, so that looking costs next to nothing.
const TURNS: u32 = 256;
/// Requests in one report.
const REQUESTS: u64 = 1000;

/// Counters at the last report.
pub(crate) struct Report {
    turns: u32,
    reads: u64,
    counted: Counted,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { turns: 0, reads: 0, counted: counted() }
    }

    /// One turn of the main loop.
    pub(crate) fn turn(&mut self, counters: impl FnOnce() -> Counters) {
        self.turns += 1;
        if self.turns < TURNS {
            return;
        }
        self.turns = 0;
        let (reads, now) = (counters().reads.get(), counted());
        let requests = reads - self.reads;
        if requests >= REQUESTS {
            let (ticks, hypercalls) =
                (now.own_ticks - self.counted.own_ticks, now.hypercalls - self.counted.hypercalls);
            plain_log::info!("{requests} requests: {ticks} ticks of its own, {hypercalls} hypercalls");
            // The line itself does not count.
            *self = Self { turns: 0, reads, counted: counted() };
        }
    }
}
