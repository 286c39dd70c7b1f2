//! Hot-unplug: asks a guest to release some of its devices while it goes on using the others: the second half of the hotplug design
//! (docs/protocol.md §2.4, §8.3). The guest is told first; nothing is taken from it here.

use std::time::Duration;

use pcidom_abi::paths;
use xen_types::Sbdf;
use xenstore::XenbusState;

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::connect::{self, Settled};
use crate::ops::patience::{Patience, Progress, STUB_PATIENCE, Side, wait_by_turns};
use crate::ops::pool::PoolState;
use crate::records::device_table::{self, Phase};
use crate::records::directories::{Ends, set_back};
use crate::records::entries::Entries;
use crate::store::Change;

/// Devices that a guest is to let go of while it goes on using others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnplugRequest<'a> {
    pub(crate) stub: &'a DomainName,
    pub(crate) guest: &'a DomainName,
    pub(crate) devices: &'a [Sbdf],
    pub(crate) timeout: Duration,
    pub(crate) if_silent: IfSilent,
}

/// What to do if the guest does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfSilent {
    /// Everything becomes as it was.
    Restore,
    /// Leave it at that: the devices are taken without the guest.
    Leave,
}

/// The guest's answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It does not use the devices any more; or it never did, or is gone.
    Released,
    /// It did nothing. This is the error to tell.
    Silent(Error),
    /// It began and did not come to an end; the phase stays at `detaching`.
    HalfWay(Ends),
}

/// Asks, and waits. From the first question on the devices' phase is `detaching`.
pub(crate) fn request_release(host: &Host, request: UnplugRequest<'_>) -> Result<Answer, Error> {
    let UnplugRequest { stub, guest, devices, timeout, if_silent } = request;
    match ask(host, request) {
        Ok(Asked::NoNeed) => return Ok(Answer::Released),
        Ok(Asked::Yes) => {}
        Err(error @ (Error::GuestSilent { .. } | Error::StubSilent { .. } | Error::GuestUnsteady(_))) => {
            return Ok(Answer::Silent(error));
        }
        Err(Error::GuestWentAway(_) | Error::StubWentAway(_)) => {
            host.commit(&phases(devices, Phase::Detaching))?;
            return Ok(Answer::Released);
        }
        Err(error) => return Err(error),
    }
    let patience = Patience::new(timeout, devices.len());
    let silent = match let_go_within(host, request, patience) {
        Ok(Ok(())) => return Ok(Answer::Released),
        Ok(Err(silent)) => silent,
        Err(error @ Error::Interrupted(_)) => return host.without_stopping(|| interrupted(host, request, error)),
        Err(error) => return Err(error),
    };
    let ends = Ends::read(host, stub.id, guest.id)?;
    if ends.are_asked() && (if_silent == IfSilent::Leave || restore(host, request, ends)?) {
        return Ok(Answer::Silent(silent));
    }
    // It moved at the last moment, or is in the middle of it: nothing can be undone any more.
    host.without_stopping(|| come_to_an_end(host, request))
}

/// Waits for a guest that has begun to let go.
fn come_to_an_end(host: &Host, request: UnplugRequest<'_>) -> Result<Answer, Error> {
    let UnplugRequest { stub, guest, devices, .. } = request;
    if let_go_within(host, request, Patience::new(STUB_PATIENCE, devices.len()))?.is_ok() {
        return Ok(Answer::Released);
    }
    Ok(Answer::HalfWay(Ends::read(host, stub.id, guest.id)?))
}

/// The command was told to stop while it waited. A guest that has not moved has not been asked; one that has lets go, and then it goes on to the
/// end.
fn interrupted(host: &Host, request: UnplugRequest<'_>, error: Error) -> Result<Answer, Error> {
    let UnplugRequest { stub, guest, .. } = request;
    let ends = Ends::read(host, stub.id, guest.id)?;
    if ends.are_asked() && restore(host, request, ends)? {
        return Err(error);
    }
    host.note(&format!("{guest} is letting go already, so this goes on to its end"));
    come_to_an_end(host, request)
}

enum Asked {
    Yes,
    /// The guest does not know of the devices.
    NoNeed,
}

fn ask(host: &Host, request: UnplugRequest<'_>) -> Result<Asked, Error> {
    let UnplugRequest { stub, guest, devices, timeout, .. } = request;
    let begin = phases(devices, Phase::Detaching);
    for _ in 0..connect::ROUNDS {
        let entries = Entries::load(host, stub.id, guest.id)?;
        let ends = Ends::read(host, stub.id, guest.id)?;
        if entries.of(devices).next().is_none() {
            // Somebody removed them under us: there is nothing that the guest could be asked about.
            host.commit(&begin)?;
            return Ok(Asked::NoNeed);
        }
        if entries.of(devices).all(|entry| !entry.is_exported()) && ends.are_asked() {
            // It was asked to look at what it shall not see now.
            if host.commit_if(&[begin.clone(), retract(&entries, stub, guest, devices, ends)].concat())? {
                return Ok(Asked::NoNeed);
            }
            continue;
        }
        let settled = connect::settle(host, stub, guest, Patience::new(timeout, devices.len()))?;
        let entries = Entries::load(host, stub.id, guest.id)?;
        let ends = Ends::read(host, stub.id, guest.id)?;
        // One that is not exported has no address by which the guest could find it: Linux gives up everything then (docs/protocol.md §2.3).
        let is_exported: Vec<_> = entries.of(devices).filter(|entry| entry.is_exported()).collect();
        let nodes: Vec<_> = is_exported.iter().map(|entry| paths::pool_state_node(stub.id, entry.device)).collect();
        let mut exported = Vec::new();
        for (entry, state) in is_exported.into_iter().zip(host.read_all(&nodes)?) {
            // It may have let go already, for a command that was killed.
            let is_assigned = PoolState::parse(&state.unwrap_or_default()).guest() == Some(guest.id);
            exported.extend((is_assigned || entry.state == XenbusState::Initialised).then_some(entry.device));
        }
        let mut changes = ends.expected(stub.id, guest.id);
        changes.extend_from_slice(&begin);
        let leaving = entries.set_states(&exported, XenbusState::Closing);
        let must_ask = settled == Settled::Connected && ends.are_connected() && !leaving.is_empty();
        changes.extend(leaving);
        changes.extend(must_ask.then(|| set_back(stub.id, guest.id, XenbusState::Reconfiguring)));
        if host.commit_if(&changes)? {
            return Ok(if must_ask { Asked::Yes } else { Asked::NoNeed });
        }
    }
    Err(Error::GuestUnsteady(guest.clone()))
}

/// Removes entries from a set of devices that the guest was asked to look at, and asks no more.
fn retract(entries: &Entries, stub: &DomainName, guest: &DomainName, devices: &[Sbdf], ends: Ends) -> Vec<Change> {
    let mut changes = ends.expected(stub.id, guest.id);
    changes.extend(entries.remove(devices));
    changes.push(set_back(stub.id, guest.id, XenbusState::Connected));
    changes
}

/// Removes the entries, whoever still holds what. A guest that was asked and has not moved is asked no more.
pub(crate) fn remove_entries(
    host: &Host,
    stub: &DomainName,
    guest: &DomainName,
    devices: &[Sbdf],
) -> Result<(), Error> {
    for _ in 0..connect::ROUNDS {
        let entries = Entries::load(host, stub.id, guest.id)?;
        if entries.of(devices).next().is_none() {
            return Ok(());
        }
        let ends = Ends::read(host, stub.id, guest.id)?;
        let changes = match ends.are_asked() {
            true => retract(&entries, stub, guest, devices, ends),
            false => [ends.expected(stub.id, guest.id), entries.remove(devices)].concat(),
        };
        if host.commit_if(&changes)? {
            return Ok(());
        }
    }
    // Entries are the toolstack's, and go whatever the guest does.
    host.commit(&Entries::load(host, stub.id, guest.id)?.remove(devices))
}

/// Waits until the guest has let go, or tells who took too long.
fn let_go_within(host: &Host, request: UnplugRequest<'_>, patience: Patience) -> Result<Result<(), Error>, Error> {
    let UnplugRequest { stub, guest, .. } = request;
    wait_by_turns(host, (stub, guest), &Ends::watched(stub.id, guest.id), patience, || {
        let ends = Ends::read(host, stub.id, guest.id)?;
        let gone = !domain::is_alive(host, guest.id)? || !domain::is_alive(host, stub.id)?;
        let is_over = gone || ends.are_connected() || ends.are_closed();
        Ok(if is_over { Progress::Done(()) } else { Progress::Of(Side::of(ends)) })
    })
}

/// Makes everything as it was, unless the guest moves just then.
fn restore(host: &Host, request: UnplugRequest<'_>, ends: Ends) -> Result<bool, Error> {
    let UnplugRequest { stub, guest, devices, .. } = request;
    let entries = Entries::load(host, stub.id, guest.id)?;
    let asked: Vec<Sbdf> =
        entries.of(devices).filter(|entry| entry.state == XenbusState::Closing).map(|entry| entry.device).collect();
    let mut changes = ends.expected(stub.id, guest.id);
    changes.extend(entries.set_states(&asked, XenbusState::Initialised));
    changes.push(set_back(stub.id, guest.id, XenbusState::Connected));
    changes.extend(phases(devices, Phase::Attached));
    host.commit_if(&changes)
}

/// Does it for a command that was killed after it had asked: the guest has not moved, so nothing was asked.
pub(crate) fn cancel(host: &Host, stub: &DomainName, guest: &DomainName, devices: &[Sbdf]) -> Result<bool, Error> {
    let ends = Ends::read(host, stub.id, guest.id)?;
    let request = UnplugRequest { stub, guest, devices, timeout: Duration::ZERO, if_silent: IfSilent::Restore };
    Ok(ends.are_asked() && restore(host, request, ends)?)
}

pub(crate) fn phases(devices: &[Sbdf], phase: Phase) -> Vec<Change> {
    devices.iter().map(|device| device_table::set_phase(*device, phase)).collect()
}
