//! A strict hypervisor: it knows who has which right, and that a right is taken back once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::rc::Rc;

use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::World;
use crate::xen::{DomainInfo, Frames, HypercallError, Hypervisor, Inspect, Permission, Ports};

pub(super) const ESRCH: Errno = Errno(3);

pub(crate) struct FakeHypervisor(pub(crate) Rc<RefCell<World>>);

pub(super) type Outcome<T = ()> = Result<T, HypercallError>;

pub(super) fn refuse<T>(call: &'static str, errno: Errno) -> Outcome<T> {
    Err(HypercallError { call, errno })
}

impl FakeHypervisor {
    /// A change of one domain.
    pub(super) fn change(&self, call: &'static str, domain: DomId, act: impl FnOnce(&mut World) -> Outcome) -> Outcome {
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

/// Gives or takes rights one by one. Taking one that is not there is a bug of the tool unless it cannot know.
fn set<R: Ord + Debug>(
    rights: &mut BTreeSet<R>,
    violations: &mut Vec<String>,
    uncertain: bool,
    permission: Permission,
    wanted: impl Iterator<Item = R>,
) {
    for right in wanted {
        let text = format!("{permission:?} {right:?} twice");
        let done = match permission {
            Permission::Allow => rights.insert(right),
            Permission::Revoke => rights.remove(&right),
        };
        if !done && !uncertain {
            violations.push(text);
        }
    }
}

impl Hypervisor for FakeHypervisor {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn domain(&self, id: DomId) -> Outcome<Option<DomainInfo>> {
        Ok(super::memory::seen(&self.0.borrow(), id))
    }

    fn has_iommu(&self) -> Outcome<bool> {
        Ok(self.0.borrow().iommu)
    }

    fn set_iomem(&self, domain: DomId, frames: Frames, permission: Permission) -> Outcome {
        self.change("xc_domain_iomem_permission", domain, |world| {
            let wanted = (0..frames.count).map(|index| (domain, frames.first.0 + index));
            set(&mut world.iomem, &mut world.violations, world.uncertain, permission, wanted);
            Ok(())
        })
    }

    fn set_ioports(&self, domain: DomId, ports: Ports, permission: Permission) -> Outcome {
        self.change("xc_domain_ioport_permission", domain, |world| {
            let wanted = (0..ports.count).map(|index| (domain, ports.first + index));
            set(&mut world.ioports, &mut world.violations, world.uncertain, permission, wanted);
            Ok(())
        })
    }

    fn set_irq(&self, domain: DomId, pirq: Pirq, permission: Permission) -> Outcome {
        self.change("xc_domain_irq_permission", domain, |world| {
            let wanted = [(domain, pirq.0)].into_iter();
            set(&mut world.irqs, &mut world.violations, world.uncertain, permission, wanted);
            Ok(())
        })
    }

    fn map_gsi(&self, domain: DomId, gsi: u32) -> Outcome<Pirq> {
        self.change("xc_physdev_map_pirq", domain, |world| {
            let wanted = [(domain, gsi)].into_iter();
            set(&mut world.pirqs, &mut world.violations, world.uncertain, Permission::Allow, wanted);
            Ok(())
        })?;
        Ok(Pirq(gsi))
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
        16..=super::broker::TOP_PIRQ
    }

    fn test_assign(&self, domain: DomId, device: Sbdf) -> Outcome {
        let call = "xc_test_assign_device";
        assignable(&self.0.borrow(), call, domain, device).map_err(|error| match error.errno {
            Errno::EBUSY | Errno::ENODEV => HypercallError { call, errno: Errno::EINVAL },
            _ => error,
        })
    }

    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Outcome {
        self.change("xc_assign_device", domain, |world| {
            assignable(world, "xc_assign_device", domain, device)?;
            if world.shared_reserved.contains(&device) && !relaxed_rdm {
                return refuse("xc_assign_device", Errno::EPERM);
            }
            world.owners.insert(device, domain);
            Ok(())
        })
    }

    fn deassign(&self, domain: DomId, device: Sbdf) -> Outcome {
        self.change("xc_deassign_device", domain, |world| {
            if world.owners.get(&device) != Some(&domain) {
                return refuse("xc_deassign_device", Errno::ENODEV);
            }
            let next = if domain == DomId::IO { DomId::DOM0 } else { DomId::IO };
            world.owners.insert(device, next);
            Ok(())
        })
    }
}

/// Xen's own rules (`iommu_do_pci_domctl`, 4.17).
fn assignable(world: &World, call: &'static str, domain: DomId, device: Sbdf) -> Outcome {
    if !world.iommu || (domain != DomId::IO && !world.passthrough.contains(&domain)) {
        return refuse(call, Errno::EOPNOTSUPP);
    }
    match world.owners.get(&device) {
        Some(&(DomId::DOM0 | DomId::IO)) => Ok(()),
        Some(_) => refuse(call, Errno::EBUSY),
        None => refuse(call, Errno::ENODEV),
    }
}
