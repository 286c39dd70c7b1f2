//! Guests that `pcidom create` has begun and not finished: noted in xenstore, so that whatever happens to the command, the next one
//! finds a guest that nobody let run, and ends it, or one that was about to run, and lets it. One that runs is ended by nobody.

use std::time::Duration;

use pcidom_abi::CreationProgress;
use pcidom_abi::paths::{self, creation_node};
use xen_types::DomId;
use xenstore::{Permission, path};

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::store::Change;

/// How long xl may go on after the command that started it was killed, and how long a domain may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Notes that a guest is being made.
pub(crate) fn begin(host: &Host, uuid: &str) -> Result<(), Error> {
    let mut changes = Change::directory(paths::TOOL, &[Permission::none(DomId::DOM0)]).to_vec();
    changes.push(Change::write(creation_node(uuid), CreationProgress::Building));
    host.commit(&changes)
}

/// Notes how far it has come.
pub(crate) fn set(host: &Host, uuid: &str, progress: CreationProgress) -> Result<(), Error> {
    host.commit(&[Change::write(creation_node(uuid), progress.name())])
}

/// Forgets it: it runs, or is gone.
pub(crate) fn end(host: &Host, uuid: &str) -> Result<(), Error> {
    host.commit(&[
        Change::remove(creation_node(uuid)),
        Change::remove_if_empty(paths::CREATIONS),
        Change::remove_if_empty(paths::TOOL),
    ])
}

/// The living domain with this id, which libxl keeps in the domain's `vm` node.
pub(crate) fn find(host: &Host, uuid: &str) -> Result<Option<DomainName>, Error> {
    Ok(domain::with_uuid(host, uuid)?)
}

/// Whether somebody has let a domain run: then it is not ours any more to end.
pub(crate) fn runs(host: &Host, guest: &DomainName) -> Result<bool, Error> {
    Ok(domain::info(host, guest.id)?.is_some_and(|info| !info.paused && !info.dying && !info.shutdown))
}

/// Ends a domain and waits until it is about to be gone. Other commands go on meanwhile: a large one takes minutes.
pub(crate) fn destroy(host: &Host, guest: &DomainName) -> Result<(), Error> {
    host.trace(&format!("destroy {guest}"));
    host.aside(|| host.xl.destroy(guest.id))?;
    let gone = || Ok((!domain::is_alive(host, guest.id)?).then_some(()));
    host.wait_for(&[path::RELEASE_DOMAIN.to_owned()], PATIENCE, gone)?.ok_or_else(|| Error::StillThere(guest.clone()))
}

/// Finishes or undoes what killed commands began. Afterwards devices of guests that were undone are to be taken back
/// ([`crate::ops::recover`]).
pub(crate) fn settle(host: &Host) -> Result<(), Error> {
    for uuid in host.list(paths::CREATIONS)? {
        // Its creator may live, and wait for xl.
        let Some(_ours) = host.take_creation(&uuid)? else { continue };
        match settle_one(host, &uuid) {
            Ok(()) => end(host, &uuid)?,
            Err(error) => {
                host.note(&format!("the guest {uuid}, whose creation was interrupted, is not settled: {error}"))
            }
        }
    }
    Ok(())
}

fn settle_one(host: &Host, uuid: &str) -> Result<(), Error> {
    // Nobody tells when another process ends; the time-out sees to it that this is looked at every second.
    let done = || Ok((!host.xl.is_creating(uuid)).then_some(()));
    if host.aside(|| host.wait_for(&[], PATIENCE, done))?.is_none() {
        return Err(Error::Xl { what: "create", said: "it is still at work".to_owned() });
    }
    let Some(guest) = find(host, uuid)? else { return Ok(()) };
    if host.read(&creation_node(uuid))?.as_deref() == Some(CreationProgress::Running.name()) {
        if domain::info(host, guest.id)?.is_some_and(|info| info.paused) {
            host.xl.unpause(guest.id)?;
        }
        host.note(&format!("{guest} runs: the command that created it was interrupted at its end"));
        return Ok(());
    }
    if runs(host, &guest)? {
        host.note(&format!("{guest} runs, though the command that created it was interrupted: it is left as it is"));
        return Ok(());
    }
    destroy(host, &guest)?;
    host.note(&format!("{guest} was destroyed: the command that created it was interrupted"));
    Ok(())
}
