//! `pcidom detach`: takes all its devices from a guest.

use std::time::Duration;

use xen_types::Sbdf;
use xenstore::{XenbusState, path};

use crate::directories::end_state;
use crate::domain;
use crate::error::{DomainName, Error, StateName};
use crate::host::Host;
use crate::pool::STUB_PATIENCE;
use crate::reclaim::Reclaimed;
use crate::release::{self, Loan, Rights};
use crate::store::Change;
use crate::table::{self, Phase, Record};

/// What is to be taken from whom.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Name or number.
    pub(crate) guest: String,
    /// Name or number of the stub, if the user wants to be sure.
    pub(crate) backend: Option<String>,
    pub(crate) devices: Vec<Sbdf>,
    /// How long the guest may take.
    pub(crate) timeout: Duration,
}

/// Detaches the devices. `reclaimed` is what was taken back just before: from a guest that is gone, everything was.
pub(crate) fn detach(host: &Host, request: &Request, reclaimed: &[Reclaimed]) -> Result<(), Error> {
    let by_name =
        |guest: &DomainName| guest.name.as_ref() == Some(&request.guest) || guest.id.to_string() == request.guest;
    let all_reclaimed =
        |dead: &&Reclaimed| by_name(&dead.guest) && request.devices.iter().all(|device| dead.devices.contains(device));
    if reclaimed.iter().find(all_reclaimed).is_some() {
        return Ok(());
    }
    let (guest, _) = domain::find(host, &request.guest)?.ok_or_else(|| Error::NoSuchGuest(request.guest.clone()))?;
    let records: Vec<Record> =
        table::load(host)?.into_iter().filter(|record| record.frontend == Some(guest.id)).collect();
    let has = |device: Sbdf| records.iter().find(|record| record.device == device);
    for device in request.devices.iter().copied() {
        let record = has(device).ok_or_else(|| Error::NotAttached { device, guest: guest.clone() })?;
        check_backend(host, request, record)?;
    }
    let staying: Vec<Sbdf> =
        records.iter().map(|record| record.device).filter(|device| !request.devices.contains(device)).collect();
    if !staying.is_empty() {
        return Err(Error::PartialDetach { guest, staying });
    }
    let Some(first) = records.first() else {
        return Err(Error::Usage("no device named".to_owned()));
    };
    let stub_alive = domain::is_alive(host, first.stub)?;
    let devices: Vec<Sbdf> = records.iter().map(|record| record.device).collect();
    let loan = Loan { stub: domain::named(host, first.stub)?, stub_alive, guest, guest_alive: true, devices };
    set_phase(host, &loan, Phase::Detaching)?;
    close(host, &loan, request.timeout)?;
    let guest_alive = domain::is_alive(host, loan.guest.id)?;
    release::take_back(host, &Loan { guest_alive, ..loan }, Rights::Complete)
}

/// The user named a backend: is it the one that has the device?
fn check_backend(host: &Host, request: &Request, record: &Record) -> Result<(), Error> {
    let Some(wanted) = &request.backend else {
        return Ok(());
    };
    let stub = domain::named(host, record.stub)?;
    if stub.name.as_ref() == Some(wanted) || stub.id.to_string() == *wanted {
        return Ok(());
    }
    Err(Error::OtherPool { device: record.device, stub })
}

fn set_phase(host: &Host, loan: &Loan, phase: Phase) -> Result<(), Error> {
    host.commit(&loan.devices.iter().map(|device| table::set_phase(*device, phase)).collect::<Vec<_>>())
}

/// Asks the guest to let go and waits until it has. A guest that never connected need not be asked, and one whose stub is gone
/// cannot be; both see their directory vanish.
fn close(host: &Host, loan: &Loan, timeout: Duration) -> Result<(), Error> {
    let backend = path::backend_dir(loan.stub.id, loan.guest.id);
    let frontend = path::frontend_dir(loan.guest.id);
    let (back, front) = (end_state(host, &backend)?, end_state(host, &frontend)?);
    let is_closed = |front| matches!(front, XenbusState::Unknown | XenbusState::Closed);
    if !loan.stub_alive || is_closed(front) || front == XenbusState::Initialising {
        return Ok(());
    }
    let ask = |online: u8, state: XenbusState| {
        [Change::write(path::child(&backend, "online"), online), Change::write(path::child(&backend, "state"), state)]
    };
    host.commit(&ask(0, XenbusState::Closing))?;
    let watched = [backend.clone(), frontend.clone(), path::RELEASE_DOMAIN.to_owned()];
    let closed = host.wait_for(&watched, timeout, || {
        let gone = !domain::is_alive(host, loan.guest.id)? || !domain::is_alive(host, loan.stub.id)?;
        Ok((gone || is_closed(end_state(host, &frontend)?)).then_some(()))
    })?;
    if closed.is_none() {
        return Err(give_up(host, loan, timeout, front, &ask(1, back))?);
    }
    // The stub follows at once. If it does not, taking the directories away makes it let go, and that is waited for too.
    host.wait_for(&watched, STUB_PATIENCE, || Ok(is_closed(end_state(host, &backend)?).then_some(())))?;
    Ok(())
}

/// The guest did not answer. If it did nothing at all, everything stays as it was.
fn give_up(host: &Host, loan: &Loan, after: Duration, before: XenbusState, restore: &[Change]) -> Result<Error, Error> {
    let backend = path::backend_dir(loan.stub.id, loan.guest.id);
    let front = end_state(host, &path::frontend_dir(loan.guest.id))?;
    let guest = loan.guest.clone();
    if front != before || before == XenbusState::Closing {
        return Ok(Error::GuestHalfClosed { guest, after, frontend: StateName(front) });
    }
    host.commit(restore)?;
    set_phase(host, loan, Phase::Attached)?;
    let backend = end_state(host, &backend)?;
    Ok(Error::GuestSilent { guest, after, backend: StateName(backend), frontend: StateName(front) })
}
