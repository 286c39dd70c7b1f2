//! Plans of moving devices between dom0's drivers and a pool.

use pcidom_abi::Intent;
use xen_types::{DomId, Sbdf};

use super::{Entering, Plan, Step};
use crate::error::DomainName;
use crate::ops::device_status::DeviceStatus;
use crate::sysfs::PCIBACK;
use crate::xen::Permission;

/// Into the pool of the stub, or, without one, to the parked devices: `assignable add`. Of those that are in a pool and parked, nothing needs
/// to be done. The first one gets the name.
pub(crate) fn add(devices: &[DeviceStatus], stub: Option<&DomainName>, backend: &str, name: Option<&str>) -> Plan {
    let mut steps = Vec::new();
    let intents = note_intents(devices, stub.map(|stub| stub.id), &mut steps);
    let wanted: Vec<&DeviceStatus> =
        devices.iter().filter(|status| status.stub.is_none() || !status.is_parked()).collect();
    for status in &wanted {
        // Somebody took it from xen-pciback: it is prepared anew.
        steps.extend(status.stub.iter().flat_map(|owner| from_pool(status, owner)));
        steps.extend(park(status));
    }
    steps.extend(stub.into_iter().flat_map(|stub| hand_over(&wanted, stub)));
    let remembered = if stub.is_none() { devices.iter().map(DeviceStatus::device).collect() } else { Vec::new() };
    let name = devices.first().zip(name).map(|(facts, name)| (facts.device(), name.to_owned()));
    steps.push(Step::RecordAdded { intents, remembered, backend: backend.to_owned(), name });
    Plan::undone(steps)
}

/// Out of the pool, from xen-pciback, and to the driver that had the device if that is wanted: `assignable remove`.
pub(crate) fn remove(devices: &[DeviceStatus], rebind: bool) -> Plan {
    let names: Vec<Sbdf> = devices.iter().map(DeviceStatus::device).collect();
    let mut steps =
        vec![Step::NoteIntents { intents: names.iter().map(|device| (*device, Intent::Remove { rebind })).collect() }];
    steps.extend(devices.iter().flat_map(|status| to_host(status, rebind)));
    steps.push(Step::RecordRemoved { devices: names });
    Plan::undone(steps)
}

/// Into the pool of a stub, as the first part of an attach, which forgets the intents at its end: those are the result.
pub(crate) fn to_attach(devices: &[DeviceStatus], stub: &DomainName) -> (Plan, Vec<Sbdf>) {
    let mut steps = Vec::new();
    let intents = note_intents(devices, Some(stub.id), &mut steps);
    let new: Vec<&DeviceStatus> = devices.iter().filter(|status| status.stub.is_none()).collect();
    steps.extend(new.iter().flat_map(|status| park(status)));
    steps.extend(hand_over(&new, stub));
    (Plan::undone(steps), intents)
}

/// A parked device into the pool of the stub that it is for.
pub(crate) fn to_pool(status: &DeviceStatus, stub: &DomainName) -> Plan {
    Plan::undone([park(status), hand_over(&[status], stub)].concat())
}

/// Begins a plan with the intents of these devices, if there are any. Whose they are.
fn note_intents(devices: &[DeviceStatus], stub: Option<DomId>, steps: &mut Vec<Step>) -> Vec<Sbdf> {
    let intents: Vec<(Sbdf, Intent)> =
        devices.iter().filter_map(|status| Some((status.device(), intent_to_add(status, stub)?))).collect();
    let noted = intents.iter().map(|(device, _)| *device).collect();
    if !intents.is_empty() {
        steps.push(Step::NoteIntents { intents });
    }
    noted
}

/// The intent to record for giving a device to the stub; none if the stub has it already and it is parked.
fn intent_to_add(status: &DeviceStatus, stub: Option<DomId>) -> Option<Intent> {
    let is_done = match status.stub {
        Some(_) => status.is_parked(),
        None => status.is_with_pciback() && stub.is_none(),
    };
    (!is_done).then(|| Intent::Add { from: status.driver.clone(), stub })
}

/// From dom0's driver to xen-pciback, its DMA in quarantine. One that is parked already may never have been there: xen-pciback took it at boot
/// (`xen-pciback.hide=`).
fn park(status: &DeviceStatus) -> Vec<Step> {
    let device = status.device();
    if status.is_with_pciback() {
        return vec![Step::Quarantine { device, was_parked: true }];
    }
    let mut steps = Vec::new();
    if let Some(driver) = status.driver.clone() {
        steps.push(Step::NoteDriver { device, driver: driver.clone(), before: status.noted_driver.clone() });
        steps.push(Step::UnbindDriver { device, driver });
    }
    if !status.has_slot {
        steps.push(Step::AddSlot { device });
    }
    steps.extend(bind(status, PCIBACK));
    steps.push(Step::Quarantine { device, was_parked: false });
    steps
}

/// Linux binds none but the driver that `driver_override` names where that is set: it is out of the way meanwhile.
fn bind(status: &DeviceStatus, driver: &str) -> Vec<Step> {
    let (device, driver) = (status.device(), driver.to_owned());
    match status.driver_override.clone().filter(|admins| *admins != driver) {
        None => vec![Step::BindDriver { device, driver }],
        Some(admins) => vec![
            Step::OverrideDriver { device, admins: admins.clone(), driver: driver.clone() },
            Step::BindDriver { device, driver },
            Step::RestoreOverride { device, admins },
        ],
    }
}

/// Devices that enter a pool in one transaction, of some twenty nodes each. While xenstored 4.17 ends a transaction it keeps some 23 KiB for each node that has changed, where there are many
/// guests: of 256 devices at once, beside sixty-four guests, it had 400 MiB, and Linux ended it.
const TOGETHER: usize = 16;

/// Parked devices to the stub, which must find each of them fit.
fn hand_over(devices: &[&DeviceStatus], stub: &DomainName) -> Vec<Step> {
    // What left a pool just now has no notes any more.
    let is_new = |status: &DeviceStatus| status.stub.is_none();
    let mut steps = Vec::new();
    for status in devices {
        let device = status.device();
        steps.push(Step::SaveConfiguration { device, is_known: !is_new(status) || status.has_backend });
        steps.push(Step::QuiesceAndReset { device, decode: status.resources.decode() });
        steps.push(Step::ConfigSpace { stub: stub.clone(), device, permission: Permission::Allow });
    }
    let entering = |status: &&DeviceStatus| Entering {
        device: status.device(),
        had_reset: status.reset.clone().filter(|_| is_new(status)),
        had_backend: is_new(status) && status.has_backend,
    };
    steps.extend(devices.chunks(TOGETHER).map(|together| {
        let devices = together.iter().map(entering).collect();
        Step::EnterPool { stub: stub.clone(), devices }
    }));
    if !devices.is_empty() {
        let devices = devices.iter().map(|status| status.device()).collect();
        steps.push(Step::AwaitVerdict { stub: stub.clone(), devices });
    }
    steps
}

/// A free device out of the pool of its stub.
pub(crate) fn from_pool(status: &DeviceStatus, stub: &DomainName) -> Vec<Step> {
    let (device, stub) = (status.device(), stub.clone());
    vec![
        Step::LeavePool { stub: stub.clone(), resources: status.resources.clone(), reset: status.reset.clone() },
        Step::ConfigSpace { stub: stub.clone(), device, permission: Permission::Revoke },
        Step::RemovePoolEntry { stub, device },
    ]
}

/// A device to dom0, from wherever it is on that way. One that was pulled out has no driver, and Xen has forgotten it.
pub(crate) fn to_host(status: &DeviceStatus, rebind: bool) -> Vec<Step> {
    let device = status.device();
    let mut steps: Vec<Step> = status.stub.iter().flat_map(|stub| from_pool(status, stub)).collect();
    if !status.is_there {
        return steps;
    }
    steps.push(Step::EndQuarantine { device });
    if status.is_with_pciback() {
        steps.push(Step::UnbindDriver { device, driver: PCIBACK.to_owned() });
    }
    if status.has_slot {
        steps.push(Step::RemoveSlot { device });
    }
    if rebind && let (Some(driver), Some(path)) = (driver_to_rebind(status), status.noted_driver.clone()) {
        if status.driver.is_none() || status.is_with_pciback() {
            steps.extend(bind(status, driver));
        }
        steps.push(Step::ForgetDriver { device, path });
    }
    steps
}

/// The driver that had the device, if that is known.
pub(crate) fn driver_to_rebind(status: &DeviceStatus) -> Option<&str> {
    status.noted_driver.as_deref().and_then(|path| path.rsplit('/').next())
}
