//! Steps of devices on their way back from a guest.

use std::time::Duration;

use pcidom_broker::records::record_nodes;
use xen_types::{DomId, Errno, Sbdf};
use xenstore::{XenbusState, path};

use crate::device::reset::Resetting;
use crate::error::{DomainName, Error, HostError, StateName};
use crate::host::Host;
use crate::host::domain;
use crate::ops::device_model;
use crate::ops::hot_unplug::{Answer, IfSilent, UnplugRequest, phases, request_release};
use crate::ops::plan::Looked;
use crate::ops::pool;
use crate::records::device_table::{self, Phase};
use crate::records::directories::{self, Ends};
use crate::store::Change;

/// Has an HVM guest let go of devices.
///
/// # Errors
/// It did not, or its device model did nothing; unless the devices are taken `by_force`.
pub(super) fn unplug(
    host: &Host,
    target: &DomainName,
    devices: &[Sbdf],
    timeout: Duration,
    by_force: bool,
) -> Result<(), Error> {
    match device_model::unplug(host, target, devices, timeout) {
        Err(error @ (Error::DeviceModel { .. } | Error::NotUnplugged { .. })) if by_force => {
            host.note(&format!("{error}; it loses them"));
            Ok(())
        }
        unplugged => unplugged,
    }
}

/// Asks the guest to let go, and waits until it has.
///
/// # Errors
/// It did nothing, and has its devices as before; or it stopped half-way.
pub(super) fn ask_guest(
    host: &Host,
    (stub, guest): (&DomainName, &DomainName),
    devices: &[Sbdf],
    timeout: Duration,
    by_force: bool,
) -> Result<(), Error> {
    let if_silent = if by_force { IfSilent::Leave } else { IfSilent::Restore };
    let asked = host.elapsed();
    match request_release(host, UnplugRequest { stub, guest, devices, timeout, if_silent })? {
        Answer::Released => Ok(()),
        Answer::Silent(_) | Answer::HalfWay(_) if by_force => {
            host.note(&format!("{guest} did not let go of its devices and loses them"));
            host.commit(&phases(devices, Phase::Detaching))
        }
        Answer::Silent(error) => Err(error),
        Answer::HalfWay(ends) => Err(half_way((stub, guest), host.elapsed().saturating_sub(asked), ends)),
    }
}

fn half_way((stub, guest): (&DomainName, &DomainName), after: Duration, ends: Ends) -> Error {
    if ends.front == XenbusState::Reconfiguring && ends.back != XenbusState::Reconfigured {
        return Error::StubSilent {
            stub: stub.clone(),
            after,
            waiting_for: format!("taking devices back from {guest}"),
        };
    }
    Error::GuestHalfClosed { guest: guest.clone(), after, frontend: StateName(ends.front) }
}

/// Removes both directories, and where the guest of a stub that is gone was asked to close.
pub(super) fn remove_directories(host: &Host, stub: DomId, guest: DomId) -> Result<Vec<Change>, Error> {
    let mut changes = directories::remove(host, stub, guest)?;
    if !domain::is_alive(host, stub)? {
        changes.push(Change::remove_if_empty(path::domain_path(stub)));
    }
    Ok(changes)
}

/// What came of taking a right. That there was none is no error where it `may_be_absent`.
pub(super) fn unless_absent(taken: Result<(), Error>, may_be_absent: bool) -> Result<bool, Error> {
    match taken {
        Err(Error::Host(HostError::Hypercall { source, .. }))
            if may_be_absent && matches!(source.errno, Errno::ENODEV | Errno::EINVAL | Errno::ENOENT) =>
        {
            Ok(false)
        }
        taken => taken.map(|()| true),
    }
}

/// Waits for the resets and returns the devices to the pool, together with other `changes`; to the plain parked ones where the stub is not there.
///
/// # Errors
/// [`HostError::ResetHangs`] for one whose reset does not end: it stays on its way, and does not keep the others.
pub(super) fn return_to_pool(
    host: &Host,
    (stub, is_stub_there): (&DomainName, bool),
    mut devices: Vec<Sbdf>,
    resets: Vec<(Sbdf, Resetting)>,
    looked: Looked,
    mut changes: Vec<Change>,
) -> Result<(), Error> {
    let is_stub_there = is_stub_there && domain::is_alive(host, stub.id)?;
    let mut stuck = None;
    for (device, resetting) in resets {
        // Who has a mapping goes on using the device after its reset.
        let reset = match (resetting.finish(host), looked) {
            (Err(error), _) => {
                devices.retain(|other| *other != device);
                stuck.get_or_insert(error);
                continue;
            }
            (Ok(reset), Looked::Through) => Some(reset.note()),
            (Ok(_), Looked::Away) => None,
        };
        changes.push(device_table::note_reset(device, reset.as_ref()));
    }
    host.looking_ahead(devices.iter().copied().flat_map(record_nodes), || {
        for device in devices.iter().copied() {
            if is_stub_there {
                changes.extend(device_table::unreserve(host, device)?);
                changes.extend(pool::present_again(host, stub.id, device));
            } else {
                changes.extend(device_table::lose_stub(host, device)?);
            }
        }
        Ok(())
    })?;
    host.commit(&changes)?;
    if is_stub_there {
        // The guest has nothing any more, so this is no failure of the command.
        for error in pool::await_verdicts(host, stub, &devices)? {
            host.note(&error.to_string());
        }
    }
    stuck.map_or(Ok(()), Err)
}
