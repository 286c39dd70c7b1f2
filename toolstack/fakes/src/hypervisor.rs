//! A strict fake hypervisor: it tracks rights, and fails when one is revoked twice.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::World;
use super::memory::FakeMemory;
use dom0::xen::{DomainInfo, HypercallError, Hypervisor};

pub const ESRCH: Errno = Errno(3);

pub struct FakeHypervisor(pub Rc<RefCell<World>>);

pub type Outcome<T = ()> = Result<T, HypercallError>;

pub fn refuse<T>(call: &'static str, errno: Errno) -> Outcome<T> {
    Err(HypercallError { call, errno })
}

impl FakeHypervisor {
    /// A change of one domain.
    pub fn change(&self, call: &'static str, domain: DomId, act: impl FnOnce(&mut World) -> Outcome) -> Outcome {
        let mut world = self.0.borrow_mut();
        if world.change_fails() {
            return refuse(call, Errno::EIO);
        }
        if domain != DomId::IO && !world.domains.contains_key(&domain) {
            return refuse(call, ESRCH);
        }
        act(&mut world)
    }
}

impl Hypervisor for FakeHypervisor {
    fn domain(&self, id: DomId) -> Outcome<Option<DomainInfo>> {
        Ok(seen(&self.0.borrow(), id))
    }

    fn run_time(&self, domain: DomId) -> Outcome<Option<Duration>> {
        let world = self.0.borrow();
        Ok(world.domains.get(&domain).map(|_| world.memory.ran.get(&domain).copied().unwrap_or_default()))
    }

    fn send_nmi(&self, domain: DomId) -> Outcome {
        self.change("xc_domain_send_trigger", domain, |world| {
            // It may be interrupted again meanwhile.
            if let Some(mut act) = world.on_nmi.take() {
                act(world, domain);
                world.on_nmi.get_or_insert(act);
            }
            Ok(())
        })
    }

    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Outcome {
        let call = "xc_physdev_unmap_pirq";
        let key = (domain, pirq.0);
        let is_mapped = |world: &World| world.pirqs.contains(&key) || !world.domains.contains_key(&domain);
        if !is_mapped(&self.0.borrow()) {
            return refuse(call, Errno::EINVAL); // and nothing changed
        }
        self.change(call, domain, |world| {
            let Some(mapped) = world.vectors.get(&key).copied() else {
                world.pirqs.remove(&key);
                return Ok(());
            };
            if mapped.first != pirq.0 {
                return refuse(call, Errno::EBUSY); // it goes with the first
            }
            let together = |other: &super::world::Mapped| (other.device, other.first) == (mapped.device, mapped.first);
            let gone: Vec<_> =
                world.vectors.iter().filter(|((other, _), vector)| *other == domain && together(vector)).collect();
            let gone: Vec<(DomId, u32)> = gone.into_iter().map(|(key, _)| *key).collect();
            for key in gone {
                world.vectors.remove(&key);
                world.pirqs.remove(&key);
            }
            Ok(())
        })
    }

    fn vector_pirqs(&self) -> std::ops::RangeInclusive<u32> {
        16..=super::world::TOP_PIRQ
    }

    fn test_assign(&self, domain: DomId, device: Sbdf) -> Outcome {
        let call = "xc_test_assign_device";
        assignable(&self.0.borrow(), call, domain, device).map_err(|error| match error.errno {
            Errno::EBUSY | Errno::ENODEV => HypercallError { call, errno: Errno::EINVAL },
            _ => error,
        })
    }
}

/// Xen's own rules (`iommu_do_pci_domctl`, 4.17).
pub fn assignable(world: &World, call: &'static str, domain: DomId, device: Sbdf) -> Outcome {
    if !world.iommu || (domain != DomId::IO && !world.passthrough.contains(&domain)) {
        return refuse(call, Errno::EOPNOTSUPP);
    }
    match world.owners.get(&device) {
        Some(&(DomId::DOM0 | DomId::IO)) => Ok(()),
        Some(_) => refuse(call, Errno::EBUSY),
        None => refuse(call, Errno::ENODEV),
    }
}

impl FakeHypervisor {
    /// A look into a domain, which must stand still.
    pub fn look<T>(&self, domain: DomId, act: impl FnOnce(&mut FakeMemory) -> Outcome<T>) -> Outcome<T> {
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
pub fn seen(world: &World, id: DomId) -> Option<DomainInfo> {
    let info = world.domains.get(&id)?;
    Some(DomainInfo { paused: info.paused || world.memory.pauses.contains_key(&id), ..*info })
}
