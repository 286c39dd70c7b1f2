//! The host's memory as Xen sees it, and paused domains.

use std::collections::BTreeMap;
use std::time::Duration;

use xen_types::{DomId, Pirq};

/// What is where.
#[derive(Default)]
pub struct FakeMemory {
    /// The highest frame of memory.
    pub highest: u64,
    /// The frames that domains have, and which of them are L1 tables, by their entries that are not zero.
    pub frames: BTreeMap<u64, (DomId, Option<BTreeMap<usize, u64>>)>,
    /// Those of the frames with entries that are tables of a higher level, and the roots.
    pub levels: BTreeMap<u64, u8>,
    pub roots: BTreeMap<DomId, u64>,
    pub channels: BTreeMap<(DomId, u32), Pirq>,
    /// What is in some frames.
    pub pages: BTreeMap<u64, [u8; 4096]>,
    /// Where an NMI leads a domain to.
    pub nmi_entries: BTreeMap<DomId, u64>,
    /// How often each domain was stopped and not let go on.
    pub pauses: BTreeMap<DomId, u32>,
    /// How long each domain has run.
    pub ran: BTreeMap<DomId, Duration>,
    /// These frames cannot be mapped; with `true` they are no tables any more when Xen is asked again.
    pub unmappable: BTreeMap<u64, bool>,
    /// At the so-manyth question about frames or a channel this domain dies.
    pub dies: Option<(u32, DomId)>,
    /// Frames that were asked for, and those of them that were not the domain's: Xen prints a line about each.
    pub asked: usize,
    pub printed: usize,
}

impl FakeMemory {
    /// Gives a domain these frames.
    pub fn give(&mut self, domain: DomId, frames: impl IntoIterator<Item = u64>) {
        for frame in frames {
            self.highest = self.highest.max(frame);
            self.frames.insert(frame, (domain, None));
        }
    }

    /// Makes a frame of a domain an L1 table with these entries.
    pub fn make_table(&mut self, domain: DomId, frame: u64, entries: &[(usize, u64)]) {
        self.highest = self.highest.max(frame);
        self.frames.insert(frame, (domain, Some(entries.iter().copied().collect())));
    }

    /// Has a domain map these frames as a kernel does, in tables at its first ones.
    pub fn map(&mut self, domain: DomId, tables: u64, frames: impl IntoIterator<Item = u64>) {
        let entry = |frame: u64| frame << 12 | 1;
        let frames: Vec<u64> = frames.into_iter().collect();
        let mut lower = Vec::new();
        for (index, frames) in (3..).zip(frames.chunks(512)) {
            let entries: Vec<(usize, u64)> = frames.iter().map(|frame| entry(*frame)).enumerate().collect();
            self.make_table(domain, tables + index, &entries);
            lower.push((lower.len(), entry(tables + index)));
        }
        for (level, index) in [(2, 2), (3, 1), (4, 0)] {
            self.make_table(domain, tables + index, &lower);
            self.levels.insert(tables + index, level);
            lower = vec![(0, entry(tables + index))];
            if level == 3 {
                lower.push((260, entry(1))); // Xen's own
            }
        }
        self.roots.insert(domain, tables);
    }

    /// What Xen does when a domain is gone.
    pub fn destroy(&mut self, domain: DomId) {
        self.frames.retain(|_, (owner, _)| *owner != domain);
        self.channels.retain(|(owner, _), _| *owner != domain);
        self.pauses.remove(&domain);
    }

    pub fn dump(&self) -> Vec<String> {
        vec![format!("standing {:?}", self.pauses)]
    }
}
