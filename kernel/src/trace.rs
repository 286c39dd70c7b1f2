//! Trace buffer for the crash dump: a fixed ring of small typed events, repeats folded into a count.

use crate::clock;
use spin::Mutex;

/// Events kept.
const CAPACITY: usize = 32;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it happened last, by [`clock::ticks`]: the time is worked out when somebody asks.
    pub ticks: u64,
    /// What happened.
    pub what: &'static str,
    /// Two numbers that belong to it.
    pub values: [u64; 2],
    /// How often in a row.
    pub count: u32,
}

struct Ring {
    /// `None` is all zero bits, so an empty ring takes no room in the image's file.
    entries: [Option<Entry>; CAPACITY],
    next: usize,
}

static RING: Mutex<Ring> = Mutex::new(Ring { entries: [None; CAPACITY], next: 0 });

impl Ring {
    fn record(&mut self, ticks: u64, what: &'static str, values: [u64; 2]) {
        if let Some(last) = &mut self.entries[(self.next + CAPACITY - 1) % CAPACITY]
            && core::ptr::eq(last.what, what)
            && last.values == values
        {
            last.count = last.count.saturating_add(1);
            last.ticks = ticks;
            return;
        }
        self.entries[self.next] = Some(Entry { ticks, what, values, count: 1 });
        self.next = (self.next + 1) % CAPACITY;
    }

    fn oldest_first(&self) -> impl Iterator<Item = Entry> {
        let (new, old) = self.entries.split_at(self.next);
        old.iter().chain(new).copied().flatten()
    }
}

/// Keeps an event.
#[inline(never)]
pub fn record(what: &'static str, values: [u64; 2]) {
    // Held only inside this file; a panic in between is not possible, but a crash dump must never wait for a lock.
    if let Some(mut ring) = RING.try_lock() {
        ring.record(clock::ticks(), what, values);
    }
}

/// Gives the kept events to `visit`, oldest first.
pub fn for_each(visit: impl FnMut(Entry)) {
    if let Some(ring) = RING.try_lock() {
        ring.oldest_first().for_each(visit);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn keeps_the_newest_in_order_and_folds_repeats() {
        let mut ring = Ring { entries: [None; CAPACITY], next: 0 };
        for value in 0..CAPACITY as u64 + 5 {
            ring.record(value, "event", [value, 0]);
            ring.record(value, "event", [value, 0]);
        }
        let kept: Vec<Entry> = ring.oldest_first().collect();
        assert_eq!(kept.len(), CAPACITY);
        assert_eq!((kept[0].values[0], kept[0].count), (5, 2));
        assert_eq!(kept[CAPACITY - 1].values[0], CAPACITY as u64 + 4);
    }
}
