//! The host's memory as Xen lets commands look at it.

use fakes::FakeHypervisor;
use fakes::hypervisor::{Outcome, refuse, seen};
use xen_types::{DomId, Errno, Mfn, Port};

use crate::xen::{BATCH, Channel, DomainInfo, FrameType, Images, Inspect, Page, Table};

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

impl Images for FakeHypervisor {
    fn read_pages(&self, domain: DomId, frames: &[Mfn]) -> Outcome<Vec<Page>> {
        let world = self.0.borrow();
        let page = |frame: &Mfn| match world.memory.frames.get(&frame.0) {
            Some((owner, None)) if *owner == domain => {
                Ok(world.memory.pages.get(&frame.0).copied().unwrap_or([0; 4096]))
            }
            Some((owner, Some(entries))) if *owner == domain => {
                let mut page = [0; 4096];
                for (index, entry) in entries {
                    page[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
                }
                Ok(page)
            }
            _ => refuse("xenforeignmemory_map", Errno::EINVAL),
        };
        frames.iter().map(page).collect()
    }

    fn write_pages(&self, domain: DomId, pages: &[(Mfn, &Page)]) -> Outcome {
        if pages.iter().any(|(frame, _)| self.0.borrow().memory.frames.get(&frame.0) != Some(&(domain, None))) {
            return refuse("xenforeignmemory_map", Errno::EINVAL);
        }
        self.change("xenforeignmemory_map", domain, |world| {
            if !seen(world, domain).is_some_and(|info| info.paused) {
                world.violations.push(format!("memory of domain {domain} was changed while it ran"));
            }
            world.memory.pages.extend(pages.iter().map(|(frame, page)| (frame.0, **page)));
            Ok(())
        })
    }

    fn set_nmi_entry(&self, domain: DomId, entry: u64) -> Outcome {
        self.change("xc_vcpu_setcontext", domain, |world| {
            world.memory.nmi_entries.insert(domain, entry);
            Ok(())
        })
    }
}
