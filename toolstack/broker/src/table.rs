//! The device database in memory (`/tool/pcidom/device`): read once at the start, afterwards device by device as xenstore tells of changes.
//!
//! It serves the questions who is to be served and whether something is to be put right. What a stub may do with a device is not decided by it:
//! events come late, so each request looks whether a command has counted a change, and then reads its own device afresh (`assignment.rs`).

use std::collections::{BTreeMap, BTreeSet};

use dom0::{Dom0, Error};
use pcidom_abi::{DeviceNode, paths};
use xen_types::Sbdf;

use crate::due::{self, Follower};
use crate::records::{self, Record, UnassignedEntry};

/// Devices that are read in one turn: 160 nodes, less than a tenth of a second of any xenstored. Stubs are served in between.
const AT_ONCE: usize = 32;

/// The nodes that are kept.
const NODES: [DeviceNode; 5] =
    [DeviceNode::Stub, DeviceNode::Frontend, DeviceNode::Phase, DeviceNode::Backend, DeviceNode::Persistent];

/// Device directories.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: BTreeMap<Sbdf, Entry>,
    /// To be read.
    stale: BTreeSet<Sbdf>,
    /// Which devices there are is to be read.
    is_list_stale: bool,
    /// What made no sense when it was read. Their entries stay as they were.
    unclear: BTreeSet<Sbdf>,
}

#[derive(Debug)]
struct Entry {
    /// `None` where no stub has it.
    record: Option<Record>,
    /// The name of the stub that it is for.
    backend: Option<String>,
    /// The UUID of the guest that it follows.
    persistent: Option<String>,
}

impl Table {
    /// Everything is to be read: at the start, and when events were lost.
    pub(crate) fn forget(&mut self) {
        self.is_list_stale = true;
        self.stale.extend(self.entries.keys());
    }

    /// Something has changed at this path. True where it may change who is to be served or what is to be done; our own notes, and phases, do not.
    pub(crate) fn note(&mut self, path: &str) -> bool {
        let below = path.strip_prefix(paths::DEVICES).unwrap_or_default();
        let mut names = below.split('/').skip(1);
        let Some(Ok(device)) = names.next().map(Sbdf::parse_path_component) else {
            self.is_list_stale = true;
            return true;
        };
        let node = names.next();
        if node.is_none_or(|name| NODES.iter().any(|node| node.name() == name)) {
            self.stale.insert(device);
        }
        node.is_none_or(|name| {
            [DeviceNode::Stub, DeviceNode::Backend, DeviceNode::Silent].map(DeviceNode::name).contains(&name)
        })
    }

    /// The device of whose directory this path is, where requests depend on the node: not on our own notes.
    pub(crate) fn served_by(path: &str) -> Option<Sbdf> {
        let mut names = path.strip_prefix(paths::DEVICES)?.split('/').skip(1);
        let device = Sbdf::parse_path_component(names.next()?).ok()?;
        let own = [DeviceNode::Vectors, DeviceNode::Intx].map(DeviceNode::name);
        (!names.next().is_some_and(|node| own.contains(&node))).then_some(device)
    }

    /// Whether something is to be read.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_list_stale || !self.stale.is_empty()
    }

    /// Whether something could not be read.
    pub(crate) fn is_unclear(&self) -> bool {
        !self.unclear.is_empty()
    }

    /// Tries again what could not be read.
    pub(crate) fn retry_unclear(&mut self) {
        self.stale.append(&mut self.unclear);
    }

    /// Reads some of what is to be read; the records among it. What makes no sense is noted and tried again later: it keeps no other device.
    ///
    /// # Errors
    /// Xenstore's.
    pub(crate) fn read_some(&mut self, host: &Dom0) -> Result<Vec<Record>, Error> {
        if self.is_list_stale {
            let (known, unknown): (Vec<_>, Vec<_>) = host
                .list(paths::DEVICES)?
                .into_iter()
                .map(|name| Sbdf::parse_path_component(&name).map_err(|_| name))
                .partition(Result::is_ok);
            for name in unknown.into_iter().filter_map(Result::err) {
                host.note(&format!("{} holds {name:?}, which is no device", paths::DEVICES));
            }
            let known: BTreeSet<Sbdf> = known.into_iter().flatten().collect();
            self.entries.retain(|device, _| known.contains(device));
            self.stale.retain(|device| known.contains(device));
            self.stale.extend(known.into_iter().filter(|device| !self.entries.contains_key(device)));
            self.is_list_stale = false;
        }
        let devices: Vec<Sbdf> = self.stale.iter().take(AT_ONCE).copied().collect();
        let nodes: Vec<String> = devices.iter().flat_map(|device| NODES.map(|node| node.of(*device))).collect();
        let mut values = host.read_all(&nodes)?.into_iter();
        let mut read = Vec::new();
        for device in devices {
            self.stale.remove(&device);
            let [stub, frontend, phase, backend, persistent] = NODES.map(|_| values.next().flatten());
            match records::parse_record(device, records::record_nodes(device), [stub, frontend, phase]) {
                Ok(None) if backend.is_none() => drop(self.entries.remove(&device)),
                Ok(record) => {
                    read.extend(record);
                    self.entries.insert(device, Entry { record, backend, persistent });
                }
                Err(error) => {
                    host.note(&format!("looking who is there: {error}"));
                    self.unclear.insert(device);
                }
            }
        }
        Ok(read)
    }

    /// The devices that stubs have, in their order.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.entries.values().filter_map(|entry| entry.record).collect()
    }

    /// A device's record.
    pub(crate) fn record(&self, device: Sbdf) -> Option<Record> {
        self.entries.get(&device)?.record
    }

    /// The name of the stub that a device is for.
    pub(crate) fn backend(&self, device: Sbdf) -> Option<&str> {
        self.entries.get(&device)?.backend.as_deref()
    }

    /// The devices that no stub has.
    pub(crate) fn unassigned(&self) -> Vec<UnassignedEntry> {
        let unassigned = self.entries.iter().filter(|(_, entry)| entry.record.is_none());
        unassigned.filter_map(|(device, entry)| Some((*device, entry.backend.clone()?))).collect()
    }

    /// The free devices that follow guests.
    pub(crate) fn followers(&self) -> Vec<Follower> {
        let follower = |entry: &Entry| Some((entry.record.filter(due::is_free)?, entry.persistent.clone()?));
        self.entries.values().filter_map(follower).collect()
    }
}
