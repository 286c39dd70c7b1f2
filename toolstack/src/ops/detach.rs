//! `pcidom detach`: takes devices from a guest, some or all.

use std::time::Duration;

use xen_types::Sbdf;
use xenstore::XenbusState;

use crate::device::resources::DeviceResources;
use crate::error::{DomainName, Error, StateName};
use crate::host::Host;
use crate::host::domain;
use crate::ops::close;
use crate::ops::hot_unplug::{Answer, IfSilent, Wanted, phases, withdraw};
use crate::ops::in_use::{self, Held};
use crate::ops::pool::{self, STUB_PATIENCE};
use crate::ops::recover::Reclaimed;
use crate::ops::release::{self, Assignment, Connection, Looked, Returning, Rights};
use crate::records::device_table::{self, Phase, Record};
use crate::records::directories::{self, Ends};
use crate::records::guard;

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
    /// Go on without a guest that does not let go, and free what one still has something of.
    pub(crate) force: bool,
}

/// Detaches the devices. `reclaimed` is what was taken back just before: from a guest that is gone, everything was.
pub(crate) fn detach(host: &Host, request: &Request, reclaimed: &[Reclaimed]) -> Result<(), Error> {
    let by_name =
        |guest: &DomainName| guest.name.as_ref() == Some(&request.guest) || guest.id.to_string() == request.guest;
    let all_reclaimed =
        |dead: &&Reclaimed| by_name(&dead.guest) && request.devices.iter().all(|device| dead.devices.contains(device));
    if reclaimed.iter().find(all_reclaimed).is_some() {
        return stay_away(host, request);
    }
    let (guest, _) = domain::find(host, &request.guest)?.ok_or_else(|| Error::NoSuchGuest(request.guest.clone()))?;
    let records = device_table::load(host)?;
    let named = request.devices.iter().copied().map(|device| {
        let theirs = |record: &&Record| record.device == device && record.frontend == Some(guest.id);
        let record = records.iter().find(theirs).ok_or_else(|| Error::NotAttached { device, guest: guest.clone() })?;
        check_backend(host, request, record)?;
        Ok(*record)
    });
    let named: Vec<Record> = named.collect::<Result<_, Error>>()?;
    let Some(first) = named.first() else {
        return Err(Error::Usage("no device named".to_owned()));
    };
    let (held, used): (Vec<Record>, Vec<Record>) = named.iter().partition(|record| record.phase == Phase::Leaked);
    let devices = |records: &[Record]| records.iter().map(|record| record.device).collect::<Vec<_>>();
    let (stub, stub_alive) = (domain::named(host, first.stub)?, pool::is_in_pool(host, first.stub, first.device)?);
    let assignment = |devices: Vec<Sbdf>| Assignment {
        stub: stub.clone(),
        stub_alive,
        guest: guest.clone(),
        guest_alive: true,
        staying: release::others(&records, guest.id, &devices),
        devices,
        connection: Connection::Stays,
        follows: false,
    };
    let retried = host.without_stopping(|| retry(host, &assignment(devices(&held)), request.force));
    if !used.is_empty() {
        take(host, assignment(devices(&used)), request)?;
    }
    retried
}

/// What the guest had was taken back already. If it has rebooted since, it may have got the devices again.
fn stay_away(host: &Host, request: &Request) -> Result<(), Error> {
    let mut again = Vec::new();
    for device in request.devices.iter().copied() {
        let record = device_table::load_one(host, device)?;
        if record.is_some() {
            host.commit(&device_table::forget_keep(device))?;
        }
        again.extend(record.filter(|record| record.frontend.is_some()).map(|_| device));
    }
    if again.is_empty() { Ok(()) } else { detach(host, &Request { devices: again, ..request.clone() }, &[]) }
}

/// Takes devices that the guest uses.
fn take(host: &Host, mut assignment: Assignment, request: &Request) -> Result<(), Error> {
    let replaced = directories::check_frontend(host, assignment.stub.id, &assignment.guest);
    if let Err(error @ Error::FrontendReplaced { .. }) = &replaced
        && request.force
    {
        // Nobody can ask it.
        host.note(&error.to_string());
        assignment.connection = if assignment.staying.is_empty() { Connection::Gone } else { Connection::Stays };
        return host.without_stopping(|| {
            host.commit(&phases(&assignment.devices, Phase::Detaching))?;
            release::take_back(host, &assignment, rights(host, &assignment)?)
        });
    }
    replaced?;
    if assignment.stub_alive {
        let if_silent = if request.force { IfSilent::Leave } else { IfSilent::Restore };
        let wanted = Wanted {
            stub: &assignment.stub,
            guest: &assignment.guest,
            devices: &assignment.devices,
            timeout: request.timeout,
            if_silent,
        };
        let asked = host.elapsed();
        match withdraw(host, wanted)? {
            Answer::LetGo => {}
            Answer::Silent(_) | Answer::HalfWay(_) if request.force => {
                host.note(&format!("{} did not let go of its devices and loses them", assignment.guest));
                host.commit(&phases(&assignment.devices, Phase::Detaching))?;
            }
            Answer::Silent(error) => return Err(error),
            Answer::HalfWay(ends) => {
                return Err(half_way(&assignment, host.elapsed().saturating_sub(asked), ends));
            }
        }
    }
    // The guest does not use them any more, and nobody could give them back to it: from here on it goes on to the end.
    host.without_stopping(|| take_from_guest(host, assignment, request))
}

/// `xl pci-detach -f` takes the DMA of a device of ours from the guest, and its guard with it.
fn rights(host: &Host, assignment: &Assignment) -> Result<Rights, Error> {
    for device in assignment.devices.iter().copied() {
        if guard::mended(host, device)? > 0 {
            return Ok(Rights::Uncertain);
        }
    }
    Ok(Rights::Complete)
}

fn take_from_guest(host: &Host, mut assignment: Assignment, request: &Request) -> Result<(), Error> {
    if !assignment.stub_alive {
        // Nobody can ask it for one device. When the last one goes it is asked to close.
        host.commit(&phases(&assignment.devices, Phase::Detaching))?;
        if assignment.staying.is_empty() {
            close::close_orphan(host, assignment.stub.id, &assignment.guest, STUB_PATIENCE)?;
        }
    }
    assignment.connection = match assignment.staying.is_empty() {
        false => Connection::Stays,
        true if assignment.stub_alive => Connection::Ends { by_force: request.force },
        true => Connection::Gone,
    };
    assignment.guest_alive = domain::is_alive(host, assignment.guest.id)?;
    assignment.stub_alive = assignment.stub_alive && domain::is_alive(host, assignment.stub.id)?;
    release::take_back(host, &assignment, rights(host, &assignment)?)
}

fn half_way(assignment: &Assignment, after: Duration, ends: Ends) -> Error {
    if ends.front == XenbusState::Reconfiguring && ends.back != XenbusState::Reconfigured {
        let waiting_for = format!("taking devices back from {}", assignment.guest);
        return Error::StubSilent { stub: assignment.stub.clone(), after, waiting_for };
    }
    Error::GuestHalfClosed { guest: assignment.guest.clone(), after, frontend: StateName(ends.front) }
}

/// Devices that were taken from the guest before: does it still have something of them?
fn retry(host: &Host, assignment: &Assignment, force: bool) -> Result<(), Error> {
    let mut facts = Vec::new();
    for device in assignment.devices.iter().copied() {
        facts.push(DeviceResources::find(host, assignment.stub.id, device)?);
    }
    let held = if force { Held::default() } else { in_use::hold(host, &assignment.guest, &facts)? };
    let free: Vec<Sbdf> = assignment.devices.iter().copied().filter(|device| !held.has(*device)).collect();
    facts.retain(|facts| host.sysfs.exists(facts.device));
    let looked = if force { Looked::Away } else { Looked::as_set(host) };
    Returning::begin(host, &free, &facts)?.finish(host, &assignment.stub, assignment.stub_alive, looked, Vec::new())?;
    held.into_result(&assignment.guest)
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
