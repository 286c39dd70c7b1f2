//! Reads the nodes of one frontend into [`Nodes`].

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use xen_types::DomId;
use xenstore::{Error, Request, TxId, number, path, text};

use super::core::Handle;
use super::store::Transaction;
use crate::platform::Platform;
use crate::xenbus::{DeviceNodes, Keys, MAX_DEVICES, Nodes, Peer, read_state};

/// Devices whose nodes are asked for in one go: what bounds the memory for questions under way.
const DEVICES_AT_ONCE: u32 = 16;

/// Reads both directories. Ours is read within `transaction`, so that its commit tells whether all of it was true at one
/// moment (the toolstack moves entries about, §1.5); the frontend's is not, or it could keep us from ever committing.
///
/// `None` when there is no such directory of ours.
pub(crate) async fn nodes<P: Platform>(
    handle: &Handle<P>,
    transaction: &Transaction<P>,
    domid: DomId,
) -> Result<Option<Nodes>, Error> {
    let dir = path::relative::backend_dir(domid);
    let peer_dir = path::frontend_dir(domid);
    let ours = |name: &str| transaction.ask(&Request::Read { path: &path::child(&dir, name) });
    // `state` first: a frontend writes its keys before that.
    let theirs = |name: &str| handle.ask(TxId::NONE, &Request::Read { path: &path::child(&peer_dir, name) });

    let (state, frontend, frontend_id) = (ours("state"), ours("frontend"), ours("frontend-id"));
    let (online, num_devs, root_num) = (ours("online"), ours("num_devs"), ours("root_num"));
    let peer_state = theirs("state");
    let (gref, port, magic) = (theirs("pci-op-ref"), theirs("event-channel"), theirs("magic"));

    let (state, frontend, frontend_id) = (found(state.await)?, found(frontend.await)?, found(frontend_id.await)?);
    let (online, num_devs, root_num) = (found(online.await)?, found(num_devs.await)?, found(root_num.await)?);
    if state.is_none() && frontend.is_none() && num_devs.is_none() {
        return Ok(None);
    }
    let count = num_devs.and_then(|value| number::decimal(value).ok());
    let devices = devices(transaction, &dir, count.unwrap_or(0).min(MAX_DEVICES)).await?;

    let peer_state = readable(peer_state.await)?;
    let (gref, port, magic) = (readable(gref.await)?, readable(port.await)?, readable(magic.await)?);
    Ok(Some(Nodes {
        own: read_state(state.as_deref()),
        online: online.is_some_and(|value| number::decimal(value).is_ok_and(|online| online != 0)),
        frontend: check_frontend(domid, &peer_dir, frontend.as_deref(), frontend_id.as_deref()),
        num_devs: count,
        devices,
        root_num: root_num.and_then(|value| number::decimal(value).ok()),
        peer: Peer {
            state: read_state(peer_state.as_deref()),
            keys: Keys::read(gref.as_deref(), port.as_deref(), magic.as_deref()),
        },
    }))
}

async fn devices<P: Platform>(transaction: &Transaction<P>, dir: &str, count: u32) -> Result<Vec<DeviceNodes>, Error> {
    let mut devices = Vec::new();
    let mut first = 0;
    while first < count {
        let next = count.min(first + DEVICES_AT_ONCE);
        let names = ["dev", "state", "vdev", "vdevfn"];
        let asked = (first..next)
            .map(|index| names.map(|name| transaction.ask(&Request::Read { path: &format!("{dir}/{name}-{index}") })));
        for [address, state, vdev, wish] in asked.collect::<Vec<_>>() {
            let (address, state) = (found(address.await)?, found(state.await)?);
            let (vdev, wish) = (found(vdev.await)?, found(wish.await)?);
            devices.push(DeviceNodes {
                address: address.and_then(|value| text(&value).ok()?.parse().ok()),
                state: state.and_then(|value| number::decimal(value).ok()),
                vdev: vdev.and_then(|value| text(&value).ok().map(str::to_string)).unwrap_or_default(),
                wish: wish.and_then(|value| u8::try_from(number::hexadecimal(value).ok()?).ok()),
            });
        }
        first = next;
    }
    Ok(devices)
}

/// A node that may be missing.
fn found(answer: Result<Vec<u8>, Error>) -> Result<Option<Vec<u8>>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is(xen_types::Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A node of the frontend's: if it will not let us read it, it has not told us.
fn readable(answer: Result<Vec<u8>, Error>) -> Result<Option<Vec<u8>>, Error> {
    match answer {
        Err(error) if error.is(xen_types::Errno::EACCES) => Ok(None),
        answer => found(answer),
    }
}

/// Which directory the frontend has follows from the name of ours; the nodes must agree, or somebody made a mistake that we
/// will not build on. A path that a guest wrote is never followed.
fn check_frontend(domid: DomId, want: &str, frontend: Option<&[u8]>, frontend_id: Option<&[u8]>) -> Result<(), String> {
    let path = frontend.and_then(|value| text(value).ok());
    let id = frontend_id.and_then(|value| number::decimal(value).ok());
    match (path, id) {
        (Some(path), Some(id)) if path == want && id == u32::from(domid.0) => Ok(()),
        (Some(_), Some(_)) => Err(format!("frontend or frontend-id do not name {want}")),
        _ => Err("frontend or frontend-id is missing".to_string()),
    }
}
