//! What stands in xenstore about devices, as far as the broker reads it: whose each of them is, and where it is on its way.
//!
//! It lives under `/tool/pcidom`, where no guest may read or write (`docs/xenstore.md`). Only commands change it.

use dom0::{Dom0, Error};
pub use pcidom_abi::Phase;
use pcidom_abi::{DeviceNode, PermittedWrites, paths};
use xen_types::{DomId, Sbdf};

/// One device that a stub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which one.
    pub device: Sbdf,
    /// Whose pool it is in.
    pub stub: DomId,
    /// The guest that has it.
    pub frontend: Option<DomId>,
    /// Where it is on its way.
    pub phase: Phase,
}

/// A device that no stub has, and the name of the one that it is for.
pub type UnassignedEntry = (Sbdf, String);

/// Reads the whole table, in order of the devices.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn load(host: &Dom0) -> Result<Vec<Record>, Error> {
    Ok(load_all(host)?.0)
}

/// The whole table, and the devices that are in nobody's pool.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn load_all(host: &Dom0) -> Result<(Vec<Record>, Vec<UnassignedEntry>), Error> {
    let mut devices = Vec::new();
    for name in host.list(paths::DEVICES)? {
        let device = Sbdf::parse_path_component(&name)
            .map_err(|_| Error::Nonsense { place: paths::DEVICES.to_owned(), value: name })?;
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

/// One device's record.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn load_one(host: &Dom0, device: Sbdf) -> Result<Option<Record>, Error> {
    let nodes = record_nodes(device);
    let values = host.read_many(nodes.each_ref().map(String::as_str))?;
    parse_record(device, nodes, values)
}

/// The nodes that make a record.
#[must_use]
pub fn record_nodes(device: Sbdf) -> [String; 3] {
    [DeviceNode::Stub, DeviceNode::Frontend, DeviceNode::Phase].map(|node| node.of(device))
}

/// The record in the values of these nodes.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn parse_record(device: Sbdf, nodes: [String; 3], values: [Option<String>; 3]) -> Result<Option<Record>, Error> {
    let ([stub_node, frontend_node, phase_node], [stub, frontend, phase]) = (nodes, values);
    let Some(stub) = stub.map(|stub| parse_id(&stub_node, stub)).transpose()? else {
        return Ok(None);
    };
    let phase = phase.unwrap_or_default();
    let phase = phase.parse().map_err(|_| Error::Nonsense { place: phase_node, value: phase })?;
    let frontend = frontend.map(|frontend| parse_id(&frontend_node, frontend)).transpose()?;
    Ok(Some(Record { device, stub, frontend, phase }))
}

/// What the broker may write to the device for its guest.
///
/// # Errors
/// Xenstore's, and [`Error::Nonsense`] where `attach` has noted nothing that this version reads.
pub fn permitted_writes(host: &Dom0, device: Sbdf) -> Result<PermittedWrites, Error> {
    let node = DeviceNode::PermittedWrites.of(device);
    let value = host.read(&node)?.unwrap_or_default();
    value.parse().map_err(|_| Error::Nonsense { place: node, value })
}

/// A domain's number in the value of a node.
///
/// # Errors
/// [`Error::Nonsense`] where it is none.
pub fn parse_id(path: &str, value: String) -> Result<DomId, Error> {
    match value.parse() {
        Ok(id) => Ok(DomId(id)),
        Err(_) => Err(Error::Nonsense { place: path.to_owned(), value }),
    }
}

/// Where the name of the stub stands that a device is for.
#[must_use]
pub fn backend_node(device: Sbdf) -> String {
    DeviceNode::Backend.of(device)
}

/// The name of the stub that a device is for.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn backend(host: &Dom0, device: Sbdf) -> Result<Option<String>, Error> {
    host.read(&backend_node(device))
}
