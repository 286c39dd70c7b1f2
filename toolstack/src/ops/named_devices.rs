//! Resolves device names given by the user to devices of this host.

use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table;
use crate::records::device_words::{DeviceRequest, Place};

fn named(host: &Host, request: &DeviceRequest) -> Result<Vec<Sbdf>, Error> {
    match &request.place {
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
    for component in host.list(path::LIBXL_PCI)? {
        if let Ok(device) = Sbdf::parse_path_component(&component)
            && host.read(&path::child(&path::libxl_pci_dir(device), "name"))?.as_deref() == Some(name)
        {
            return Ok(device);
        }
    }
    Err(Error::NoSuchName(name.to_owned()))
}

/// The devices to attach, in the order in which they were named.
pub(crate) fn to_attach(host: &Host, requests: &[DeviceRequest]) -> Result<Vec<DeviceSpec>, Error> {
    let mut specs = Vec::new();
    for request in requests {
        specs.extend(named(host, request)?.into_iter().map(|device| request.with(device)));
    }
    Ok(specs)
}

/// The devices to take from `guest`. Of a slot only those that it has.
pub(crate) fn to_detach(host: &Host, requests: &[DeviceRequest], guest: &str) -> Result<Vec<Sbdf>, Error> {
    // One that is gone has given its devices back, or is about to; then whoever has them is it.
    let guest = domain::find(host, guest)?.map(|(guest, _)| guest.id);
    let theirs = |frontend: DomId| guest.is_none_or(|guest| guest == frontend);
    let mut devices = Vec::new();
    for request in requests {
        let Place::Slot(slot) = request.place else {
            devices.extend(named(host, request)?);
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
