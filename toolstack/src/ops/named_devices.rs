//! Resolves device names given by the user to devices of this host.

use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::ops::parking;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table;
use crate::records::device_words::{DeviceRequest, Place};
use crate::records::guard;

fn named(host: &Host, place: &Place) -> Result<Vec<Sbdf>, Error> {
    match place {
        Place::Function(device) => Ok(vec![*device]),
        Place::Slot(slot) => {
            let all = host.sysfs.devices()?;
            let functions: Vec<_> = all.into_iter().filter(|device| device.same_slot(*slot)).collect();
            if functions.is_empty() { Err(Error::NoSuchDevice(*slot)) } else { Ok(functions) }
        }
        Place::Named(name) => Ok(vec![find_named(host, name)?]),
    }
}

/// The device that `xl` knows by this name.
fn find_named(host: &Host, name: &str) -> Result<Sbdf, Error> {
    with_name(host, name)?.ok_or_else(|| Error::NoSuchName(name.to_owned()))
}

/// As [`find_named`]; `None` where the name is free.
pub(crate) fn with_name(host: &Host, name: &str) -> Result<Option<Sbdf>, Error> {
    let components = host.list(path::LIBXL_PCI)?;
    let devices: Vec<Sbdf> = components.iter().filter_map(|name| Sbdf::parse_path_component(name).ok()).collect();
    let names = host.read_all(&devices.iter().map(|device| parking::name_node(*device)).collect::<Vec<_>>())?;
    let found = devices.into_iter().zip(names).find(|(_, other)| other.as_deref() == Some(name));
    Ok(found.map(|(device, _)| device))
}

/// The devices to make assignable, in the order in which they were named.
pub(crate) fn to_add(host: &Host, places: &[Place]) -> Result<Vec<Sbdf>, Error> {
    let mut devices = Vec::new();
    for place in places {
        devices.extend(named(host, place)?);
    }
    Ok(distinct(&devices))
}

/// The devices that shall be assignable no more. Of a slot only those that are.
pub(crate) fn to_remove(host: &Host, places: &[Place]) -> Result<Vec<Sbdf>, Error> {
    let mut devices = Vec::new();
    for place in places {
        let mut found = named(host, place)?;
        if let (Place::Slot(_), [first, ..]) = (place, found.clone().as_slice()) {
            let mut assignable = Vec::new();
            for device in found {
                if guard::is_parked(host, device) || device_table::load_one(host, device)?.is_some() {
                    assignable.push(device);
                }
            }
            // Then it is told what is wrong with one.
            found = if assignable.is_empty() { vec![*first] } else { assignable };
        }
        devices.extend(found);
    }
    Ok(distinct(&devices))
}

/// The devices to attach, in the order in which they were named.
pub(crate) fn to_attach(host: &Host, requests: &[DeviceRequest]) -> Result<Vec<DeviceSpec>, Error> {
    let mut specs = Vec::new();
    for request in requests {
        specs.extend(named(host, &request.place)?.into_iter().map(|device| request.with(device)));
    }
    Ok(specs)
}

/// The devices to take from `guest`. Of a slot only those that it has.
pub(crate) fn to_detach(host: &Host, requests: &[DeviceRequest], guest: &str) -> Result<Vec<Sbdf>, Error> {
    // One that is gone has given its devices back, or is about to; then whoever has them is it.
    let guest = domain::find_frontend(host, guest)?.map(|(guest, _)| guest.id);
    let theirs = |frontend: DomId| guest.is_none_or(|guest| guest == frontend);
    let mut devices = Vec::new();
    for request in requests {
        let Place::Slot(slot) = request.place else {
            devices.extend(named(host, &request.place)?);
            continue;
        };
        let records = device_table::load(host)?;
        let assigned = records.iter().filter(|record| record.frontend.is_some_and(theirs)).map(|record| record.device);
        let before = devices.len();
        devices.extend(assigned.filter(|device| device.same_slot(slot)));
        if devices.len() == before {
            devices.push(slot);
        }
    }
    Ok(distinct(&devices))
}

/// The same devices, those only once that were named more often, in the order in which they were named.
pub(crate) fn distinct(devices: &[Sbdf]) -> Vec<Sbdf> {
    let mut distinct = Vec::new();
    for device in devices {
        if !distinct.contains(device) {
            distinct.push(*device);
        }
    }
    distinct
}
