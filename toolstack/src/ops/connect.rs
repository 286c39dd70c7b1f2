//! Waits until backend and frontend are connected.

use xen_types::{DomId, Sbdf};
use xenstore::{XenbusState, path};

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::patience::{Patience, Progress, Side, wait_by_turns};
use crate::records::directories::Ends;
use crate::records::entries::Entries;

/// Condition to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The guest uses the devices.
    Used,
    /// The stub has exported them: the guest may be booting still.
    Exported,
}

/// State of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// The guest uses the devices.
    Connected,
    /// The guest is paused; the devices wait for it.
    Waiting,
}

/// State in which both ends rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// In use.
    Connected,
    /// No frontend has come yet.
    Unmet,
    /// The frontend has closed, and may come again.
    Closed,
}

/// How often a change of a guest's devices is begun anew because one end has moved since it was looked at. Each time both get their patience
/// again, so a guest that never rests would keep a command for ever.
pub(crate) const ROUNDS: usize = 20;

/// Waits until neither end is on its way to somewhere.
///
/// # Errors
/// [`Error::GuestSilent`] or [`Error::StubSilent`] when that takes too long; one of them went away.
pub(crate) fn settle(
    host: &Host,
    stub: &DomainName,
    guest: &DomainName,
    patience: impl Into<Patience>,
) -> Result<Settled, Error> {
    let watched = Ends::watched(stub.id, guest.id);
    wait_by_turns(host, (stub, guest), &watched, patience.into(), || {
        check_alive(host, stub, guest)?;
        Ok(match Ends::read(host, stub.id, guest.id)? {
            ends if ends.are_connected() => Progress::Done(Settled::Connected),
            ends if ends.are_unmet() => Progress::Done(Settled::Unmet),
            ends if ends.are_closed() => Progress::Done(Settled::Closed),
            ends => Progress::Of(Side::of(ends)),
        })
    })?
}

/// Waits until the guest has the devices, or, while it is paused, until the stub has exported them.
pub(crate) fn await_connection(
    host: &Host,
    stub: &DomainName,
    guest: &DomainName,
    devices: &[Sbdf],
    patience: Patience,
    until: Until,
) -> Result<Connection, Error> {
    let mut watched = Ends::watched(stub.id, guest.id);
    watched.push(path::backend_dir(stub.id, guest.id)); // `state-N`: a stub that nobody is connected to changes nothing else
    let met = wait_by_turns(host, (stub, guest), &watched, patience, || {
        let paused = check_alive(host, stub, guest)?;
        let exports = Exports::look(host, stub.id, guest.id, devices)?;
        let ends = Ends::read(host, stub.id, guest.id)?;
        check_open(host, stub, guest, ends)?;
        let is_unmet = ends.back == XenbusState::Initialised;
        if let Some(device) = exports.failed
            && (ends.are_connected() || is_unmet)
        {
            return Err(export_failed(host, stub, guest, device)?);
        }
        Ok(match exports.all {
            true if ends.are_connected() => Progress::Done(Connection::Connected),
            true if until == Until::Exported => Progress::Done(Connection::Waiting),
            true if paused && (is_unmet || ends.back == XenbusState::Connected) => Progress::Done(Connection::Waiting),
            // It follows new entries of a guest that has not come yet without being told to.
            false if is_unmet => Progress::Of(Side::Stub),
            _ => Progress::Of(Side::of(ends)),
        })
    })?;
    let silent = match met {
        Ok(connection) => return Ok(connection),
        Err(silent) => silent,
    };
    // One that failed is the reason to tell, also where the guest did not come to an end.
    Err(match Exports::look(host, stub.id, guest.id, devices)?.failed {
        Some(device) => export_failed(host, stub, guest, device)?,
        None => silent,
    })
}

/// Both domains must be there. Whether the guest is paused.
fn check_alive(host: &Host, stub: &DomainName, guest: &DomainName) -> Result<bool, Error> {
    let paused = match domain::info(host, guest.id)? {
        Some(info) if !info.dying => info.paused,
        _ => return Err(Error::GuestWentAway(guest.clone())),
    };
    if domain::is_alive(host, stub.id)? { Ok(paused) } else { Err(Error::StubWentAway(stub.clone())) }
}

/// Neither end may have given up.
fn check_open(host: &Host, stub: &DomainName, guest: &DomainName, ends: Ends) -> Result<(), Error> {
    let closed = |state| matches!(state, XenbusState::Closing | XenbusState::Closed);
    let text = match (closed(ends.back), closed(ends.front)) {
        (false, false) => return Ok(()),
        (true, _) => host.read(&path::error_node(stub.id, guest.id))?,
        (false, true) => None,
    };
    // Each follows the other; the one with a reason was the first.
    if text.is_some() || !closed(ends.front) {
        return Err(Error::StubGaveUp { stub: stub.clone(), text });
    }
    let text = host.read(&guest_error(guest.id))?;
    Err(Error::GuestRefused { guest: guest.clone(), text })
}

/// State of the stub's exports of an attach.
struct Exports {
    all: bool,
    /// It could not export this one: `state-N` is Closed (docs/protocol.md §2.5).
    failed: Option<Sbdf>,
}

impl Exports {
    fn look(host: &Host, stub: DomId, guest: DomId, devices: &[Sbdf]) -> Result<Self, Error> {
        let entries = Entries::load(host, stub, guest)?;
        let is_at = |device: &Sbdf, state| entries.find(*device).is_some_and(|entry| entry.state == state);
        Ok(Self {
            all: devices.iter().all(|device| is_at(device, XenbusState::Initialised)),
            failed: devices.iter().copied().find(|device| is_at(device, XenbusState::Closed)),
        })
    }
}

fn export_failed(host: &Host, stub: &DomainName, guest: &DomainName, device: Sbdf) -> Result<Error, Error> {
    let text = host.read(&path::error_node(stub.id, guest.id))?;
    Ok(Error::ExportFailed { stub: stub.clone(), device, text })
}

/// Node in which a Linux guest reports errors of its PCI frontend.
fn guest_error(guest: DomId) -> String {
    format!("{}/error/device/pci/0/error", path::domain_path(guest))
}
