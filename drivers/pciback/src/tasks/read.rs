//! Reads the nodes of one frontend into [`Nodes`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pcidom_abi::EXPORT;
use xen_types::{DomId, Errno};
use xenstore::path::{self, key};
use xenstore::{TxId, XenbusState, number};

use super::store::Answers;
use super::values::{REQUESTED_SLOT, Value, Values};
use crate::handshake::{DeviceNodes, Keys, MAX_DEVICES, Nodes, Peer, read_state};
use crate::platform::Platform;

/// Our nodes, besides those of the devices.
const OURS: [&str; 7] =
    [key::STATE, key::FRONTEND, key::FRONTEND_ID, key::ONLINE, key::NUM_DEVS, key::ROOT_NUM, EXPORT];
/// Our nodes about one device, each with `-N` behind it.
const DEVICE: &[&str] = &["dev", "state", "vdev", REQUESTED_SLOT];
/// The same after a restart in place, when no device gets a slot yet, with what else was published under such numbers.
const DEVICE_AND_ROOT: &[&str] = &["dev", "state", "vdev", ROOT];
const ROOT: &str = "root";
/// The frontend's nodes, `state` first: it writes its keys before that.
const THEIRS: [&str; 4] = [key::STATE, key::PCI_OP_REF, key::EVENT_CHANNEL, key::MAGIC];

/// Devices whose nodes are asked for in one go: what bounds the memory for questions under way.
const DEVICES_AT_ONCE: usize = 16;

/// A reading of both directories of a frontend, in steps: [`Reading::ask`], then [`Reading::take`] with each lot of answers until it asks for no more.
pub(crate) struct Reading {
    domid: DomId,
    /// Our nodes about each device.
    device: &'static [&'static str],
    /// How many devices' nodes are to be read.
    count: usize,
    /// How many of them are devices and not roots only.
    devices: usize,
    /// What was read so far. `None` when there is no such directory of ours, and at the start.
    pub(crate) nodes: Option<Nodes>,
}

impl Reading {
    /// Nothing is read.
    pub(crate) fn new(domid: DomId, with_roots: bool) -> Self {
        let device = if with_roots { DEVICE_AND_ROOT } else { DEVICE };
        Self { domid, device, count: 0, devices: 0, nodes: None }
    }

    /// Begins with the nodes that are not about devices. Ours are read within `transaction`, so that its commit tells whether all of it was true at
    /// one moment (the toolstack moves entries about, §1.3); the frontend's are not, or it could keep us from ever committing.
    pub(crate) fn ask<P: Platform>(&self, transaction: TxId, answers: &mut Answers<P>) {
        let dir = path::relative::backend_dir(self.domid);
        answers.read(transaction, &dir, &OURS, "", &[Errno::ENOENT]);
        // If the frontend will not let us read a node, it has not told us.
        let dir = path::frontend_dir(self.domid);
        answers.read(TxId::NONE, &dir, &THEIRS, "", &[Errno::ENOENT, Errno::EACCES]);
    }

    /// Takes what was answered, and asks for the nodes of the next devices. There is nothing more to ask when all is read.
    pub(crate) fn take<P: Platform>(&mut self, transaction: TxId, answers: &mut Answers<P>, values: &[Value]) {
        if let Some(nodes) = &mut self.nodes {
            let devices = values.chunks(self.device.len());
            let understand = |values| understand_device(Values { names: self.device, values });
            nodes.devices.extend(devices.map(understand));
        } else if let Some((ours, theirs)) = values.split_at_checked(OURS.len()) {
            let (ours, theirs) = (Values { names: &OURS, values: ours }, Values { names: &THEIRS, values: theirs });
            if [key::STATE, key::FRONTEND, key::NUM_DEVS].iter().all(|name| ours.get(name).is_none()) {
                return;
            }
            let nodes = understand(self.domid, ours, theirs);
            let count = nodes.num_devs.unwrap_or(0).min(MAX_DEVICES);
            let roots = if self.device.contains(&ROOT) { nodes.root_num.unwrap_or(0) } else { 0 };
            self.count = count.max(roots.min(MAX_DEVICES)) as usize;
            self.devices = count as usize;
            self.nodes = Some(nodes);
        }
        let Some(nodes) = &mut self.nodes else { return };
        let dir = path::relative::backend_dir(self.domid);
        for index in (nodes.devices.len()..self.count).take(DEVICES_AT_ONCE) {
            answers.read(transaction, &dir, self.device, &format!("-{index}"), &[Errno::ENOENT]);
        }
        if answers.is_empty() {
            nodes.roots = nodes.devices.iter().map_while(|device| device.root).collect();
            nodes.devices.truncate(self.devices);
        }
    }
}

/// Parses the values of both directories.
fn understand(domid: DomId, ours: Values<'_>, theirs: Values<'_>) -> Nodes {
    let export = ours.text(EXPORT).map(str::parse);
    Nodes {
        own: read_state(ours.get(key::STATE)),
        online: ours.decimal(key::ONLINE).is_some_and(|online| online != 0),
        frontend: match export {
            Some(Err(_)) => Err("export is no mode that we know".into()),
            _ => check_frontend(domid, &path::frontend_dir(domid), ours),
        },
        export: export.and_then(Result::ok),
        num_devs: ours.decimal(key::NUM_DEVS),
        devices: Vec::new(),
        roots: Vec::new(),
        root_num: ours.decimal(key::ROOT_NUM),
        peer: Peer {
            state: read_state(theirs.get(key::STATE)),
            keys: Keys::read(theirs.get(key::PCI_OP_REF), theirs.get(key::EVENT_CHANNEL), theirs.get(key::MAGIC)),
        },
    }
}

/// Parses the values of one device's nodes.
fn understand_device(device: Values<'_>) -> DeviceNodes {
    DeviceNodes {
        address: device.text("dev").and_then(|text| text.parse().ok()),
        state: device.get("state").map(XenbusState::parse),
        vdev: device.text("vdev").unwrap_or_default().into(),
        requested_slot: device
            .get(REQUESTED_SLOT)
            .and_then(|value| u8::try_from(number::hexadecimal(value).ok()?).ok()),
        root: device.text(ROOT).and_then(|root| format!("{root}:00.0").parse().ok()),
    }
}

/// Which directory the frontend has follows from the name of ours; the nodes must agree, or the toolstack made a mistake that we
/// will not build on. A path that a guest wrote is never followed.
fn check_frontend(domid: DomId, want: &str, ours: Values<'_>) -> Result<(), String> {
    match (ours.text(key::FRONTEND), ours.decimal(key::FRONTEND_ID)) {
        (Some(path), Some(id)) if path == want && id == u32::from(domid.0) => Ok(()),
        (Some(_), Some(_)) => Err(format!("frontend or frontend-id do not name {want}")),
        _ => Err("frontend or frontend-id is missing".into()),
    }
}
