//! Guests and stubs: who is meant by a name, and whether they are still there.

use xen_types::DomId;
use xenstore::path;

use crate::error::Doing;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::xen::DomainInfo;

/// A domain by its id, with the name that xenstore knows.
pub(crate) fn named(host: &Host, id: DomId) -> Result<DomainName, Error> {
    Ok(DomainName { id, name: host.read(&path::child(&path::domain_path(id), "name"))? })
}

/// What Xen says about a domain.
pub(crate) fn info(host: &Host, id: DomId) -> Result<Option<DomainInfo>, Error> {
    host.hypervisor.domain(id).doing(|| format!("looking at domain {id}"))
}

/// Whether a domain is there and not on its way out.
pub(crate) fn is_alive(host: &Host, id: DomId) -> Result<bool, Error> {
    Ok(info(host, id)?.is_some_and(|info| !info.dying))
}

/// Finds a domain by number or name, as `xl` does: what reads as a number is one.
pub(crate) fn find(host: &Host, wanted: &str) -> Result<Option<(DomainName, DomainInfo)>, Error> {
    if let Ok(number) = wanted.parse() {
        let id = DomId(number);
        return Ok(match info(host, id)? {
            Some(info) => Some((named(host, id)?, info)),
            None => None,
        });
    }
    for id in host.list(path::DOMAINS)?.iter().filter_map(|id| id.parse().ok().map(DomId)) {
        let domain = named(host, id)?;
        // xenstore may be late to forget a domain: only Xen knows.
        if domain.name.as_deref() == Some(wanted)
            && let Some(info) = info(host, id)?
        {
            return Ok(Some((domain, info)));
        }
    }
    Ok(None)
}

/// What stays the same when a guest reboots: its UUID, which xl keeps.
pub(crate) fn uuid(host: &Host, id: DomId) -> Result<Option<String>, Error> {
    let vm = host.read(&path::child(&path::domain_path(id), "vm"))?;
    Ok(vm.and_then(|vm| vm.strip_prefix("/vm/").map(str::to_ascii_lowercase)))
}

/// The living domain with this UUID.
pub(crate) fn with_uuid(host: &Host, wanted: &str) -> Result<Option<DomainName>, Error> {
    for id in host.list(path::DOMAINS)?.iter().filter_map(|id| id.parse().ok().map(DomId)) {
        if uuid(host, id)?.is_some_and(|uuid| uuid.eq_ignore_ascii_case(wanted)) && is_alive(host, id)? {
            return Ok(Some(named(host, id)?));
        }
    }
    Ok(None)
}
