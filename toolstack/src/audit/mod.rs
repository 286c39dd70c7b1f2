//! Audit: whether a guest has kept mappings or event channels of devices that were taken from it (`docs/audit.md`).
//!
//! Revoking a right does not undo mappings made with it: a register page that a PV guest has mapped stays mapped, and
//! the guest could go on driving a device that belongs to another by then. So, after its rights are gone, it is stopped
//! and everything that can
//! map memory is looked through from outside. Nothing that the guest says counts.
//!
//! | module | what |
//! |---|---|
//! | `tables` | finds a domain's page tables |
//! | `registers` | which frames are looked for |
//! | `pirqs` | which interrupts were the devices' |
//! | `paused` | stops a domain, and lets it go on whatever happens |
//! | `leaks` | the result |

#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod leaks;
mod paused;
mod pirqs;
mod registers;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use pcidom_abi::DeviceNode;
use xen_types::{DomId, Port};

pub(crate) use crate::records::device_table::forget_pirqs;
pub(crate) use leaks::LeakedMappings;
pub(crate) use paused::{recover, while_paused};
pub(crate) use pirqs::note_pirqs;

use crate::device::resources::DeviceResources;
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::settings::Audit;
use crate::records::device_table;
use crate::xen::{Channel, HypercallError, says_gone};
use leaks::{Found, count};
use registers::{Registers, Wanted};

/// Looks for what is left of each of these devices, after the rights to them were taken back: mappings of their registers in `guest`
/// and event channels of `guest` on their interrupts ([`note_pirqs`]). Where the settings say so, mappings in
/// every other PV domain but dom0 and the devices' stubs too; or nothing. A guest that is gone has nothing any more.
///
/// # Errors
/// Then nothing is known, and the devices must not be given to anybody.
pub(crate) fn find_leaks(
    host: &Host,
    guest: &DomainName,
    devices: &[DeviceResources],
) -> Result<Vec<LeakedMappings>, Error> {
    let mut leaks: Vec<LeakedMappings> = devices.iter().map(|_| LeakedMappings::default()).collect();
    let scope = host.settings.get().audit;
    if scope == Audit::Nobody {
        return Ok(leaks);
    }
    let staying = pirqs::staying(host, guest.id, devices)?;
    let mut look = |domain: &DomainName, wanted: &[Wanted]| -> Result<(), Error> {
        for (leaks, found) in leaks.iter_mut().zip(examine(host, domain, wanted)?) {
            leaks.add(domain, found);
        }
        Ok(())
    };
    let nodes = devices.iter().map(|resources| DeviceNode::Pirqs.of(resources.device));
    let own = host.looking_ahead(nodes, || {
        let wanted = |resources: &DeviceResources| {
            let pirqs = pirqs::without_others(host, pirqs::noted(host, resources.device)?, &staying)?;
            Ok(Wanted { registers: Registers::leaving(resources, &staying), pirqs })
        };
        devices.iter().map(wanted).collect::<Result<Vec<_>, Error>>()
    })?;
    look(guest, &own)?;
    if scope == Audit::Guest {
        return Ok(leaks);
    }
    let all: Vec<Wanted> = devices
        .iter()
        .map(|resources| Wanted { registers: Registers::leaving(resources, &[]), pirqs: BTreeSet::new() })
        .collect();
    for other in others(host, guest.id, devices)? {
        look(&other, &all)?;
    }
    Ok(leaks)
}

/// Every PV domain that could have got a mapping from the guest, or have one left from another time.
fn others(host: &Host, guest: DomId, devices: &[DeviceResources]) -> Result<Vec<DomainName>, Error> {
    let mut spared = vec![DomId::DOM0, guest];
    for resources in devices {
        spared.extend(device_table::load_one(host, resources.device)?.map(|record| record.stub));
    }
    let mut others = Vec::new();
    let mut next = Some(DomId::DOM0);
    while let Some(from) = next {
        let found = host.hypervisor.inspect().next_domain(from).doing(|| "listing the domains".to_owned())?;
        next = found.and_then(|(id, _)| id.0.checked_add(1)).map(DomId);
        if let Some((id, info)) = found
            && !info.hvm
            && !info.dying
            && !spared.contains(&id)
        {
            others.push(domain::named(host, id)?);
        }
    }
    Ok(others)
}

/// Stops a domain and looks through it. One that is gone, or on its way out, has nothing: it never runs again.
fn examine(host: &Host, domain: &DomainName, wanted: &[Wanted]) -> Result<Vec<Found>, Error> {
    let nothing = || wanted.iter().map(|_| Found::default()).collect::<Vec<_>>();
    let bounds = Registers::bounds(wanted.iter().map(|wanted| &wanted.registers));
    let for_channels = wanted.iter().any(|wanted| !wanted.pirqs.is_empty());
    if !(bounds.is_some() || for_channels) || !domain::is_alive(host, domain.id)? {
        return Ok(nothing());
    }
    let looked = while_paused(host, domain, || {
        // Nothing is said meanwhile: who reads it may be slow, and the domain would stand still for as long.
        let (mut found, mut said) = (nothing(), None);
        if let Some(bounds) = &bounds {
            let began = host.elapsed();
            let inspect = host.hypervisor.inspect();
            let tally = tables::each(inspect, domain.id, &mut |table| count(table, bounds, wanted, &mut found))?;
            said = Some(tally.text(host.elapsed().saturating_sub(began)));
        }
        if for_channels {
            count_channels(host, domain.id, wanted, &mut found)?;
        }
        Ok((found, said))
    })?;
    match looked {
        Ok((found, said)) => {
            if let Some(said) = said {
                host.trace(&format!("looked through {domain}: {said}"));
            }
            Ok(found)
        }
        Err(error) if says_gone(error) || !domain::is_alive(host, domain.id)? => Ok(nothing()),
        Err(error) => Err(error).doing(|| format!("looking through {domain}")),
    }
}

/// Counts a domain's event channels on the devices' interrupts.
fn count_channels(host: &Host, domain: DomId, wanted: &[Wanted], found: &mut [Found]) -> Result<(), HypercallError> {
    for port in (0..).map(Port) {
        match host.hypervisor.inspect().channel(domain, port)? {
            Some(Channel::Pirq(pirq)) => {
                for (found, _) in found.iter_mut().zip(wanted).filter(|(_, wanted)| wanted.pirqs.contains(&pirq)) {
                    found.channels += 1;
                }
            }
            Some(Channel::Other) => {}
            None => break,
        }
    }
    Ok(())
}
