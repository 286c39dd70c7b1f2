//! Before a command changes anything it puts right what others left: devices of guests and stubs that are gone, and the half-done
//! work of a command that was killed. The lock sees to it that no other command is at work (`lock.rs`).

use xen_types::{DomId, Sbdf};
use xenstore::{XenbusState, path};

use crate::directories::end_state;
use crate::domain;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::release::{self, Loan, Rights};
use crate::store::Change;
use crate::table::{self, Phase, Record};

/// What was taken back from a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reclaimed {
    pub(crate) guest: DomainName,
    pub(crate) devices: Vec<Sbdf>,
}

/// Puts everything right that can be. One guest's trouble is noted and does not keep a command from serving others.
pub(crate) fn reclaim(host: &Host) -> Result<Vec<Reclaimed>, Error> {
    let mut reclaimed = Vec::new();
    let records = table::load(host)?;
    let mut guests: Vec<(DomId, DomId)> =
        records.iter().filter_map(|record| Some((record.frontend?, record.stub))).collect();
    guests.sort_unstable();
    guests.dedup();
    for (guest, stub) in guests {
        let theirs: Vec<Record> =
            records.iter().filter(|record| (record.frontend, record.stub) == (Some(guest), stub)).copied().collect();
        match settle(host, guest, stub, &theirs) {
            Ok(done) => reclaimed.extend(done),
            Err(error) => host.note(&format!("the devices of domain {guest} are not settled: {error}")),
        }
    }
    for record in records.iter().filter(|record| record.frontend.is_none()) {
        if !holds(host, record.stub, record.device)? {
            host.commit(&table::forget(record.device))?;
            host.note(&format!("{} left the pool: backend domain {} is gone", record.device, record.stub));
        }
    }
    Ok(reclaimed)
}

/// Whether the stub is there and is still the one that was given the device: domain ids come again.
pub(crate) fn holds(host: &Host, stub: DomId, device: Sbdf) -> Result<bool, Error> {
    Ok(domain::is_alive(host, stub)? && host.exists(&path::pool_dir(stub, device))?)
}

/// Settles the devices of one guest. Those that it uses stay, even without a stub: it can go on with the registers it
/// has mapped.
fn settle(host: &Host, guest: DomId, stub: DomId, records: &[Record]) -> Result<Option<Reclaimed>, Error> {
    let devices: Vec<Sbdf> = records.iter().map(|record| record.device).collect();
    let guest_alive = domain::is_alive(host, guest)?;
    if guest_alive && records.iter().all(|record| record.phase == Phase::Attached) {
        return Ok(None);
    }
    let mut stub_alive = true;
    for device in &devices {
        stub_alive &= holds(host, stub, *device)?;
    }
    let mut name = domain::named(host, guest)?;
    let backend = path::backend_dir(stub, guest);
    if name.name.is_none() {
        name.name = host.read(&path::child(&backend, "domain"))?;
    }
    if guest_alive && stub_alive {
        match end_state(host, &path::frontend_dir(guest))? {
            XenbusState::Connected => return keep(host, &name, &backend, &devices),
            // It was asked to let go and is about to: `pcidom detach` waits for it.
            XenbusState::Closing if records.iter().all(|record| record.phase == Phase::Detaching) => return Ok(None),
            _ => {}
        }
    }
    let loan = Loan { stub: domain::named(host, stub)?, stub_alive, guest: name, guest_alive, devices };
    // The broker does nothing for them any more.
    host.commit(&loan.devices.iter().map(|device| table::set_phase(*device, Phase::Detaching)).collect::<Vec<_>>())?;
    release::take_back(host, &loan, Rights::Uncertain)?;
    let Loan { guest, devices, .. } = loan;
    let list = devices.iter().map(Sbdf::to_string).collect::<Vec<_>>().join(", ");
    let why = if guest_alive { "a command was interrupted" } else { "the guest is gone" };
    host.note(&format!("took {list} back from {guest}: {why}"));
    Ok(Some(Reclaimed { guest, devices }))
}

/// The guest is connected though a command died at attaching or detaching: it has all it needs, or has not begun to let go.
fn keep(host: &Host, guest: &DomainName, backend: &str, devices: &[Sbdf]) -> Result<Option<Reclaimed>, Error> {
    let mut changes: Vec<Change> = devices.iter().map(|device| table::set_phase(*device, Phase::Attached)).collect();
    if end_state(host, backend)? == XenbusState::Closing {
        changes.push(Change::write(path::child(backend, "online"), 1));
        changes.push(Change::write(path::child(backend, "state"), XenbusState::Connected));
    }
    host.commit(&changes)?;
    host.note(&format!("{guest} keeps its devices though a command was interrupted"));
    Ok(None)
}
