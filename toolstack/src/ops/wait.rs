//! `pcidom wait`: for a backend, for devices in its pool, or for a guest that uses its devices. It changes nothing.

use std::time::Duration;

use pcidom_abi::paths;
use pcidom_broker::due::ready_stub;
use xen_types::Sbdf;
use xenstore::{XenbusState, path};

use crate::error::{Error, list};
use crate::host::Host;
use crate::host::domain;
use crate::host::terminal;
use crate::ops::pool::{self, PoolState};
use crate::ops::versions;
use crate::records::device_table::{self, Phase};
use crate::records::directories::Ends;
use crate::records::entries::Entries;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A backend that serves.
    Ready { backend: String },
    /// Devices that are in a pool, fit for a guest.
    Free { devices: Vec<Sbdf> },
    /// A guest that uses these devices.
    Attached { guest: String, devices: Vec<Sbdf> },
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready { backend } => write!(f, "the backend {backend} is not ready"),
            Self::Free { devices } => write!(f, "not all are free in a pool: {}", list(devices)),
            Self::Attached { guest, devices } => write!(f, "{guest} does not use all of {}", list(devices)),
        }
    }
}

/// Waits.
///
/// # Errors
/// [`Error::NotInTime`]; those of looking.
pub(crate) fn wait(host: &Host, awaited: &Awaited, timeout: Duration) -> Result<(), Error> {
    terminal::begin(|| format!("wait: {awaited}"));
    // Where the domain that is waited for is not there yet nobody knows its nodes: those are looked at once a second.
    let mut watched =
        vec![path::INTRODUCE_DOMAIN.to_owned(), path::RELEASE_DOMAIN.to_owned(), paths::DEVICES.to_owned()];
    watched.extend(nodes(host, awaited)?);
    let found = host.wait_for(&watched, timeout, || Ok(is_there(host, awaited)?.then_some(())))?;
    found.ok_or_else(|| Error::NotInTime { what: awaited.to_string(), after: timeout })
}

fn nodes(host: &Host, awaited: &Awaited) -> Result<Vec<String>, Error> {
    Ok(match awaited {
        Awaited::Ready { backend } => {
            let found = domain::find(host, backend)?;
            found.map(|(stub, _)| paths::version_node(stub.id)).into_iter().collect()
        }
        Awaited::Free { .. } => Vec::new(),
        Awaited::Attached { guest, .. } => {
            let found = domain::find_frontend(host, guest)?;
            found.map(|(guest, _)| path::frontend_dir(guest.id)).into_iter().collect()
        }
    })
}

fn is_there(host: &Host, awaited: &Awaited) -> Result<bool, Error> {
    match awaited {
        Awaited::Ready { backend } => {
            versions::check_named(host, backend)?;
            Ok(ready_stub(host, backend)?.is_some())
        }
        Awaited::Free { devices } => all(devices, |device| {
            Ok(match device_table::load_one(host, device)? {
                Some(record) if record.frontend.is_none() => pool::state(host, record.stub, device)? == PoolState::Free,
                _ => false,
            })
        }),
        Awaited::Attached { guest, devices } => {
            let Some((guest, _)) = domain::find_frontend(host, guest)? else { return Ok(false) };
            all(devices, |device| {
                let Some(record) = device_table::load_one(host, device)? else { return Ok(false) };
                if (record.frontend, record.phase) != (Some(guest.id), Phase::Attached) {
                    return Ok(false);
                }
                let entries = Entries::load(host, record.stub, guest.id)?;
                let is_exported = entries.find(device).is_some_and(|entry| entry.state == XenbusState::Initialised);
                Ok(is_exported && Ends::read(host, record.stub, guest.id)?.are_connected())
            })
        }
    }
}

fn all(devices: &[Sbdf], is_there: impl Fn(Sbdf) -> Result<bool, Error>) -> Result<bool, Error> {
    for device in devices {
        if !is_there(*device)? {
            return Ok(false);
        }
    }
    Ok(true)
}
