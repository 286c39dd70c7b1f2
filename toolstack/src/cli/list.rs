//! `pcidom list` and `pcidom assignable list`: devices, who has them, and their states. They change nothing.

use pcidom_abi::{DeviceNode, paths};
use pcidom_broker::due::is_in_pool;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use xen_types::{DomId, Sbdf};
use xenstore::XenbusState;
use xenstore::path::{self, key};

use crate::cli::columns::columns;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::parking;
use crate::ops::pool::{self, PoolState};
use crate::records::device_table::{self, Record};
use crate::records::directories::{self, end_state};
use crate::records::guard;
use crate::sysfs::{ErrorCounters, PCIBACK};
use pcidom_broker::guard::{Guard, is_taken, look};

/// Version of the JSON form; grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// A domain in the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DomainEntry {
    pub(crate) id: u16,
    pub(crate) name: Option<String>,
}

impl std::fmt::Display for DomainEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

impl From<DomainName> for DomainEntry {
    fn from(domain: DomainName) -> Self {
        Self { id: domain.id.0, name: domain.name }
    }
}

/// One device. The order of the fields is the one of the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceEntry {
    device: String,
    /// Where the guest sees it; none before it is exported.
    vdev: Option<String>,
    guest: Option<DomainEntry>,
    backend_state: Option<&'static str>,
    frontend_state: Option<&'static str>,
    stub: Option<DomainEntry>,
    /// The tool's word: `parked`, `pool`, `attaching`, `attached`, `detaching`, `leaked`.
    phase: &'static str,
    /// The stub's word: `free`, `assigned 5`, …
    pool: Option<String>,
    /// What is wrong: `stub gone`, `guest gone`, `isolated`, `device gone`, `taken by xl`, `frontend replaced`, `not parked`.
    problem: Option<&'static str>,
    /// Leaked mappings that keep it from others: `web (domain 5): 3 mappings of 0xfea00000`.
    leaked: Option<String>,
    /// The id of the guest that it follows.
    persistent: Option<String>,
    /// Its guest's policy, in the keys of `attach`.
    policy: Option<String>,
    /// The device that it is a virtual function of.
    physical_function: Option<String>,
    /// The name under which it was made assignable.
    name: Option<String>,
    /// Problems of the guard that keeps xl off it: `missing`, `names 6`, `mended 2`.
    guard: Option<String>,
    /// What became of the reset of a free device: `done flr`, `no-method`, `failed`, `lost`.
    reset: Option<String>,
    /// Errors that it has reported to dom0's kernel; none where it reports no errors.
    errors: Option<ErrorCounters>,
    /// Why it is isolated from its guest, after an error.
    isolated: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    devices: &'a [DeviceEntry],
}

/// The devices that stubs hold; with `guest` only that guest's.
pub(crate) fn devices(host: &Host, guest: Option<&str>) -> Result<Vec<DeviceEntry>, Error> {
    host.at_one_moment(|| {
        let guest = match guest {
            None => None,
            Some(wanted) => {
                Some(domain::find_frontend(host, wanted)?.ok_or_else(|| Error::NoSuchGuest(wanted.to_owned()))?.0)
            }
        };
        let mut records = device_table::load(host)?;
        records.retain(|record| guest.as_ref().is_none_or(|guest| record.frontend == Some(guest.id)));
        look_ahead(host, &records)?;
        records.iter().map(|record| entry(host, record)).collect()
    })
}

/// Asks for what [`entry`] wants to know of these devices, of all of them together: there it is known then.
fn look_ahead(host: &Host, records: &[Record]) -> Result<(), Error> {
    let mut nodes = Vec::new();
    let (mut domains, mut connections) = (BTreeSet::new(), BTreeSet::new());
    for Record { device, stub, frontend, .. } in records.iter().copied() {
        nodes.extend(
            [DeviceNode::Leaked, DeviceNode::Persistent, DeviceNode::Policy, DeviceNode::Reset, DeviceNode::Isolated]
                .map(|node| node.of(device)),
        );
        nodes.extend([guard::node(device), guard::mended_node(device), parking::name_node(device)]);
        nodes.extend([paths::pool_dir(stub, device), paths::pool_state_node(stub, device)]);
        domains.extend([Some(stub), frontend].into_iter().flatten());
        connections.extend(frontend.map(|guest| (stub, guest)));
    }
    nodes.extend(domains.into_iter().map(|id| path::child(&path::domain_path(id), "name")));
    for (stub, guest) in connections.iter().copied() {
        let in_backend = [key::STATE, key::NUM_DEVS].map(|name| path::child(&path::backend_dir(stub, guest), name));
        let in_frontend = [key::STATE, key::BACKEND].map(|name| path::child(&path::frontend_dir(guest), name));
        nodes.extend(in_backend.into_iter().chain(in_frontend));
    }
    host.read_all(&nodes)?;
    let mut entries = Vec::new();
    for (stub, guest) in connections {
        let backend = path::backend_dir(stub, guest);
        for index in 0..count(host, &backend)? {
            entries.extend([key::dev(index), key::vdev(index)].map(|name| path::child(&backend, &name)));
        }
    }
    host.read_all(&entries)?;
    Ok(())
}

/// Number of entries in a backend directory.
fn count(host: &Host, backend: &str) -> Result<u32, Error> {
    Ok(host.read(&path::child(backend, key::NUM_DEVS))?.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The devices that may be given to guests: parked with xen-pciback, or with a stub and free.
pub(crate) fn assignable(host: &Host) -> Result<Vec<DeviceEntry>, Error> {
    for name in host.sysfs.unnameable()? {
        host.note(&format!(
            "{name} is left out: Xen knows segments up to ffff (it may be behind a Volume Management Device)"
        ));
    }
    host.at_one_moment(|| {
        let records: BTreeMap<Sbdf, Record> =
            device_table::load(host)?.into_iter().map(|record| (record.device, record)).collect();
        let free: Vec<Record> = records.values().filter(|record| record.frontend.is_none()).copied().collect();
        look_ahead(host, &free)?;
        let mut entries = Vec::new();
        for device in host.sysfs.devices()? {
            match records.get(&device) {
                Some(record) if record.frontend.is_none() => entries.push(entry(host, record)?),
                Some(_) => {}
                None => {
                    let parked = host.sysfs.driver(device).as_deref() == Some(PCIBACK);
                    if parked && device_table::libxl_owner(host, device)?.is_none() {
                        entries.push(parked_entry(host, device)?);
                    }
                }
            }
        }
        Ok(entries)
    })
}

fn parked_entry(host: &Host, device: Sbdf) -> Result<DeviceEntry, Error> {
    Ok(DeviceEntry {
        device: device.to_string(),
        vdev: None,
        guest: None,
        backend_state: None,
        frontend_state: None,
        stub: None,
        phase: "parked",
        pool: None,
        problem: None,
        leaked: None,
        persistent: None,
        policy: None,
        physical_function: host.sysfs.physical_function(device).map(|physical| physical.to_string()),
        name: host.read(&parking::name_node(device))?,
        guard: None,
        reset: None,
        errors: host.sysfs.error_counters(device),
        isolated: None,
    })
}

fn entry(host: &Host, record: &Record) -> Result<DeviceEntry, Error> {
    let of_the_tool = |node: DeviceNode| host.read(&node.of(record.device));
    let guard = look(host, std::slice::from_ref(record))?.pop().unwrap_or(Guard::Sound);
    let mut entry = DeviceEntry {
        stub: Some(domain::named(host, record.stub)?.into()),
        phase: record.phase.name(),
        pool: host.read(&paths::pool_state_node(record.stub, record.device))?,
        problem: problem(host, record, guard)?,
        leaked: of_the_tool(DeviceNode::Leaked)?,
        persistent: of_the_tool(DeviceNode::Persistent)?,
        policy: device_table::policy(host, record.device)?.map(|policy| policy.to_string()),
        guard: guard_word(host, record, guard)?,
        reset: of_the_tool(DeviceNode::Reset)?,
        isolated: of_the_tool(DeviceNode::Isolated)?,
        ..parked_entry(host, record.device)?
    };
    let Some(guest) = record.frontend else {
        return Ok(entry);
    };
    let backend = path::backend_dir(record.stub, guest);
    let mut name = domain::named(host, guest)?;
    if name.name.is_none() {
        name.name = host.read(&path::child(&backend, "domain"))?;
    }
    entry.guest = Some(name.into());
    entry.vdev = vdev(host, record.stub, guest, record.device)?;
    entry.backend_state = state(host, &backend)?;
    if directories::replaced(host, record.stub, guest)?.is_none() {
        entry.frontend_state = state(host, &path::frontend_dir(guest))?;
    }
    Ok(entry)
}

fn guard_word(host: &Host, record: &Record, guard: Guard) -> Result<Option<String>, Error> {
    Ok(match guard {
        Guard::Missing => Some("missing".to_owned()),
        Guard::Names(owner) => Some(format!("names {owner}")),
        Guard::Sound => match guard::mended(host, record.device)? {
            0 => None,
            times => Some(format!("mended {times}")),
        },
    })
}

fn problem(host: &Host, record: &Record, guard: Guard) -> Result<Option<&'static str>, Error> {
    if !is_in_pool(host, record.stub, record.device)? {
        return Ok(Some("stub gone"));
    }
    if let Some(guest) = record.frontend
        && !domain::is_alive(host, guest)?
    {
        return Ok(Some("guest gone"));
    }
    if host.exists(&DeviceNode::Isolated.of(record.device))? {
        return Ok(Some("isolated"));
    }
    let is_gone = !host.sysfs.exists(record.device)
        || matches!(pool::state(host, record.stub, record.device)?, PoolState::Absent(_));
    if is_gone {
        return Ok(Some("device gone"));
    }
    if is_taken(host, record, guard)? {
        return Ok(Some("taken by xl"));
    }
    if let Some(guest) = record.frontend
        && directories::replaced(host, record.stub, guest)?.is_some()
    {
        return Ok(Some("frontend replaced"));
    }
    Ok((!guard::is_parked(host, record.device)).then_some("not parked"))
}

fn state(host: &Host, dir: &str) -> Result<Option<&'static str>, Error> {
    Ok(match end_state(host, dir)? {
        XenbusState::Unknown => None,
        state => Some(state.name()),
    })
}

/// The address that the stub wrote down for the device, in the usual form.
pub(crate) fn vdev(host: &Host, stub: DomId, guest: DomId, device: Sbdf) -> Result<Option<String>, Error> {
    let backend = path::backend_dir(stub, guest);
    let in_backend = |name: String| host.read(&path::child(&backend, &name));
    for index in 0..count(host, &backend)? {
        if in_backend(key::dev(index))?.is_some_and(|text| text.parse() == Ok(device)) {
            let text = in_backend(key::vdev(index))?.unwrap_or_default();
            return Ok(text.parse::<Sbdf>().ok().map(|vdev| vdev.to_string()));
        }
    }
    Ok(None)
}

/// The JSON form.
pub(crate) fn json(devices: &[DeviceEntry]) -> String {
    // Strings, numbers and nothing that could fail.
    serde_json::to_string_pretty(&Document { version: JSON_VERSION, devices }).unwrap_or_default()
}

/// A table for people.
pub(crate) fn table(devices: &[DeviceEntry]) -> String {
    let header = ["DEVICE", "VDEV", "GUEST", "BACKEND", "FRONTEND", "STUB", "PHASE", "NOTE"];
    columns(header, &devices.iter().map(row).collect::<Vec<_>>())
}

/// The same with the names of devices, as `xl pci-assignable-list -n` shows them.
pub(crate) fn table_with_names(devices: &[DeviceEntry]) -> String {
    let header = ["DEVICE", "NAME", "STUB", "PHASE", "NOTE"];
    let named = |entry: &DeviceEntry| {
        let [device, _, _, _, _, stub, phase, note] = row(entry);
        [device, entry.name.clone().unwrap_or_else(|| "-".to_owned()), stub, phase, note]
    };
    columns(header, &devices.iter().map(named).collect::<Vec<_>>())
}

/// The last column: what is wrong, or else what the backend says; and what is special about the device.
fn note(entry: &DeviceEntry) -> String {
    let problem = match (&entry.isolated, entry.problem) {
        (Some(why), Some("isolated")) => Some(format!("isolated: {why}")),
        (_, problem) => problem.map(str::to_owned),
    };
    let leaked = entry.leaked.as_ref().map(|what| format!("still with {what}"));
    let word = problem.or(leaked).or_else(|| entry.pool.clone());
    let physical = entry.physical_function.as_ref().map(|physical| format!("virtual function of {physical}"));
    let guard = entry.guard.as_ref().map(|guard| format!("guard {guard}"));
    let errors = entry.errors.as_ref().filter(|errors| !errors.is_clean()).map(|errors| format!("errors: {errors}"));
    let reset = entry.reset.as_deref().and_then(reset_words);
    word.into_iter()
        .chain(entry.policy.clone())
        .chain(physical)
        .chain(guard)
        .chain(reset)
        .chain(errors)
        .collect::<Vec<_>>()
        .join(", ")
}

/// What became of a reset, for people; nothing where it is not known how the device was reset.
fn reset_words(note: &str) -> Option<String> {
    Some(match note {
        DeviceNode::RESET_NO_METHOD => "cannot be reset".to_owned(),
        DeviceNode::RESET_FAILED => "its reset failed".to_owned(),
        DeviceNode::RESET_LOST => "lost by its reset".to_owned(),
        done => {
            let methods = done.strip_prefix(DeviceNode::RESET_DONE)?.trim();
            if methods.is_empty() {
                return None;
            }
            // Of several it was one.
            format!("reset by {}", methods.replace(',', " or "))
        }
    })
}

fn row(entry: &DeviceEntry) -> [String; 8] {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let domain = |domain: &Option<DomainEntry>| match domain {
        Some(DomainEntry { id, name: Some(name) }) => format!("{name} ({id})"),
        Some(DomainEntry { id, name: None }) => format!("{}", DomId(*id)),
        None => "-".to_owned(),
    };
    [
        entry.device.clone(),
        or_dash(entry.vdev.as_deref()),
        domain(&entry.guest),
        or_dash(entry.backend_state),
        or_dash(entry.frontend_state),
        domain(&entry.stub),
        entry.phase.to_owned(),
        note(entry),
    ]
}
