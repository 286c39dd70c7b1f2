//! A domain that stands still while it is looked at, and goes on afterwards however that ends.
//!
//! While it stands, `/tool/pcidom/paused` has its number. A command that is killed leaves it standing, and the next one that changes
//! anything lets it go on.

use xen_types::DomId;

use crate::domain;
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::store::Change;
use crate::xen::{HypercallError, says_gone};

const PAUSED: &str = "/tool/pcidom/paused";

/// Stops the domain for as long as `look` takes. A domain that is gone is not looked at; the error says so.
///
/// # Errors
/// The outer ones are those of stopping and going on.
pub(super) fn while_paused<T>(
    host: &Host,
    domain: &DomainName,
    look: impl FnOnce() -> Result<T, HypercallError>,
) -> Result<Result<T, HypercallError>, Error> {
    // One that stood already goes on standing afterwards: Xen counts. Then whoever stopped it lets it go on, and there is
    // nothing that the next command could put right.
    let stood = domain::info(host, domain.id)?.is_some_and(|info| info.paused);
    if !stood {
        host.commit(&[Change::write(PAUSED, domain.id)])?;
    }
    let looked = match host.hypervisor.inspect().pause(domain.id) {
        Ok(()) => {
            let looked = look();
            match host.hypervisor.inspect().unpause(domain.id) {
                Err(error) if says_gone(error) => {}
                outcome => outcome.doing(|| format!("letting {domain} go on"))?,
            }
            looked
        }
        Err(error) if says_gone(error) => Err(error),
        Err(error) => {
            forget(host)?;
            return Err(error).doing(|| format!("stopping {domain}"));
        }
    };
    if !stood {
        forget(host)?;
    }
    Ok(looked)
}

/// Lets a domain go on that a command left standing.
pub(crate) fn recover(host: &Host) -> Result<(), Error> {
    let Some(text) = host.read(PAUSED)? else {
        return Ok(());
    };
    if let Ok(id) = text.parse().map(DomId)
        && domain::info(host, id)?.is_some_and(|info| info.paused)
    {
        let domain = domain::named(host, id)?;
        host.hypervisor.inspect().unpause(id).doing(|| format!("letting {domain} go on"))?;
        host.note(&format!("{domain} goes on: a command was interrupted while it looked through it"));
    }
    forget(host)
}

fn forget(host: &Host) -> Result<(), Error> {
    host.commit(&[Change::remove(PAUSED), Change::remove_if_empty("/tool/pcidom")])
}
