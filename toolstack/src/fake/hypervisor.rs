//! The strict hypervisor as commands see it: it knows who has which right, and that a right is taken back once.

use std::collections::BTreeSet;
use std::fmt::Debug;

use fakes::FakeHypervisor;
use fakes::hypervisor::{Outcome, assignable, refuse};
use xen_types::{DomId, Errno, Pirq, Sbdf};

use crate::xen::{Domctls, Frames, Images, Inspect, Permission, Ports};

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

impl Domctls for FakeHypervisor {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn images(&self) -> &dyn Images {
        self
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
