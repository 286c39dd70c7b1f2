//! Pauses a domain while it is inspected, and unpauses it however that ends.
//!
//! While it stands because of us, `/tool/pcidom/paused/DOMID` says so, and no signal ends the command. One that is killed all the same leaves
//! it standing, and the next one that changes anything lets it go on; the broker has that done at once. A domain that stands already, because
//! the admin stopped it or it has not begun, is left alone.
//!
//! Xen counts how often a domain was stopped, and does not tell the count: only that there is one. Whose it is the domain's own processor time tells,
//! which does not pass while it stands. A domain that stands and has not run since our note stands because of us, whoever has stopped it besides,
//! and is let go on once. One that has run was let go on meanwhile, and who stopped it then shall find it so.

use std::time::Duration;

use pcidom_abi::{PauseNote, PauseStage, paths};
use xen_types::DomId;
use xenstore::Permission;

use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::store::Change;
use crate::xen::{HypercallError, says_gone};

/// How far a domain may run between the note that it is about to be stopped and the stop. Tens of microseconds are usual; this is for a
/// command that has to wait for a processor of its own. Who runs that long on several processors and is then stopped by somebody else within
/// the moment in which the command was killed would be let go on wrongly.
const MOMENT: Duration = Duration::from_millis(20);

/// Whether a domain that stands, and has run so long, stands because of this.
fn is_why(note: &PauseNote, ran: Duration) -> bool {
    match note.stage {
        PauseStage::Pausing => ran.saturating_sub(note.ran) <= MOMENT,
        PauseStage::Paused => ran == note.ran,
    }
}

/// Looks at a domain that stands still. One that is gone is not looked at; the inner error says so.
///
/// # Errors
/// The outer ones are those of stopping it and of letting it go on.
pub(crate) fn while_paused<T>(
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
    let inspect = host.hypervisor.inspect();
    let undisturbed = host.undisturbed();
    begin(host, domain.id)?;
    let looked = match inspect.pause(domain.id) {
        Ok(()) => {
            let noted = note(host, domain.id, PauseStage::Paused).and_then(|change| host.commit(&[change]));
            let looked = noted.map(|()| look());
            match inspect.unpause(domain.id) {
                Err(error) if says_gone(error) => {}
                // It goes on standing, and the note stays.
                outcome => outcome.doing(|| format!("letting {domain} go on"))?,
            }
            looked
        }
        Err(error) => Ok(Err(error)),
    };
    drop(undisturbed);
    forget(host, domain.id)?;
    looked
}

fn begin(host: &Host, domain: DomId) -> Result<(), Error> {
    let private = [Permission::none(DomId::DOM0)];
    let mut changes = Change::directory(paths::TOOL, &private).to_vec();
    changes.extend(Change::directory(paths::PAUSED, &private));
    changes.push(note(host, domain, PauseStage::Pausing)?);
    host.commit(&changes)
}

fn note(host: &Host, domain: DomId, stage: PauseStage) -> Result<Change, Error> {
    let ran = run_time(host, domain)?;
    Ok(Change::write(node(domain), PauseNote { owner: host.process.own(), stage, ran }))
}

/// One that is gone has never run.
fn run_time(host: &Host, domain: DomId) -> Result<Duration, Error> {
    let ran = host.hypervisor.run_time(domain);
    ran.map(Option::unwrap_or_default).doing(|| format!("asking how long domain {domain} has run"))
}

/// Lets domains go on that commands left standing.
pub(crate) fn recover(host: &Host) -> Result<(), Error> {
    for id in host.list(paths::PAUSED)?.iter().filter_map(|name| name.parse().ok().map(DomId)) {
        let note = host.read(&node(id))?.as_deref().and_then(|note| note.parse::<PauseNote>().ok());
        // This process has nothing standing when it comes here, unless Xen refused to let it go on.
        if note.is_some_and(|note| note.owner != host.process.own() && host.process.runs(note.owner)) {
            continue;
        }
        if let Some(note) = note
            && domain::info(host, id)?.is_some_and(|info| info.paused)
        {
            go_on(host, &domain::named(host, id)?, note)?;
        }
        forget(host, id)?;
    }
    Ok(())
}

/// Lets a domain go on if it stands because of us.
fn go_on(host: &Host, domain: &DomainName, note: PauseNote) -> Result<(), Error> {
    if !is_why(&note, run_time(host, domain.id)?) {
        host.note(&format!(
            "{domain} stands still: somebody has stopped it since a command was interrupted while it looked through it"
        ));
        return Ok(());
    }
    host.hypervisor.inspect().unpause(domain.id).doing(|| format!("letting {domain} go on"))?;
    host.note(&format!("{domain} goes on: a command was interrupted while it looked through it"));
    Ok(())
}

fn node(domain: DomId) -> String {
    paths::paused_node(domain)
}

fn forget(host: &Host, domain: DomId) -> Result<(), Error> {
    host.commit(&[
        Change::remove(node(domain)),
        Change::remove_if_empty(paths::PAUSED),
        Change::remove_if_empty(paths::TOOL),
    ])
}
