//! Reads the nodes of one frontend into [`Nodes`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pcidom_abi::EXPORT;
use xen_types::{DomId, Errno};
use xenstore::path::{self, key};
use xenstore::{Error, TxId, XenbusState, number};

use super::store::Transaction;
use super::values::{REQUESTED_SLOT, Values};
use crate::handshake::{DeviceNodes, Keys, MAX_DEVICES, Nodes, Peer, read_state};
use crate::platform::Platform;
use crate::shared::Handle;

/// Our nodes, besides those of the devices.
const OURS: [&str; 7] =
    [key::STATE, key::FRONTEND, key::FRONTEND_ID, key::ONLINE, key::NUM_DEVS, key::ROOT_NUM, EXPORT];
/// Our nodes about one device, each with `-N` behind it.
const DEVICE: &[&str] = &["dev", "state", "vdev", REQUESTED_SLOT];
/// The same after a restart in place, with what else was published under such numbers.
const DEVICE_AND_ROOT: &[&str] = &["dev", "state", "vdev", REQUESTED_SLOT, ROOT];
const ROOT: &str = "root";
/// The frontend's nodes, `state` first: it writes its keys before that.
const THEIRS: [&str; 4] = [key::STATE, key::PCI_OP_REF, key::EVENT_CHANNEL, key::MAGIC];

/// Devices whose nodes are asked for in one go: what bounds the memory for questions under way.
const DEVICES_AT_ONCE: u32 = 16;

/// Reads both directories. Ours is read within `transaction`, so that its commit tells whether all of it was true at one
/// moment (the toolstack moves entries about, §1.3); the frontend's is not, or it could keep us from ever committing.
///
/// `None` when there is no such directory of ours.
pub(crate) async fn nodes<P: Platform>(
    handle: &Handle<P>,
    transaction: &Transaction<P>,
    domid: DomId,
    with_roots: bool,
) -> Result<Option<Nodes>, Error> {
    let dir = path::relative::backend_dir(domid);
    let peer_dir = path::frontend_dir(domid);
    let ours = handle.read(transaction.id(), &dir, &OURS, "");
    let theirs = handle.read(TxId::NONE, &peer_dir, &THEIRS, "");

    let ours = ours.values(&[Errno::ENOENT]).await?;
    if [key::STATE, key::FRONTEND, key::NUM_DEVS].iter().all(|name| ours.get(name).is_none()) {
        return Ok(None);
    }
    let count = ours.decimal(key::NUM_DEVS).unwrap_or(0).min(MAX_DEVICES);
    let (names, roots) =
        if with_roots { (DEVICE_AND_ROOT, ours.decimal(key::ROOT_NUM).unwrap_or(0)) } else { (DEVICE, 0) };
    let mut devices = devices(handle, transaction, &dir, count.max(roots.min(MAX_DEVICES)), names).await?;
    let roots = devices.iter().map_while(|device| device.root).collect();
    devices.truncate(count as usize);

    // If the frontend will not let us read a node, it has not told us.
    let theirs = theirs.values(&[Errno::ENOENT, Errno::EACCES]).await?;
    Ok(Some(Nodes { roots, ..understand(domid, &peer_dir, &ours, devices, &theirs) }))
}

/// Parses the values of both directories.
#[inline(never)] // its caller is a task, in which everything costs more
fn understand(domid: DomId, peer_dir: &str, ours: &Values, devices: Vec<DeviceNodes>, theirs: &Values) -> Nodes {
    let export = ours.text(EXPORT).map(str::parse);
    Nodes {
        own: read_state(ours.get(key::STATE)),
        online: ours.decimal(key::ONLINE).is_some_and(|online| online != 0),
        frontend: match export {
            Some(Err(_)) => Err("export is no mode that we know".into()),
            _ => check_frontend(domid, peer_dir, ours),
        },
        export: export.and_then(Result::ok),
        num_devs: ours.decimal(key::NUM_DEVS),
        devices,
        roots: Vec::new(),
        root_num: ours.decimal(key::ROOT_NUM),
        peer: Peer {
            state: read_state(theirs.get(key::STATE)),
            keys: Keys::read(theirs.get(key::PCI_OP_REF), theirs.get(key::EVENT_CHANNEL), theirs.get(key::MAGIC)),
        },
    }
}

async fn devices<P: Platform>(
    handle: &Handle<P>,
    transaction: &Transaction<P>,
    dir: &str,
    count: u32,
    names: &'static [&'static str],
) -> Result<Vec<DeviceNodes>, Error> {
    let mut devices = Vec::new();
    let mut first = 0;
    while first < count {
        let next = count.min(first + DEVICES_AT_ONCE);
        let ask = |index| handle.read(transaction.id(), dir, names, &format!("-{index}"));
        for asked in (first..next).map(ask).collect::<Vec<_>>() {
            devices.push(understand_device(&asked.values(&[Errno::ENOENT]).await?));
        }
        first = next;
    }
    Ok(devices)
}

/// Parses the values of one device's nodes.
#[inline(never)] // as above
fn understand_device(device: &Values) -> DeviceNodes {
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
fn check_frontend(domid: DomId, want: &str, ours: &Values) -> Result<(), String> {
    match (ours.text(key::FRONTEND), ours.decimal(key::FRONTEND_ID)) {
        (Some(path), Some(id)) if path == want && id == u32::from(domid.0) => Ok(()),
        (Some(_), Some(_)) => Err(format!("frontend or frontend-id do not name {want}")),
        _ => Err("frontend or frontend-id is missing".into()),
    }
}
