//! Devices that go where they were told to be, when what was there has come again: those of a stub that was started anew go into
//! its pool, and those that follow a guest (`attach --keep`) go to the guest.
//!
//! A stub is known again by its name, a guest by its UUID, which `xl reboot` keeps. Nothing here waits for a guest.

use xen_types::{DomId, Sbdf};

use crate::create::unfinished;
use crate::error::{DomainName, Error, StateName, list};
use crate::host::Host;
use crate::host::domain;
use crate::ops::assignable;
use crate::ops::attach::{self, Following, Until};
use crate::ops::close;
use crate::ops::executor;
use crate::ops::host_facts::HostFacts;
use crate::ops::plan;
use crate::ops::pool::{self, STUB_PATIENCE};
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Keep, Phase, Record, UnassignedEntry};
use crate::records::directories::end_state;
use crate::records::export::ExportMode;
use crate::sysfs::PCIBACK;
use xenstore::{XenbusState, path};

/// Brings devices where they belong. What does not work is noted, and tried again by the next command.
pub(crate) fn follow(host: &Host, records: &[Record], remembered: &[UnassignedEntry]) -> Result<(), Error> {
    let strays = strays(host, remembered)?;
    let has_strays = !strays.is_empty();
    for (device, stub) in strays {
        host.safe_point()?;
        let to_pool = || {
            let facts = HostFacts::gather(host, device)?;
            pool::check_room(host, &stub, 1)?;
            executor::execute(host, &plan::pool::to_pool(&facts, &stub))
        };
        match to_pool() {
            Ok(()) => host.note(&format!("{device} is in the pool of {stub} again")),
            Err(error) => host.note(&format!("{device} is not in the pool of {stub} again: {error}")),
        }
    }
    let now = if has_strays { device_table::load(host)? } else { records.to_vec() };
    for Followers { guest, stub, specs, export } in followers(host, &now)? {
        if host.is_others(guest.id)? {
            continue;
        }
        let together = bring(host, &guest, stub, &specs, export);
        host.safe_point()?; // what stopped it
        let devices: Vec<Sbdf> = specs.iter().map(|spec| spec.device).collect();
        if let Err(Error::GuestSilent { .. }) = together {
            // It would not answer about each of them either.
            host.commit(&device_table::note_silence(&devices, &silence(host, &guest)?))?;
            told(host, &guest, &devices, together);
            continue;
        }
        // One that cannot come does not keep the others.
        if together.is_err() && specs.len() > 1 {
            for spec in specs {
                told(host, &guest, &[spec.device], bring(host, &guest, stub, std::slice::from_ref(&spec), export));
            }
        } else {
            told(host, &guest, &devices, together);
        }
    }
    Ok(())
}

/// Whether there is anything to do for [`follow`], or for [`crate::ops::recover`] because of it.
pub(crate) fn is_due(host: &Host, records: &[Record], remembered: &[UnassignedEntry]) -> Result<bool, Error> {
    if !strays(host, remembered)?.is_empty() || !followers(host, records)?.is_empty() {
        return Ok(true);
    }
    for (record, in_pool) in records.iter().zip(pool::are_in_pools(host, records)?) {
        if !in_pool {
            match record.frontend {
                None => return Ok(true),
                Some(guest) if domain::is_alive(host, guest)? && is_over(host, record.stub, guest, records)? => {
                    return Ok(true);
                }
                Some(_) => {}
            }
        }
    }
    Ok(false)
}

/// Devices that no stub has, though the one that they are for is there.
fn strays(host: &Host, remembered: &[UnassignedEntry]) -> Result<Vec<(Sbdf, DomainName)>, Error> {
    let mut strays = Vec::new();
    for (device, backend) in remembered.iter().map(|(device, backend)| (*device, backend)) {
        let is_parked = host.sysfs.driver(device).as_deref() == Some(PCIBACK);
        if is_parked
            && device_table::libxl_owner(host, device)?.is_none()
            && let Some(stub) = assignable::ready_stub(host, backend)?
        {
            strays.push((device, stub));
        }
    }
    Ok(strays)
}

/// Devices in the pool of a stub that follow a guest which is there.
struct Followers {
    guest: DomainName,
    stub: DomId,
    specs: Vec<DeviceSpec>,
    export: Option<ExportMode>,
}

fn followers(host: &Host, records: &[Record]) -> Result<Vec<Followers>, Error> {
    let mut all: Vec<Followers> = Vec::new();
    let free: Vec<&Record> =
        records.iter().filter(|record| record.phase == Phase::Pool && record.frontend.is_none()).collect();
    let keeps = Keep::load_all(host, &free.iter().map(|record| record.device).collect::<Vec<_>>())?;
    for (record, keep) in free.into_iter().zip(keeps) {
        let Some(Keep { guest, spec, export }) = keep else { continue };
        let uuid = guest;
        let Some(guest) = domain::with_uuid(host, &uuid)? else { continue };
        if unfinished::is_noted(host, &uuid)? {
            continue; // it is just being made, and the command that does it gives it its devices
        }
        let Some(info) = domain::info(host, guest.id)? else { continue };
        if info.shutdown || !host.sysfs.exists(record.device) || !pool::is_in_pool(host, record.stub, record.device)? {
            continue;
        }
        // Who has no frontend at work need not answer. Of the others, one that stands still cannot, and one that did not is left alone
        // until it is another or its frontend has moved.
        let front = end_state(host, &path::frontend_dir(guest.id))?;
        let must_answer = !matches!(front, XenbusState::Unknown | XenbusState::Initialising | XenbusState::Closed);
        if must_answer && (info.paused || device_table::silence(host, record.device)? == Some(silence(host, &guest)?)) {
            continue;
        }
        match all.iter_mut().find(|group| (group.guest.id, group.stub) == (guest.id, record.stub)) {
            Some(group) => group.specs.push(spec),
            None => all.push(Followers { guest, stub: record.stub, specs: vec![spec], export }),
        }
    }
    Ok(all)
}

fn bring(
    host: &Host,
    guest: &DomainName,
    stub: DomId,
    specs: &[DeviceSpec],
    export: Option<ExportMode>,
) -> Result<(), Error> {
    let request = attach::Request {
        guest: guest.id.to_string(),
        backend: stub.to_string(),
        devices: specs.to_vec(),
        timeout: STUB_PATIENCE,
        export,
        following: Following::Already,
        until: Until::Exported,
    };
    attach::attach(host, &request).map(drop)
}

/// What is noted about a guest that did not answer: as long as it is so, it is not asked again.
fn silence(host: &Host, guest: &DomainName) -> Result<String, Error> {
    let front = end_state(host, &path::frontend_dir(guest.id))?;
    Ok(format!("{} {front}", guest.id))
}

fn told(host: &Host, guest: &DomainName, devices: &[Sbdf], outcome: Result<(), Error>) {
    let devices = list(devices);
    match outcome {
        Ok(()) => host.note(&format!("{devices} followed {guest}")),
        Err(error) => host.note(&format!("{devices} did not follow {guest}: {error}")),
    }
}

/// Whether a guest whose stub is gone has nothing more from its devices: it has closed its frontend, as an orderly stub asks for before
/// it goes, or another stub is there for devices that follow it.
pub(crate) fn is_over(host: &Host, stub: DomId, guest: DomId, records: &[Record]) -> Result<bool, Error> {
    let front = end_state(host, &path::frontend_dir(guest))?;
    if matches!(front, XenbusState::Unknown | XenbusState::Closed) {
        return Ok(true);
    }
    for record in records.iter().filter(|record| (record.stub, record.frontend) == (stub, Some(guest))) {
        if Keep::load(host, record.device)?.is_some()
            && let Some(backend) = device_table::backend(host, record.device)?
            && assignable::ready_stub(host, &backend)?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Has a guest whose stub is gone close its frontend, so that it takes to a new one.
pub(crate) fn leave(host: &Host, stub: DomId, guest: &DomainName) -> Result<(), Error> {
    if close::close_orphan(host, stub, guest, STUB_PATIENCE)? {
        return Ok(());
    }
    let frontend = end_state(host, &path::frontend_dir(guest.id))?;
    Err(Error::NotClosed { guest: guest.clone(), frontend: StateName(frontend) })
}
