//! The host's memory as Xen knows it, and domains that stand still.

use std::collections::BTreeMap;
use std::time::Duration;

use xen_types::{DomId, Errno, Mfn, Pirq, Port};

use super::World;
use super::hypervisor::{ESRCH, FakeHypervisor, Outcome, refuse};
use crate::xen::{BATCH, Channel, DomainInfo, FrameType, Inspect, Table};

/// What is where.
#[derive(Default)]
pub(crate) struct FakeMemory {
    /// The highest frame of memory.
    pub(crate) highest: u64,
    /// The frames that domains have, and which of them are L1 tables, by their entries that are not zero.
    pub(crate) frames: BTreeMap<u64, (DomId, Option<BTreeMap<usize, u64>>)>,
    /// Those of the frames with entries that are tables of a higher level, and the roots.
    pub(crate) levels: BTreeMap<u64, u8>,
    pub(crate) roots: BTreeMap<DomId, u64>,
    pub(crate) channels: BTreeMap<(DomId, u32), Pirq>,
    /// How often each domain was stopped and not let go on.
    pub(crate) pauses: BTreeMap<DomId, u32>,
    /// How long each domain has run.
    pub(crate) ran: BTreeMap<DomId, Duration>,
    /// These frames cannot be mapped; with `true` they are no tables any more when Xen is asked again.
    pub(crate) unmappable: BTreeMap<u64, bool>,
    /// At the so-manyth question about frames or a channel this domain dies.
    pub(crate) dies: Option<(u32, DomId)>,
    /// Frames that were asked for, and those of them that were not the domain's: Xen prints a line about each.
    pub(crate) asked: usize,
    pub(crate) printed: usize,
}

impl FakeMemory {
    /// Gives a domain these frames.
    pub(crate) fn give(&mut self, domain: DomId, frames: impl IntoIterator<Item = u64>) {
        for frame in frames {
            self.highest = self.highest.max(frame);
            self.frames.insert(frame, (domain, None));
        }
    }

    /// Makes a frame of a domain an L1 table with these entries.
    pub(crate) fn make_table(&mut self, domain: DomId, frame: u64, entries: &[(usize, u64)]) {
        self.highest = self.highest.max(frame);
        self.frames.insert(frame, (domain, Some(entries.iter().copied().collect())));
    }

    /// Has a domain map these frames as a kernel does, in tables at its first ones.
    pub(crate) fn map(&mut self, domain: DomId, tables: u64, frames: impl IntoIterator<Item = u64>) {
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
    pub(super) fn destroy(&mut self, domain: DomId) {
        self.frames.retain(|_, (owner, _)| *owner != domain);
        self.channels.retain(|(owner, _), _| *owner != domain);
        self.pauses.remove(&domain);
    }

    pub(super) fn dump(&self) -> Vec<String> {
        vec![format!("standing {:?}", self.pauses)]
    }
}

impl FakeHypervisor {
    /// A look into a domain, which must stand still.
    fn look<T>(&self, domain: DomId, act: impl FnOnce(&mut FakeMemory) -> Outcome<T>) -> Outcome<T> {
        let mut world = self.0.borrow_mut();
        if let Some((left, dying)) = &mut world.memory.dies {
            *left -= 1;
            if *left == 0 {
                let dying = *dying;
                world.memory.dies = None;
                world.destroy(dying);
            }
        }
        if !world.domains.contains_key(&domain) {
            return refuse("a look into a domain", ESRCH);
        }
        if !seen(&world, domain).is_some_and(|info| info.paused) {
            world.violations.push(format!("looked into domain {domain} while it runs"));
        }
        act(&mut world.memory)
    }
}

/// As Xen sees it: the admin's stop and ours are one.
pub(super) fn seen(world: &World, id: DomId) -> Option<DomainInfo> {
    let info = world.domains.get(&id)?;
    Some(DomainInfo { paused: info.paused || world.memory.pauses.contains_key(&id), ..*info })
}

impl Inspect for FakeHypervisor {
    fn next_domain(&self, from: DomId) -> Outcome<Option<(DomId, DomainInfo)>> {
        let world = self.0.borrow();
        let id = world.domains.range(from..).next().map(|(id, _)| *id);
        Ok(id.and_then(|id| Some((id, seen(&world, id)?))))
    }

    fn pause(&self, domain: DomId) -> Outcome {
        self.change("xc_domain_pause", domain, |world| {
            if !world.undisturbed {
                world.violations.push(format!("a signal could leave domain {domain} standing"));
            }
            *world.memory.pauses.entry(domain).or_default() += 1;
            Ok(())
        })
    }

    fn unpause(&self, domain: DomId) -> Outcome {
        self.change("xc_domain_unpause", domain, |world| {
            match world.memory.pauses.get_mut(&domain) {
                Some(1) => drop(world.memory.pauses.remove(&domain)),
                Some(count) => *count -= 1,
                None => world.violations.push(format!("domain {domain} let go on though it was not stopped")),
            }
            Ok(())
        })
    }

    fn root_table(&self, domain: DomId) -> Option<Mfn> {
        self.0.borrow().memory.roots.get(&domain).copied().map(Mfn)
    }

    fn run_time(&self, domain: DomId) -> Outcome<Option<Duration>> {
        let world = self.0.borrow();
        Ok(world.domains.get(&domain).map(|_| world.memory.ran.get(&domain).copied().unwrap_or_default()))
    }

    fn highest_frame(&self) -> Outcome<Mfn> {
        Ok(Mfn(self.0.borrow().memory.highest))
    }

    fn frame_count(&self, domain: DomId) -> Outcome<u64> {
        self.look(domain, |memory| Ok(memory.frames.values().filter(|(owner, _)| *owner == domain).count() as u64))
    }

    fn frame_types(&self, domain: DomId, frames: &[Mfn]) -> Outcome<Vec<FrameType>> {
        if frames.len() > BATCH {
            return refuse("xc_get_pfn_type_batch", Errno::E2BIG);
        }
        self.look(domain, |memory| {
            memory.asked += frames.len();
            let kind = |frame: &Mfn| match memory.frames.get(&frame.0) {
                Some((owner, _)) if *owner != domain => FrameType::NotTheirs,
                Some((_, Some(_))) => match memory.levels.get(&frame.0) {
                    Some(level) => FrameType::UpperTable(*level),
                    None => FrameType::L1Table,
                },
                Some((_, None)) => FrameType::Other,
                None => FrameType::NotTheirs,
            };
            let kinds: Vec<FrameType> = frames.iter().map(kind).collect();
            memory.printed += kinds.iter().filter(|kind| **kind == FrameType::NotTheirs).count();
            Ok(kinds)
        })
    }

    fn show_tables(&self, domain: DomId, frames: &[Mfn], look: &mut dyn FnMut(&Table)) -> Outcome<Vec<Mfn>> {
        self.look(domain, |memory| {
            let mut refused = Vec::new();
            for frame in frames {
                if let Some(vanishes) = memory.unmappable.get(&frame.0).copied() {
                    if vanishes {
                        memory.frames.insert(frame.0, (domain, None));
                    }
                    refused.push(*frame);
                    continue;
                }
                let mut table: Table = [0; 512];
                if let Some((_, Some(entries))) = memory.frames.get(&frame.0) {
                    entries.iter().for_each(|(index, entry)| table[*index] = *entry);
                }
                look(&table);
            }
            Ok(refused)
        })
    }

    fn channel(&self, domain: DomId, port: Port) -> Outcome<Option<Channel>> {
        self.look(domain, |memory| {
            let last = memory.channels.keys().filter(|(owner, _)| *owner == domain).map(|(_, port)| *port).max();
            if last.is_none_or(|last| port.0 > last) {
                return Ok(None);
            }
            Ok(Some(memory.channels.get(&(domain, port.0)).map_or(Channel::Other, |pirq| Channel::Pirq(*pirq))))
        })
    }
}
