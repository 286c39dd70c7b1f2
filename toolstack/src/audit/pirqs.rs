//! The pirqs of devices, recorded before they are unmapped.
//!
//! They stand in `/tool/pcidom/device/BDF/pirqs` from then on until the device is free, so that a command that follows one that was
//! killed, or that looks again, knows them.

use std::collections::BTreeSet;

use pcidom_abi::{DeviceNode, PirqSet};
use xen_types::{DomId, Pirq, Sbdf};

use crate::device::resources::DeviceResources;
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::records::device_table::{self, Phase};
use crate::store::Change;
use pcidom_broker::Vectors;

/// Writes down what the interrupts of devices are, before they are unmapped: GSIs and vectors. Those that were written down
/// earlier stay: a command may have died after it had unmapped some.
pub(crate) fn note_pirqs(host: &Host, devices: &[DeviceResources]) -> Result<Vec<Change>, Error> {
    let nodes = devices.iter().flat_map(|resources| {
        [DeviceNode::Pirqs.of(resources.device), pcidom_broker::vectors::vectors_node(resources.device)]
    });
    host.looking_ahead(nodes, || devices.iter().map(|resources| note(host, resources)).collect())
}

fn note(host: &Host, resources: &DeviceResources) -> Result<Change, Error> {
    let mut pirqs = noted(host, resources.device)?;
    pirqs.extend(resources.gsi.map(Pirq));
    match pcidom_broker::vectors::load(host, resources.device)? {
        // Somebody died changing them: it could be any that is nobody else's.
        Vectors::Busy => pirqs.extend(host.hypervisor.vector_pirqs().map(Pirq)),
        vectors => pirqs.extend(vectors.pirqs()),
    }
    Ok(Change::write(DeviceNode::Pirqs.of(resources.device), PirqSet(pirqs)))
}

/// The interrupts of a device, as written down.
pub(super) fn noted(host: &Host, device: Sbdf) -> Result<BTreeSet<Pirq>, Error> {
    let place = DeviceNode::Pirqs.of(device);
    let value = host.read(&place)?.unwrap_or_default();
    let PirqSet(pirqs) = value.parse().map_err(|_| HostError::Nonsense { place, value })?;
    Ok(pirqs)
}

/// The devices that a guest has besides.
pub(super) fn staying(host: &Host, guest: DomId, leaving: &[DeviceResources]) -> Result<Vec<DeviceResources>, Error> {
    let mut staying = Vec::new();
    for record in device_table::load(host)? {
        let keeps = record.frontend == Some(guest) && matches!(record.phase, Phase::Attaching | Phase::Attached);
        if keeps && leaving.iter().all(|resources| resources.device != record.device) {
            staying.extend(DeviceResources::of_others(host, record.stub, &[record.device])?);
        }
    }
    Ok(staying)
}

/// Those of `pirqs` that no other device of the guest has: its GSI may be shared, and a vector got the number anew.
pub(super) fn without_others(
    host: &Host,
    mut pirqs: BTreeSet<Pirq>,
    staying: &[DeviceResources],
) -> Result<BTreeSet<Pirq>, Error> {
    for resources in staying {
        for theirs in
            resources.gsi.map(Pirq).into_iter().chain(pcidom_broker::vectors::load(host, resources.device)?.pirqs())
        {
            pirqs.remove(&theirs);
        }
    }
    Ok(pirqs)
}
