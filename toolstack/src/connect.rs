//! Waiting for backend and frontend to meet.

use std::time::Duration;

use xen_types::DomId;
use xenstore::{XenbusState, path};

use crate::device_spec::DeviceSpec;
use crate::directories::end_state;
use crate::domain;
use crate::error::{DomainName, Error, StateName};
use crate::host::Host;

/// How far they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// The guest uses the devices.
    Connected,
    /// The guest is paused; the devices wait for it.
    Waiting,
}

/// Waits until the guest has the devices, or, while it is paused, until the stub has exported them.
pub(crate) fn await_connection(
    host: &Host,
    stub: &DomainName,
    guest: &DomainName,
    devices: &[DeviceSpec],
    timeout: Duration,
) -> Result<Connection, Error> {
    let (backend, frontend) = (path::backend_dir(stub.id, guest.id), path::frontend_dir(guest.id));
    let watched = [backend.clone(), frontend.clone(), path::RELEASE_DOMAIN.to_owned()];
    let met = host.wait_for(&watched, timeout, || {
        let paused = match domain::info(host, guest.id)? {
            Some(info) if !info.dying => info.paused,
            _ => return Err(Error::GuestWentAway(guest.clone())),
        };
        if !domain::is_alive(host, stub.id)? {
            return Err(Error::StubWentAway(stub.clone()));
        }
        let exported = exported(host, stub, guest.id, devices)?;
        let (back, front) = (end_state(host, &backend)?, end_state(host, &frontend)?);
        Ok(match (back, front) {
            (XenbusState::Closing | XenbusState::Closed, _) => {
                let text = host.read(&path::error_node(stub.id, guest.id))?;
                return Err(Error::StubGaveUp { stub: stub.clone(), text });
            }
            (_, XenbusState::Closing | XenbusState::Closed) => {
                let text = host.read(&guest_error(guest.id))?;
                return Err(Error::GuestRefused { guest: guest.clone(), text });
            }
            (XenbusState::Connected, XenbusState::Connected) => Some(Connection::Connected),
            (XenbusState::Initialised | XenbusState::Connected, _) if paused && exported => Some(Connection::Waiting),
            _ => None,
        })
    })?;
    if let Some(connection) = met {
        return Ok(connection);
    }
    let (back, front) = (end_state(host, &backend)?, end_state(host, &frontend)?);
    if back < XenbusState::Initialised {
        let waiting_for = format!("exporting the devices to {guest}");
        return Err(Error::StubSilent { stub: stub.clone(), after: timeout, waiting_for });
    }
    let guest = guest.clone();
    Err(Error::GuestSilent { guest, after: timeout, backend: StateName(back), frontend: StateName(front) })
}

/// Whether the stub has exported all devices.
///
/// # Errors
/// It could not export one: `state-N` is Closed (pci-protocol §2.9).
fn exported(host: &Host, stub: &DomainName, guest: DomId, devices: &[DeviceSpec]) -> Result<bool, Error> {
    let backend = path::backend_dir(stub.id, guest);
    let mut all = true;
    for (index, spec) in devices.iter().enumerate() {
        match host.read_state(&path::child(&backend, &format!("state-{index}")))? {
            XenbusState::Initialised => {}
            XenbusState::Closed => {
                let text = host.read(&path::error_node(stub.id, guest))?;
                return Err(Error::ExportFailed { stub: stub.clone(), device: spec.device, text });
            }
            _ => all = false,
        }
    }
    Ok(all)
}

/// Where a Linux guest says what went wrong with its PCI frontend.
fn guest_error(guest: DomId) -> String {
    format!("{}/error/device/pci/0/error", path::domain_path(guest))
}
