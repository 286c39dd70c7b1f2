//! A domain that stands still while it is looked at, and goes on afterwards however that ends.
//!
//! While it stands because of us, `/tool/pcidom/paused` has its number. A command that is killed leaves it standing, and the next one
//! that changes anything lets it go on. One that stands already, because the admin stopped it or it has not begun, is left alone:
//! nobody could tell later how often it must be let go.

use xen_types::DomId;

use crate::domain;
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::store::Change;
use crate::xen::{HypercallError, says_gone};

const PAUSED: &str = "/tool/pcidom/paused";

/// Looks at a domain that stands still. One that is gone is not looked at; the inner error says so.
///
/// # Errors
/// The outer ones are those of stopping it and of letting it go on.
pub(super) fn while_paused<T>(
    host: &Host,
    domain: &DomainName,
    mut look: impl FnMut() -> Result<T, HypercallError>,
) -> Result<Result<T, HypercallError>, Error> {
    let stands = || Ok::<_, Error>(domain::info(host, domain.id)?.is_some_and(|info| info.paused));
    if stands()? {
        let looked = look();
        if stands()? || looked.is_err() {
            return Ok(looked);
        }
        // Somebody has let it go on meanwhile.
    }
    host.commit(&[Change::write(PAUSED, domain.id)])?;
    let looked = match host.hypervisor.inspect().pause(domain.id) {
        Ok(()) => {
            let looked = look();
            match host.hypervisor.inspect().unpause(domain.id) {
                Err(error) if says_gone(error) => {}
                // It goes on standing, and the note stays.
                outcome => outcome.doing(|| format!("letting {domain} go on"))?,
            }
            looked
        }
        Err(error) => Err(error),
    };
    forget(host)?;
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
