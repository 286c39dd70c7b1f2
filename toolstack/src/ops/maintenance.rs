//! Taking all devices from guests and giving them back: `detach --all --plan FILE`, and `attach --plan FILE` when the host, or the driver domain, is as it
//! should be again. The file has for each guest what `attach` was told.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use xen_types::{DomId, Sbdf};
use xenstore::path::{self, key};

use crate::error::{DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Keep, Phase, Record};
use crate::records::export::{Export, ExportMode};

/// Version of the file; grows when a field changes its meaning or goes away.
const VERSION: u32 = 1;

/// What guests had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedPlan {
    version: u32,
    pub(crate) guests: Vec<SavedGuest>,
}

/// Devices of one guest that it got in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedGuest {
    /// Its name, or its number where it has none.
    guest: String,
    /// By which it is known again after a reboot.
    uuid: Option<String>,
    /// The backend by its name.
    pub(crate) backend: String,
    /// The mode that was chosen for it.
    export: Option<String>,
    pub(crate) persistent: bool,
    /// In the words of `attach`.
    devices: Vec<String>,
}

/// A guest that has devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) guest: DomId,
    pub(crate) devices: Vec<Sbdf>,
}

/// The guests that have devices of backends, or this one, each with its devices.
pub(crate) fn holders(host: &Host, guest: Option<&str>) -> Result<Vec<Holder>, Error> {
    let mut holders: Vec<Holder> = Vec::new();
    for record in used(host, guest)? {
        let Some(guest) = record.frontend else { continue };
        match holders.iter_mut().find(|holder| holder.guest == guest) {
            Some(holder) => holder.devices.push(record.device),
            None => holders.push(Holder { guest, devices: vec![record.device] }),
        }
    }
    Ok(holders)
}

/// Devices that a living guest uses. What was taken from one and is still held is not to be given to it again.
fn used(host: &Host, guest: Option<&str>) -> Result<Vec<Record>, Error> {
    let wanted = match guest {
        Some(name) => Some(domain::find_frontend(host, name)?.ok_or_else(|| Error::NoSuchGuest(name.to_owned()))?.0.id),
        None => None,
    };
    let mut used = Vec::new();
    for record in device_table::load(host)? {
        let Some(guest) = record.frontend else { continue };
        let is_wanted = record.phase != Phase::Leaked && wanted.is_none_or(|wanted| wanted == guest);
        if is_wanted && domain::is_alive(host, guest)? {
            used.push(record);
        }
    }
    Ok(used)
}

impl SavedPlan {
    /// What these guests have now, to be given to them again.
    pub(crate) fn of(host: &Host, guest: Option<&str>) -> Result<Self, Error> {
        let mut guests: Vec<SavedGuest> = Vec::new();
        for record in used(host, guest)? {
            let Some(guest) = record.frontend else { continue };
            let name = domain::named(host, guest)?;
            let keep = Keep::load(host, record.device)?;
            let spec = match &keep {
                Some(keep) => keep.spec.clone(),
                None => spec(host, record.stub, guest, record.device)?,
            };
            let export = Export::find(host, record.stub, &name, true, None)?;
            let stub = domain::named(host, record.stub)?;
            // Its stub domain is another one each time.
            let name = device_table::target(host, record.device)?.map_or(name, |target| target.guest);
            let entry = SavedGuest {
                uuid: domain::uuid(host, name.id)?,
                guest: called(name),
                backend: called(stub),
                export: export.is_chosen.then_some(export.mode),
                persistent: keep.is_some(),
                devices: vec![spec.to_string()],
            };
            let is_alike = |other: &&mut SavedGuest| {
                (&other.guest, &other.uuid, other.persistent) == (&entry.guest, &entry.uuid, entry.persistent)
            };
            match guests.iter_mut().find(is_alike) {
                Some(other) => other.devices.extend(entry.devices),
                None => guests.push(entry),
            }
        }
        Ok(Self { version: VERSION, guests })
    }

    /// Writes it. A file that is there may be all that is known of devices that are still to come back: it stays.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n"; // strings and numbers: nothing that could fail
        let written = OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        Ok(written.map_err(|source| HostError::File { path: path.to_owned(), source })?)
    }

    /// Reads it.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| HostError::File { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|what| Error::Config { place: path.display().to_string(), what })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let plan: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if plan.version != VERSION {
            return Err(format!("it is a plan of version {}, and this command reads {VERSION}", plan.version));
        }
        for guest in &plan.guests {
            guest.specs()?;
            guest.mode()?;
        }
        Ok(plan)
    }
}

impl SavedGuest {
    /// The guest as it is now: the one of this UUID, or else of this name, since a guest whose configuration has no `uuid=` gets another one each time
    /// that it is created. A number is no name: another guest may have it now.
    pub(crate) fn find(&self, host: &Host) -> Result<DomainName, Error> {
        let by_uuid = self.uuid.as_ref().map(|uuid| domain::with_uuid(host, uuid)).transpose()?.flatten();
        let is_name = self.uuid.is_none() || self.guest.parse::<u16>().is_err();
        let found = match by_uuid {
            None if is_name => domain::find(host, &self.guest)?.map(|(guest, _)| guest),
            found => found,
        };
        found.ok_or_else(|| Error::NoSuchGuest(self.guest.clone()))
    }

    /// The devices that it does not have (again).
    pub(crate) fn missing(&self, host: &Host, guest: DomId) -> Result<Vec<DeviceSpec>, Error> {
        let frontend = domain::stub_domain(host, guest)?.map_or(guest, |stub_domain| stub_domain.id);
        let mut missing = Vec::new();
        for spec in self.specs().map_err(Error::Usage)? {
            let owner = device_table::load_one(host, spec.device)?.and_then(|record| record.frontend);
            if owner != Some(frontend) {
                missing.push(spec);
            }
        }
        Ok(missing)
    }

    /// The mode that was chosen for it.
    pub(crate) fn mode(&self) -> Result<Option<ExportMode>, String> {
        let parse = |name: &String| name.parse().map_err(|_| format!("{name:?} is no mode"));
        self.export.as_ref().map(parse).transpose()
    }

    fn specs(&self) -> Result<Vec<DeviceSpec>, String> {
        let parse = |text: &String| text.parse().map_err(|error| format!("{text:?}: {error}"));
        self.devices.iter().map(parse).collect()
    }
}

fn called(domain: DomainName) -> String {
    domain.name.unwrap_or_else(|| domain.id.to_string())
}

/// What the backend's directory and the device table have of a device that follows nobody.
fn spec(host: &Host, stub: DomId, guest: DomId, device: Sbdf) -> Result<DeviceSpec, Error> {
    let backend = path::backend_dir(stub, guest);
    let read = |name: String| host.read(&path::child(&backend, &name));
    let mut spec = DeviceSpec::plain(device);
    let count: u32 = read(key::NUM_DEVS.to_owned())?.and_then(|text| text.parse().ok()).unwrap_or(0);
    for index in 0..count {
        if read(key::dev(index))?.and_then(|text| text.parse::<Sbdf>().ok()) != Some(device) {
            continue;
        }
        let place = path::child(&backend, &key::opts(index));
        let value = format!("{device},{}", host.read(&place)?.unwrap_or_default());
        spec = value.parse().map_err(|_| HostError::Nonsense { place, value })?;
        let devfn = read(key::vdevfn(index))?.and_then(|text| u8::from_str_radix(&text, 16).ok());
        spec.vslot = devfn.map(|devfn| devfn >> 3);
    }
    spec.policy = device_table::policy(host, device)?.unwrap_or(spec.policy);
    spec.policy.interrupt_control = false; // as its guest needs it
    Ok(spec)
}
