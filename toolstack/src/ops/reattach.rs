//! Persistent assignment: devices of a stub that was restarted go back into its pool, and those with `attach --persistent`
//! back to their guest.
//!
//! A stub is known again by its name, a guest by its UUID, which `xl reboot` keeps. Nothing here waits for a guest.

use xen_types::{DomId, Sbdf};

use crate::error::{DomainName, Error, StateName, list};
use crate::host::Host;
use crate::ops::attach::{self, Following, Until};
use crate::ops::close;
use crate::ops::device_model;
use crate::ops::device_status::DeviceStatus;
use crate::ops::executor;
use crate::ops::plan;
use crate::ops::pool::{self, STUB_PATIENCE};
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Keep, Record, UnassignedEntry};
use crate::records::directories::end_state;
use crate::records::export::ExportMode;
use pcidom_broker::due;
use xenstore::path;

/// Brings devices where they belong. What does not work is noted, and tried again by the next command.
pub(crate) fn reattach_all(host: &Host, records: &[Record], remembered: &[UnassignedEntry]) -> Result<(), Error> {
    let strays = due::strays(host, remembered)?;
    let has_strays = !strays.is_empty();
    for (device, stub) in strays {
        host.safe_point()?;
        let to_pool = || {
            let status = DeviceStatus::gather(host, device)?;
            pool::check_room(host, &stub, 1)?;
            executor::execute(host, &plan::pool::to_pool(&status, &stub))
        };
        match to_pool() {
            Ok(()) => host.note(&format!("{device} is in the pool of {stub} again")),
            Err(error) => host.note(&format!("{device} is not in the pool of {stub} again: {error}")),
        }
    }
    let now = if has_strays { device_table::load(host)? } else { records.to_vec() };
    for Followers { guest, stub, specs, export } in followers(host, &now)? {
        // Who waits for an HVM guest has the lock of its stub domain.
        if host.is_others(device_model::frontend_of(host, guest.id)?)? {
            continue;
        }
        // It is tried again as long as there is something to bring.
        if !device_model::is_ready(host, guest.id)? {
            continue;
        }
        let together = bring(host, &guest, stub, &specs, export);
        host.safe_point()?; // what stopped it
        let devices: Vec<Sbdf> = specs.iter().map(|spec| spec.device).collect();
        if let Err(Error::GuestSilent { .. }) = together {
            // It would not answer about each of them either.
            host.commit(&device_table::note_silence(&devices, &due::silence(host, guest.id)?))?;
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

/// Devices in the pool of a stub that follow a guest which is there.
struct Followers {
    guest: DomainName,
    stub: DomId,
    specs: Vec<DeviceSpec>,
    export: Option<ExportMode>,
}

fn followers(host: &Host, records: &[Record]) -> Result<Vec<Followers>, Error> {
    let mut all: Vec<Followers> = Vec::new();
    let free = due::followers(host, records)?;
    let keeps = Keep::load_all(host, &free.iter().map(|(record, _)| record.device).collect::<Vec<_>>())?;
    for ((record, guest), keep) in free.into_iter().zip(keeps) {
        let Some(Keep { spec, export, .. }) = keep else { continue };
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

fn told(host: &Host, guest: &DomainName, devices: &[Sbdf], outcome: Result<(), Error>) {
    let devices = list(devices);
    match outcome {
        Ok(()) => host.note(&format!("{devices} followed {guest}")),
        Err(error) => host.note(&format!("{devices} did not follow {guest}: {error}")),
    }
}

/// Has a guest whose stub is gone close its frontend, so that it takes to a new one.
pub(crate) fn leave(host: &Host, stub: DomId, guest: &DomainName) -> Result<(), Error> {
    if close::close_orphan(host, stub, guest, STUB_PATIENCE)? {
        return Ok(());
    }
    let frontend = end_state(host, &path::frontend_dir(guest.id))?;
    Err(Error::NotClosed { guest: guest.clone(), frontend: StateName(frontend) })
}
