//! The device database: which stub holds a device, who has it, and what the next command must finish.
//!
//! It lives in xenstore under `/tool/pcidom`, where no guest may read or write (`docs/xenstore.md`). Beside it stands
//! libxl's own note of the guest that has a device, so that `xl` and `pcidom` respect each other.

use pci_config::Policy;
use pcidom_abi::{DeviceNode, paths};
use pcidom_broker::due::{keep_node, silence_node};
pub(crate) use pcidom_broker::guard::libxl_owner;
pub(crate) use pcidom_broker::records::{Phase, Record, UnassignedEntry, backend, load_one};
use pcidom_broker::records::{backend_node, parse_id};
use xen_types::{DomId, Sbdf};
use xenstore::Permission;

use crate::error::{DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::records::device_spec::DeviceSpec;
use crate::records::export::ExportMode;
use crate::records::guard;
pub(crate) use crate::records::reset_note::{forget_reset, note_reset};
use crate::store::Change;

/// All devices of stubs, in their order ([`Host::table`]).
pub(crate) fn load(host: &Host) -> Result<Vec<Record>, Error> {
    Ok(host.table()?.0.clone())
}

/// All devices of stubs, and those that wait for one.
pub(crate) fn load_all(host: &Host) -> Result<(Vec<Record>, Vec<UnassignedEntry>), Error> {
    Ok((*host.table()?).clone())
}

/// The devices that a guest uses, apart from some.
pub(crate) fn others(records: &[Record], guest: DomId, but: &[Sbdf]) -> Vec<Sbdf> {
    let uses = |record: &&Record| record.frontend == Some(guest) && record.phase != Phase::Leaked;
    records.iter().filter(uses).map(|record| record.device).filter(|device| !but.contains(device)).collect()
}

/// What the admin wants for the device while a guest has it; `None` where that is nothing.
pub(crate) fn policy(host: &Host, device: Sbdf) -> Result<Option<Policy>, Error> {
    let node = policy_node(device);
    let Some(value) = host.read(&node)? else { return Ok(None) };
    match value.parse() {
        Ok(policy) => Ok(Some(policy)),
        Err(_) => Err(HostError::Nonsense { place: node, value }.into()),
    }
}

fn policy_node(device: Sbdf) -> String {
    DeviceNode::Policy.of(device)
}

/// Notes it. [`unreserve`] forgets it.
pub(crate) fn set_policy(device: Sbdf, policy: &Policy) -> Change {
    Change::write(policy_node(device), policy)
}

/// Forgets what the guest may do with the device: the policy, and the broker's list that was made of it.
fn forget_policy(device: Sbdf) -> [Change; 2] {
    [policy_node(device), DeviceNode::PermittedWrites.of(device)].map(Change::remove)
}

/// Enters a device that the stub got, unless xl has it by now.
pub(crate) fn enter(device: Sbdf, stub: &DomainName) -> Vec<Change> {
    let mut changes = guard::let_go(device).to_vec();
    changes.push(guard::expect(device, Some(stub.id)));
    changes.extend(make_dir(device));
    changes.extend(guard::pass(device, stub.id, stub.id));
    changes.push(Change::write(DeviceNode::Stub.of(device), stub.id));
    changes.extend(stub.name.as_ref().map(|name| Change::write(backend_node(device), name)));
    // Whatever was allowed to somebody who had it before.
    changes.extend(forget_policy(device));
    changes.push(set_phase(device, Phase::Pool));
    changes
}

fn make_dir(device: Sbdf) -> Vec<Change> {
    let dirs = [paths::TOOL.to_owned(), paths::DEVICES.to_owned(), paths::device_dir(device)];
    dirs.into_iter().flat_map(|dir| Change::directory(dir, &[Permission::none(DomId::DOM0)])).collect()
}

/// Notes that a parked device is for the stub of this name, as soon as there is one.
pub(crate) fn remember(device: Sbdf, backend: &str) -> Vec<Change> {
    let mut changes = make_dir(device);
    changes.push(Change::write(backend_node(device), backend));
    changes
}

/// The stub is gone. What it was called stays, and which guest the device follows.
pub(crate) fn lose_stub(host: &Host, device: Sbdf) -> Result<Vec<Change>, Error> {
    if backend(host, device)?.is_none() {
        return forget(host, device);
    }
    let gone = {
        use DeviceNode::{Frontend, Intx, Isolated, Leaked, Mended, Phase, Stub, Target, Vectors};
        [Stub, Frontend, Target, Phase, Leaked, Vectors, Intx, Isolated, Mended]
    };
    let mut changes: Vec<Change> = gone.iter().map(|node| Change::remove(node.of(device))).collect();
    changes.extend(forget_policy(device));
    changes.push(forget_pirqs(device));
    changes.extend(load_one(host, device)?.iter().flat_map(guard::lift));
    Ok(changes)
}

/// An HVM guest that has devices through its stub domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) guest: DomainName,
    pub(crate) is_alive: bool,
}

/// Which guest a device persistent, by its id that outlives a reboot, and with which options.
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
        let export = export.and_then(|name| name.parse().ok());
        match text.parse::<DeviceSpec>() {
            Ok(spec) if spec.device == device => Ok(Some(Self { guest, spec, export })),
            _ => Err(HostError::Nonsense { place: spec, value: text }.into()),
        }
    }

    pub(crate) fn store(&self) -> Vec<Change> {
        let [keep, spec, export] = keep_nodes(self.spec.device);
        let mut changes = vec![Change::write(keep, &self.guest), Change::write(spec, &self.spec)];
        changes.extend(self.export.map(|mode| Change::write(export, mode.name())));
        changes
    }
}

fn keep_nodes(device: Sbdf) -> [String; 3] {
    [DeviceNode::Persistent, DeviceNode::Spec, DeviceNode::Export].map(|node| node.of(device))
}

/// The device follows nobody.
pub(crate) fn forget_keep(device: Sbdf) -> Vec<Change> {
    keep_nodes(device).into_iter().chain([silence_node(device)]).map(Change::remove).collect()
}

/// Notes that the guest which the devices follow did not answer, and how it was.
pub(crate) fn note_silence(devices: &[Sbdf], guest: &str) -> Vec<Change> {
    devices.iter().map(|device| Change::write(silence_node(*device), guest)).collect()
}

/// Forgets a device: no stub has it any more.
pub(crate) fn forget(host: &Host, device: Sbdf) -> Result<Vec<Change>, Error> {
    let mut changes = vec![
        Change::remove(paths::device_dir(device)),
        Change::remove_if_empty(paths::DEVICES),
        Change::remove_if_empty(paths::TOOL),
    ];
    changes.extend(load_one(host, device)?.iter().flat_map(guard::lift));
    Ok(changes)
}

pub(crate) fn set_phase(device: Sbdf, phase: Phase) -> Change {
    Change::write(DeviceNode::Phase.of(device), phase)
}

/// Notes that a guest is getting the device of this stub, for us and for xl, unless xl has it by now.
pub(crate) fn reserve(device: Sbdf, stub: DomId, guest: DomId, target: Option<DomId>) -> Vec<Change> {
    let mut changes = vec![guard::expect(device, Some(stub))];
    changes.extend(guard::pass(device, stub, guest));
    changes.extend([
        Change::write(DeviceNode::Frontend.of(device), guest),
        forget_reset(device),
        set_phase(device, Phase::Attaching),
    ]);
    changes.extend(target.map(|target| Change::write(DeviceNode::Target.of(device), target)));
    changes
}

/// The HVM guest whose stub domain has the device, and whether it is alive; `None` where a PV guest has it.
pub(crate) fn target(host: &Host, device: Sbdf) -> Result<Option<Target>, Error> {
    let node = DeviceNode::Target.of(device);
    let Some(value) = host.read(&node)? else { return Ok(None) };
    let guest = domain::named(host, parse_id(&node, value)?)?;
    Ok(Some(Target { is_alive: domain::is_alive(host, guest.id)?, guest }))
}

/// Notes that no guest has the device any more: for xl its stub has it.
pub(crate) fn unreserve(host: &Host, device: Sbdf) -> Result<Vec<Change>, Error> {
    let mut changes = vec![
        Change::remove(DeviceNode::Frontend.of(device)),
        Change::remove(DeviceNode::Target.of(device)),
        Change::remove(DeviceNode::Leaked.of(device)),
        Change::remove(DeviceNode::Isolated.of(device)),
        forget_pirqs(device),
        set_phase(device, Phase::Pool),
    ];
    changes.extend(forget_policy(device));
    if let Some(record) = load_one(host, device)? {
        changes.extend(guard::pass(device, guard::expected(&record), record.stub));
    }
    Ok(changes)
}

/// The guest keeps the device after all, or nobody has it: what interrupts it had (`audit/pirqs.rs`) is of no interest any more.
pub(crate) fn forget_pirqs(device: Sbdf) -> Change {
    Change::remove(DeviceNode::Pirqs.of(device))
}
