//! `pcidom detach`: takes devices from a guest, some or all.

use std::time::Duration;

use pcidom_broker::due::is_in_pool;
use xen_types::Sbdf;
use xenstore::path;

use crate::device::resources::DeviceResources;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::executor;
use crate::ops::patience::STUB_PATIENCE;
use crate::ops::plan::release::{Assignment, Connection, Known, Rights};
use crate::ops::plan::{self, Looked, OnFailure, Plan, Step};
use crate::ops::recover::Reclaimed;
use crate::ops::release;
use crate::ops::versions;
use crate::records::device_table::{self, Phase, Record};
use crate::records::directories;
use crate::records::guard;

/// Devices to detach, and the guest.
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
    let Found { leaked, used } = find(host, request)?;
    let retried = host.without_stopping(|| retry(host, &leaked, request));
    if !used.devices.is_empty() {
        take(host, used, request)?;
    }
    retried
}

/// What [`detach`] would do where the guest lets go. Everything that can be refused is.
pub(crate) fn plan(host: &Host, request: &Request) -> Result<Plan, Error> {
    if domain::find_frontend(host, &request.guest)?.is_none()
        && let Some(assignment) = find_gone(host, request)?
    {
        // The command would find that done by what it puts right first.
        return Ok(release::plan(host, &assignment, Rights::Uncertain)?.0);
    }
    let Found { leaked, mut used } = find(host, request)?;
    let retry = plan_retry(host, &leaked, request)?;
    if used.devices.is_empty() {
        return Ok(retry);
    }
    let ask = asking(host, &mut used, request)?;
    let (release, unknown) = release::plan(host, &used, rights(host, &used)?)?;
    match unknown.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(retry.then(ask).then(release)),
    }
}

/// The devices that were asked for.
struct Found {
    /// Those that were taken from the guest before.
    leaked: Assignment,
    /// Those that it uses.
    used: Assignment,
}

/// All devices of a guest that is gone, if those that were asked for are among them.
fn find_gone(host: &Host, request: &Request) -> Result<Option<Assignment>, Error> {
    let records = device_table::load(host)?;
    let record = |device: &Sbdf| records.iter().find(|record| record.device == *device);
    let Some(Record { device, stub, frontend: Some(guest), .. }) = request.devices.first().and_then(record).copied()
    else {
        return Ok(None);
    };
    // xenstore has forgotten its name with the domain; its backend's directory has not.
    let name = host.read(&path::child(&path::backend_dir(stub, guest), "domain"))?;
    let is_meant = guest.to_string() == request.guest || name.as_ref() == Some(&request.guest);
    let is_theirs = |record: &&Record| (record.stub, record.frontend) == (stub, Some(guest));
    let devices: Vec<Sbdf> = records.iter().filter(is_theirs).map(|record| record.device).collect();
    if !is_meant || !request.devices.iter().all(|device| devices.contains(device)) {
        return Ok(None);
    }
    Ok(Some(Assignment {
        stub_alive: is_in_pool(host, stub, device)?,
        stub: domain::named(host, stub)?,
        guest: DomainName { id: guest, name },
        guest_alive: false,
        target: device_table::target(host, device)?,
        devices,
        staying: Vec::new(),
        connection: Connection::Gone,
        stays_persistent: true,
    }))
}

fn find(host: &Host, request: &Request) -> Result<Found, Error> {
    let found = domain::find_frontend(host, &request.guest)?;
    let (guest, _) = found.ok_or_else(|| Error::NoSuchGuest(request.guest.clone()))?;
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
    let (stub, stub_alive) = (domain::named(host, first.stub)?, is_in_pool(host, first.stub, first.device)?);
    if stub_alive && !request.force {
        versions::check_stub(host, &stub)?;
    }
    let target = device_table::target(host, first.device)?;
    let assignment = |is_wanted: fn(&&Record) -> bool| {
        let devices: Vec<Sbdf> = named.iter().filter(is_wanted).map(|record| record.device).collect();
        Assignment {
            stub: stub.clone(),
            stub_alive,
            guest: guest.clone(),
            guest_alive: true,
            target: target.clone(),
            staying: device_table::others(&records, guest.id, &devices),
            devices,
            connection: Connection::Stays,
            stays_persistent: false,
        }
    };
    Ok(Found {
        leaked: assignment(|record| record.phase == Phase::Leaked),
        used: assignment(|record| record.phase != Phase::Leaked),
    })
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
    let asking = asking(host, &mut assignment, request)?;
    let ask = || executor::execute(host, &asking);
    if assignment.stub_alive {
        ask()?;
    } else {
        host.without_stopping(ask)?;
    }
    // The guest does not use them any more, and nobody could give them back to it: from here on it goes on to the end.
    host.without_stopping(|| {
        release::look_who_is_there(host, &mut assignment)?;
        release::take_back(host, &assignment, rights(host, &assignment)?)
    })
}

/// What has the guest let go, or what is noted where nobody can ask it; and what becomes of its connection afterwards.
fn asking(host: &Host, assignment: &mut Assignment, request: &Request) -> Result<Plan, Error> {
    let is_last = assignment.staying.is_empty();
    match directories::check_frontend(host, assignment.stub.id, &assignment.guest) {
        Err(error @ Error::FrontendReplaced { .. }) if request.force => {
            // Nobody can ask it.
            host.note(&error.to_string());
            assignment.connection = if is_last { Connection::Gone } else { Connection::Stays };
            let steps = vec![Step::RecordDetaching { devices: assignment.devices.clone() }];
            return Ok(Plan { steps, on_failure: OnFailure::LeaveToNext });
        }
        checked => checked?,
    }
    assignment.connection = match is_last {
        false => Connection::Stays,
        true if assignment.stub_alive => Connection::Ends { by_force: request.force },
        true => Connection::Gone,
    };
    Ok(plan::release::ask(assignment, request.timeout, request.force))
}

/// `xl pci-detach -f` takes the DMA of a device of ours from the guest, and its guard with it.
fn rights(host: &Host, assignment: &Assignment) -> Result<Rights, Error> {
    host.looking_ahead(assignment.devices.iter().map(|device| guard::mended_node(*device)), || {
        for device in assignment.devices.iter().copied() {
            if guard::mended(host, device)? > 0 {
                return Ok(Rights::Uncertain);
            }
        }
        Ok(Rights::Complete)
    })
}

/// Devices that were taken from the guest before: does it still have something of them?
fn retry(host: &Host, assignment: &Assignment, request: &Request) -> Result<(), Error> {
    executor::run(host, |executor| {
        executor.carry_out(&plan_retry(host, assignment, request)?)?;
        executor.verdict(&assignment.guest)
    })
}

fn plan_retry(host: &Host, assignment: &Assignment, request: &Request) -> Result<Plan, Error> {
    let mut known = Known::default();
    for device in assignment.devices.iter().copied() {
        let resources = DeviceResources::find(host, assignment.stub.id, device)?;
        let known = if host.sysfs.exists(device) { &mut known.present } else { &mut known.removed };
        known.push(resources);
    }
    let looked = if request.force { Looked::Away } else { release::looked(host) };
    let patience = (!request.force).then(|| request.timeout.min(STUB_PATIENCE));
    Ok(plan::release::retry(assignment, &known, looked, patience))
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
