//! Whether a guest has really let go of devices that were taken from it (`docs/audit.md`).
//!
//! Xen takes rights away, not what a PV guest made of them: a page of registers that it has mapped stays mapped, and it would go
//! on driving a device that is somebody else's by now. So, after its rights are gone, it is stopped and everything that can
//! map memory is looked through from outside. Nothing that the guest says counts.
//!
//! | module | what |
//! |---|---|
//! | `tables` | finds a domain's page tables |
//! | `registers` | which frames are looked for |
//! | `pirqs` | which interrupts were the devices' |
//! | `paused` | stops a domain, and lets it go on whatever happens |
//! | `holdings` | the result |

mod holdings;
mod paused;
mod pirqs;
mod registers;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use xen_types::{DomId, Pirq, Port};

pub(crate) use holdings::{Holding, Holdings};
pub(crate) use paused::recover;
pub(crate) use pirqs::{forget_pirqs, note_pirqs, pirqs_of};

use crate::domain;
use crate::error::{Doing, DomainName, Error};
use crate::facts::Facts;
use crate::host::Host;
use crate::table;
use crate::xen::{Channel, HypercallError, says_gone};
use holdings::Found;
use paused::while_paused;
use registers::Registers;

/// Looks for what is left of these devices, after the rights to them were taken back: mappings of their registers in `guest`
/// and in every other PV domain but dom0 and the devices' stubs, and event channels of `guest` on `pirqs`. Those of
/// a guest that is gone are no more.
///
/// # Errors
/// Then nothing is known, and the devices must not be given to anybody.
pub(crate) fn holds(
    host: &Host,
    guest: &DomainName,
    facts: &[Facts],
    pirqs: &BTreeSet<Pirq>,
) -> Result<Holdings, Error> {
    let mut holdings = Holdings::default();
    let own = Registers::leaving(host, guest.id, facts)?;
    let channels = pirqs::without_others(host, guest.id, facts, pirqs)?;
    let found = examine(host, guest, &own, &channels)?;
    holdings.add(guest, found);
    let all = Registers::of(facts);
    for other in others(host, guest.id, facts)? {
        let found = examine(host, &other, &all, &BTreeSet::new())?;
        holdings.add(&other, found);
    }
    Ok(holdings)
}

/// Every PV domain that could have got a mapping from the guest, or have one left from another time.
fn others(host: &Host, guest: DomId, facts: &[Facts]) -> Result<Vec<DomainName>, Error> {
    let mut spared = vec![DomId::DOM0, guest];
    for facts in facts {
        spared.extend(table::load_one(host, facts.device)?.map(|record| record.stub));
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

/// Stops a domain and looks through it. One that is gone, or on its way out, has nothing.
fn examine(host: &Host, domain: &DomainName, registers: &Registers, pirqs: &BTreeSet<Pirq>) -> Result<Found, Error> {
    if (registers.is_empty() && pirqs.is_empty()) || !domain::is_alive(host, domain.id)? {
        return Ok(Found::default());
    }
    let looked = while_paused(host, domain, || {
        let mut found = Found::default();
        if !registers.is_empty() {
            let began = host.elapsed();
            let tally = tables::each(host.hypervisor.inspect(), domain.id, &mut |table| found.count(table, registers))?;
            host.trace(&format!("looked through {domain}: {}", tally.text(host.elapsed() - began)));
        }
        if !pirqs.is_empty() {
            found.channels = channels(host, domain.id, pirqs)?;
        }
        Ok(found)
    })?;
    match looked {
        Ok(found) => Ok(found),
        // Also if it began to die and Xen has not finished yet: it never runs again.
        Err(error) if says_gone(error) || !domain::is_alive(host, domain.id)? => Ok(Found::default()),
        Err(error) => Err(error).doing(|| format!("looking through {domain}")),
    }
}

/// How many event channels a domain has on these interrupts.
fn channels(host: &Host, domain: DomId, pirqs: &BTreeSet<Pirq>) -> Result<u64, HypercallError> {
    let mut count = 0;
    for port in (0..).map(Port) {
        match host.hypervisor.inspect().channel(domain, port)? {
            Some(Channel::Pirq(pirq)) if pirqs.contains(&pirq) => count += 1,
            Some(_) => {}
            None => break,
        }
    }
    Ok(count)
}
