//! The device database: which stub holds a device, who has it, and what the next command must finish.
//!
//! It lives in xenstore under `/tool/pcidom`, where no guest may read or write (`docs/xenstore.md`). Beside it stands
//! libxl's own note of the guest that has a device, so that `xl` and `pcidom` respect each other.

use pci_config::Policy;
use pcidom_abi::DeviceNode;
use xen_types::{DomId, Sbdf};
use xenstore::path::key;
use xenstore::{Permission, path};

use crate::audit;
use crate::device::reset::Reset;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::records::device_spec::DeviceSpec;
use crate::records::export::ExportMode;
use crate::records::guard;
use crate::store::Change;

/// Phase of a device's way between pool and guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// With the stub, nobody's.
    Pool,
    /// On its way to a guest: a command is at work, or died at it.
    Attaching,
    /// A guest has it.
    Attached,
    /// On its way back.
    Detaching,
    /// Taken from a guest that still has something of it: nobody gets it (`in_use.rs`).
    Leaked,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Pool, Self::Attaching, Self::Attached, Self::Detaching, Self::Leaked];

    /// The word in the node.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Leaked => "leaked",
        }
    }
}

/// One device that a stub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) device: Sbdf,
    pub(crate) stub: DomId,
    pub(crate) frontend: Option<DomId>,
    pub(crate) phase: Phase,
}

/// A device that no stub has, and the name of the one that it is for.
pub(crate) type UnassignedEntry = (Sbdf, String);

/// Reads the whole table, in order of the devices.
pub(crate) fn load(host: &Host) -> Result<Vec<Record>, Error> {
    Ok(load_all(host)?.0)
}

/// The whole table, and the devices that are in nobody's pool.
pub(crate) fn load_all(host: &Host) -> Result<(Vec<Record>, Vec<UnassignedEntry>), Error> {
    let mut devices = Vec::new();
    for name in host.list(path::TOOL_DEVICES)? {
        let device = Sbdf::parse_path_component(&name)
            .map_err(|_| Error::Nonsense { place: path::TOOL_DEVICES.to_owned(), value: name })?;
        devices.push(device);
    }
    devices.sort_unstable();
    let nodes: Vec<String> = devices.iter().flat_map(|device| record_nodes(*device)).collect();
    let mut values = host.read_all(&nodes)?.into_iter();
    let (mut records, mut strays) = (Vec::new(), Vec::new());
    for device in devices {
        match parse_record(device, record_nodes(device), [(); 3].map(|()| values.next().flatten()))? {
            Some(record) => records.push(record),
            None => strays.push(device),
        }
    }
    let backends = host.read_all(&strays.iter().map(|device| backend_node(*device)).collect::<Vec<_>>())?;
    let remembered =
        strays.into_iter().zip(backends).filter_map(|(device, backend)| Some((device, backend?))).collect();
    Ok((records, remembered))
}

/// The devices that a guest uses, apart from some.
pub(crate) fn others(records: &[Record], guest: DomId, but: &[Sbdf]) -> Vec<Sbdf> {
    let uses = |record: &&Record| record.frontend == Some(guest) && record.phase != Phase::Leaked;
    records.iter().filter(uses).map(|record| record.device).filter(|device| !but.contains(device)).collect()
}

/// One device's record.
pub(crate) fn load_one(host: &Host, device: Sbdf) -> Result<Option<Record>, Error> {
    let nodes = record_nodes(device);
    let values = host.read_many(nodes.each_ref().map(String::as_str))?;
    parse_record(device, nodes, values)
}

/// The nodes that make a record.
pub(crate) fn record_nodes(device: Sbdf) -> [String; 3] {
    let dir = path::tool_device_dir(device);
    ["stub", "frontend", "phase"].map(|name| path::child(&dir, name))
}

/// The record in the values of these nodes.
pub(crate) fn parse_record(
    device: Sbdf,
    nodes: [String; 3],
    values: [Option<String>; 3],
) -> Result<Option<Record>, Error> {
    let ([stub_node, frontend_node, phase_node], [stub, frontend, phase]) = (nodes, values);
    let Some(stub) = stub.map(|stub| parse_id(&stub_node, stub)).transpose()? else {
        return Ok(None);
    };
    let phase = phase.unwrap_or_default();
    let phase = Phase::ALL
        .into_iter()
        .find(|known| known.name() == phase)
        .ok_or(Error::Nonsense { place: phase_node, value: phase })?;
    let frontend = frontend.map(|frontend| parse_id(&frontend_node, frontend)).transpose()?;
    Ok(Some(Record { device, stub, frontend, phase }))
}

/// Policy of the device's assignment; `None` for the default one.
pub(crate) fn policy(host: &Host, device: Sbdf) -> Result<Option<Policy>, Error> {
    parse_policy(device, host.read(&policy_node(device))?)
}

/// The policy in the value of [`policy_node`].
pub(crate) fn parse_policy(device: Sbdf, value: Option<String>) -> Result<Option<Policy>, Error> {
    let Some(value) = value else { return Ok(None) };
    value.parse().map(Some).map_err(|_| Error::Nonsense { place: policy_node(device), value })
}

pub(crate) fn policy_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), key::POLICY)
}

/// Notes it. [`unreserve`] forgets it.
pub(crate) fn set_policy(device: Sbdf, policy: &Policy) -> Change {
    Change::write(policy_node(device), policy)
}

/// Forgets what the guest may do with the device: the policy, and the broker's list that was made of it.
fn forget_policy(device: Sbdf) -> [Change; 2] {
    [policy_node(device), DeviceNode::PermittedWrites.of(device)].map(Change::remove)
}

/// The guest that xl (or this tool) says has the device.
pub(crate) fn libxl_owner(host: &Host, device: Sbdf) -> Result<Option<DomId>, Error> {
    read_id(host, &guard::node(device))
}

fn read_id(host: &Host, path: &str) -> Result<Option<DomId>, Error> {
    host.read(path)?.map(|value| parse_id(path, value)).transpose()
}

pub(crate) fn parse_id(path: &str, value: String) -> Result<DomId, Error> {
    match value.parse() {
        Ok(id) => Ok(DomId(id)),
        Err(_) => Err(Error::Nonsense { place: path.to_owned(), value }),
    }
}

/// Enters a device that the stub got, unless xl has it by now.
pub(crate) fn enter(device: Sbdf, stub: &DomainName) -> Vec<Change> {
    let mut changes = vec![guard::expect(device, Some(stub.id))];
    changes.extend(make_dir(device));
    changes.extend(guard::pass(device, stub.id, stub.id));
    changes.push(Change::write(path::child(&path::tool_device_dir(device), "stub"), stub.id));
    changes.extend(stub.name.as_ref().map(|name| Change::write(backend_node(device), name)));
    // Whatever was allowed to somebody who had it before.
    changes.extend(forget_policy(device));
    changes.push(set_phase(device, Phase::Pool));
    changes
}

fn make_dir(device: Sbdf) -> Vec<Change> {
    let dirs = ["/tool/pcidom".to_owned(), path::TOOL_DEVICES.to_owned(), path::tool_device_dir(device)];
    dirs.into_iter().flat_map(|dir| Change::directory(dir, &[Permission::none(DomId::DOM0)])).collect()
}

fn backend_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "backend")
}

/// Notes that a parked device is for the stub of this name, as soon as there is one.
pub(crate) fn remember(device: Sbdf, backend: &str) -> Vec<Change> {
    let mut changes = make_dir(device);
    changes.push(Change::write(backend_node(device), backend));
    changes
}

/// The name of the stub that a device is for.
pub(crate) fn backend(host: &Host, device: Sbdf) -> Result<Option<String>, Error> {
    host.read(&backend_node(device))
}

/// The stub is gone. What it was called stays, and which guest the device follows.
pub(crate) fn lose_stub(host: &Host, device: Sbdf) -> Result<Vec<Change>, Error> {
    if backend(host, device)?.is_none() {
        return forget(host, device);
    }
    let dir = path::tool_device_dir(device);
    let gone = ["stub", "frontend", "phase", "holds", "vectors", "intx", "mended"];
    let mut changes: Vec<Change> = gone.iter().map(|name| Change::remove(path::child(&dir, name))).collect();
    changes.extend(forget_policy(device));
    changes.push(audit::forget_pirqs(device));
    changes.extend(load_one(host, device)?.iter().flat_map(guard::lift));
    Ok(changes)
}

/// Which guest a device follows, by its id that outlives a reboot, and with which options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) guest: String,
    pub(crate) spec: DeviceSpec,
    /// The mode that was chosen for the guest.
    pub(crate) export: Option<ExportMode>,
}

impl Keep {
    pub(crate) fn load(host: &Host, device: Sbdf) -> Result<Option<Self>, Error> {
        Ok(Self::load_all(host, &[device])?.pop().flatten())
    }

    /// As [`Keep::load`] for several devices, in their order.
    pub(crate) fn load_all(host: &Host, devices: &[Sbdf]) -> Result<Vec<Option<Self>>, Error> {
        // Most devices follow nobody.
        let guests = host.read_all(&devices.iter().map(|device| keep_node(*device)).collect::<Vec<_>>())?;
        let following = devices.iter().zip(&guests).filter(|(_, guest)| guest.is_some());
        let nodes: Vec<String> = following.flat_map(|(device, _)| keep_nodes(*device).into_iter().skip(1)).collect();
        let mut values = host.read_all(&nodes)?.into_iter();
        let mut keep = |(device, guest): (&Sbdf, Option<String>)| match guest {
            Some(guest) => {
                let [spec, export] = [(); 2].map(|()| values.next().flatten());
                Self::parse(*device, [Some(guest), spec, export])
            }
            None => Ok(None),
        };
        devices.iter().zip(guests).map(&mut keep).collect()
    }

    fn parse(device: Sbdf, [guest, text, export]: [Option<String>; 3]) -> Result<Option<Self>, Error> {
        let [_, spec, _] = keep_nodes(device);
        let (Some(guest), Some(text)) = (guest, text) else { return Ok(None) };
        let export = export.and_then(|name| ExportMode::named(&name));
        match text.parse::<DeviceSpec>() {
            Ok(spec) if spec.device == device => Ok(Some(Self { guest, spec, export })),
            _ => Err(Error::Nonsense { place: spec, value: text }),
        }
    }

    pub(crate) fn store(&self) -> Vec<Change> {
        let [keep, spec, export] = keep_nodes(self.spec.device);
        let mut changes = vec![Change::write(keep, &self.guest), Change::write(spec, &self.spec)];
        changes.extend(self.export.map(|mode| Change::write(export, mode.name())));
        changes
    }
}

/// The one that is there if any is.
fn keep_node(device: Sbdf) -> String {
    let [keep, ..] = keep_nodes(device);
    keep
}

fn keep_nodes(device: Sbdf) -> [String; 3] {
    ["keep", "spec", "export"].map(|name| path::child(&path::tool_device_dir(device), name))
}

/// The device follows nobody.
pub(crate) fn forget_keep(device: Sbdf) -> Vec<Change> {
    keep_nodes(device).into_iter().chain([silence_node(device)]).map(Change::remove).collect()
}

fn silence_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "silent")
}

/// Notes that the guest which the devices follow did not answer, and how it was.
pub(crate) fn note_silence(devices: &[Sbdf], guest: &str) -> Vec<Change> {
    devices.iter().map(|device| Change::write(silence_node(*device), guest)).collect()
}

/// What [`note_silence`] noted.
pub(crate) fn silence(host: &Host, device: Sbdf) -> Result<Option<String>, Error> {
    host.read(&silence_node(device))
}

/// Forgets a device: no stub has it any more.
pub(crate) fn forget(host: &Host, device: Sbdf) -> Result<Vec<Change>, Error> {
    let mut changes = vec![
        Change::remove(path::tool_device_dir(device)),
        Change::remove_if_empty(path::TOOL_DEVICES),
        Change::remove_if_empty("/tool/pcidom"),
    ];
    changes.extend(load_one(host, device)?.iter().flat_map(guard::lift));
    Ok(changes)
}

pub(crate) fn set_phase(device: Sbdf, phase: Phase) -> Change {
    Change::write(path::child(&path::tool_device_dir(device), "phase"), phase.name())
}

fn reset_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "reset")
}

/// Notes that a device which nobody has any more was reset and made quiet, or that it could not be. [`reserve`] forgets it: from then on
/// somebody may have used the device.
pub(crate) fn note_reset(device: Sbdf, reset: Reset) -> Change {
    match reset {
        Reset::Done => Change::write(reset_node(device), "done"),
        Reset::NoMethod | Reset::Failed => forget_reset(device),
    }
}

/// Somebody may have used the device since its reset.
pub(crate) fn forget_reset(device: Sbdf) -> Change {
    Change::remove(reset_node(device))
}

/// Whether the device was reset since it came into the pool, and is there still.
pub(crate) fn was_reset(host: &Host, device: Sbdf) -> Result<bool, Error> {
    host.exists(&reset_node(device))
}

/// Notes that a guest is getting the device of this stub, for us and for xl, unless xl has it by now.
pub(crate) fn reserve(device: Sbdf, stub: DomId, guest: DomId) -> Vec<Change> {
    let mut changes = vec![guard::expect(device, Some(stub))];
    changes.extend(guard::pass(device, stub, guest));
    changes.extend([
        Change::write(path::child(&path::tool_device_dir(device), "frontend"), guest),
        forget_reset(device),
        set_phase(device, Phase::Attaching),
    ]);
    changes
}

/// Notes that no guest has the device any more: for xl its stub has it.
pub(crate) fn unreserve(host: &Host, device: Sbdf) -> Result<Vec<Change>, Error> {
    let dir = path::tool_device_dir(device);
    let mut changes = vec![
        Change::remove(path::child(&dir, "frontend")),
        Change::remove(path::child(&dir, "holds")),
        audit::forget_pirqs(device),
        set_phase(device, Phase::Pool),
    ];
    changes.extend(forget_policy(device));
    if let Some(record) = load_one(host, device)? {
        changes.extend(guard::pass(device, guard::expected(&record), record.stub));
    }
    Ok(changes)
}
