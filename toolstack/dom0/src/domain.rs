//! Looks up guests and stubs by name or id, and checks that they still exist.

use std::fmt;

use xen_types::DomId;
use xenstore::path;

use crate::error::Error;
use crate::host::Dom0;
use crate::xen::DomainInfo;

/// A guest or stub as messages name it: `web (domain 5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainName {
    /// Its number.
    pub id: DomId,
    /// `None` where xenstore knows none (any more).
    pub name: Option<String>,
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (domain {})", self.id),
            None => write!(f, "domain {}", self.id),
        }
    }
}

/// A domain by its id, with the name that xenstore knows.
///
/// # Errors
/// Xen's and xenstore's.
pub fn named(host: &Dom0, id: DomId) -> Result<DomainName, Error> {
    Ok(DomainName { id, name: host.read(&path::child(&path::domain_path(id), "name"))? })
}

/// Xen's information about a domain.
///
/// # Errors
/// Xen's and xenstore's.
pub fn info(host: &Dom0, id: DomId) -> Result<Option<DomainInfo>, Error> {
    host.domain(id)
}

/// Whether a domain is there and not on its way out.
///
/// # Errors
/// Xen's and xenstore's.
pub fn is_alive(host: &Dom0, id: DomId) -> Result<bool, Error> {
    Ok(info(host, id)?.is_some_and(|info| !info.dying))
}

/// Finds a domain by number or name, as `xl` does: what reads as a number is one.
///
/// # Errors
/// Xen's and xenstore's.
pub fn find(host: &Dom0, wanted: &str) -> Result<Option<(DomainName, DomainInfo)>, Error> {
    if let Ok(number) = wanted.parse() {
        let id = DomId(number);
        return Ok(match info(host, id)? {
            Some(info) => Some((named(host, id)?, info)),
            None => None,
        });
    }
    Names::read(host)?.find(host, wanted)
}

/// The stub domain in which the device model of an HVM guest runs: it has the frontend of the guest's PCI devices. `None` where there is none, which is so for
/// PV guests, and where the device model runs in dom0.
///
/// # Errors
/// Xen's and xenstore's.
pub fn stub_domain(host: &Dom0, guest: DomId) -> Result<Option<DomainName>, Error> {
    let id = host.read(&path::device_model_node(guest))?.and_then(|id| id.parse().ok()).map(DomId);
    match id.filter(|id| *id != DomId::DOM0) {
        // Numbers come again: it must say the same of the guest.
        Some(id) if is_alive(host, id)? && target(host, id)?.is_some_and(|target| target.id == guest) => {
            Ok(Some(named(host, id)?))
        }
        _ => Ok(None),
    }
}

/// The guest that a stub domain with a device model is for; `None` where it is no such domain.
///
/// # Errors
/// Xen's and xenstore's.
pub fn target(host: &Dom0, stub_domain: DomId) -> Result<Option<DomainName>, Error> {
    let id = host.read(&path::target_node(stub_domain))?.and_then(|id| id.parse().ok()).map(DomId);
    id.map(|id| named(host, id)).transpose()
}

/// As [`find`], of a guest the domain that has the frontend of its PCI devices: of an HVM guest its stub domain, where it has one.
///
/// # Errors
/// Xen's and xenstore's.
pub fn find_frontend(host: &Dom0, wanted: &str) -> Result<Option<(DomainName, DomainInfo)>, Error> {
    find(host, wanted)?.map(|found| frontend(host, found)).transpose()
}

/// The same of a domain that was found.
///
/// # Errors
/// Xen's and xenstore's.
pub fn frontend(host: &Dom0, found: (DomainName, DomainInfo)) -> Result<(DomainName, DomainInfo), Error> {
    let (guest, info) = found;
    if info.hvm
        && let Some(stub_domain) = stub_domain(host, guest.id)?
        && let Some(info) = self::info(host, stub_domain.id)?
    {
        return Ok((stub_domain, info));
    }
    Ok((guest, info))
}

/// Names of domains in xenstore, at one moment.
pub struct Names(Vec<DomainName>);

impl Names {
    /// Reads them.
    ///
    /// # Errors
    /// Xen's and xenstore's.
    pub fn read(host: &Dom0) -> Result<Self, Error> {
        let ids = ids(host)?;
        let nodes: Vec<String> = ids.iter().map(|id| path::child(&path::domain_path(*id), "name")).collect();
        let names = host.read_all(&nodes)?;
        Ok(Self(ids.into_iter().zip(names).map(|(id, name)| DomainName { id, name }).collect()))
    }

    /// As [`find`], among these.
    ///
    /// # Errors
    /// Xen's and xenstore's.
    pub fn find(&self, host: &Dom0, wanted: &str) -> Result<Option<(DomainName, DomainInfo)>, Error> {
        if wanted.parse::<u16>().is_ok() {
            return find(host, wanted);
        }
        for domain in self.0.iter().filter(|domain| domain.name.as_deref() == Some(wanted)) {
            // xenstore may be late to forget a domain: only Xen knows.
            if let Some(info) = info(host, domain.id)? {
                return Ok(Some((domain.clone(), info)));
            }
        }
        Ok(None)
    }
}

/// The domains that xenstore has.
fn ids(host: &Dom0) -> Result<Vec<DomId>, Error> {
    Ok(host.list(path::DOMAINS)?.iter().filter_map(|id| id.parse().ok().map(DomId)).collect())
}

/// A guest's UUID, which stays the same when it reboots.
///
/// # Errors
/// Xen's and xenstore's.
pub fn uuid(host: &Dom0, id: DomId) -> Result<Option<String>, Error> {
    Ok(uuid_in(host.read(&vm_node(id))?))
}

fn vm_node(id: DomId) -> String {
    path::child(&path::domain_path(id), "vm")
}

fn uuid_in(vm: Option<String>) -> Option<String> {
    vm.and_then(|vm| vm.strip_prefix("/vm/").map(str::to_ascii_lowercase))
}

/// The domains that xenstore has with their UUIDs. Not all of them need be alive.
///
/// # Errors
/// Xenstore's.
pub fn uuids(host: &Dom0) -> Result<Vec<(DomId, String)>, Error> {
    let ids = ids(host)?;
    let values = host.read_all(&ids.iter().map(|id| vm_node(*id)).collect::<Vec<_>>())?;
    Ok(ids.into_iter().zip(values).filter_map(|(id, vm)| Some((id, uuid_in(vm)?))).collect())
}

/// The living domain with this UUID.
///
/// # Errors
/// Xen's and xenstore's.
pub fn with_uuid(host: &Dom0, wanted: &str) -> Result<Option<DomainName>, Error> {
    for (id, uuid) in uuids(host)? {
        if uuid.eq_ignore_ascii_case(wanted) && is_alive(host, id)? {
            return Ok(Some(named(host, id)?));
        }
    }
    Ok(None)
}
