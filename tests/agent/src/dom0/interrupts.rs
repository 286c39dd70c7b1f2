//! Counting dom0's events.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

/// How often each of dom0's event channels had an event, on all CPUs together. Timers and calls between dom0's own CPUs
/// (`xen-percpu`) are left out: nobody else causes those.
#[derive(Debug)]
pub(crate) struct EventCounts(pub(crate) BTreeMap<String, u64>);

impl EventCounts {
    /// Reads `/proc/interrupts`.
    pub(crate) fn now() -> Result<Self> {
        let table = fs::read_to_string("/proc/interrupts")?;
        let cpus = table.lines().next().context("an empty table")?.split_whitespace().count();
        let mut counts = BTreeMap::new();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((name, rest)) = words.split_first() else { continue };
            let numbers: Vec<u64> = rest.iter().take(cpus).map_while(|word| word.parse().ok()).collect();
            let what = rest.get(numbers.len()..).unwrap_or_default().join(" ");
            if what.starts_with("xen-dyn") || what.starts_with("xen-pirq") {
                counts.insert(format!("{name} {what}"), numbers.iter().sum());
            }
        }
        Ok(Self(counts))
    }

    /// What came since `earlier`, zeroes left out.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let difference =
            |(name, count): (&String, &u64)| (name.clone(), count - earlier.0.get(name).copied().unwrap_or_default());
        Self(self.0.iter().map(difference).filter(|(_, count)| *count > 0).collect())
    }
}
