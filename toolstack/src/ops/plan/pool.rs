//! Plans of moving devices between dom0's drivers and a pool.

use pcidom_abi::Intent;
use xen_types::{DomId, Sbdf};

use super::{Plan, Step};
use crate::device::reset::Reset;
use crate::error::DomainName;
use crate::ops::host_facts::HostFacts;
use crate::sysfs::PCIBACK;
use crate::xen::Permission;

/// Into the pool of the stub, or, without one, to the parked devices: `assignable add`. Of those that are in a pool and parked, nothing needs
/// to be done.
pub(crate) fn add(devices: &[HostFacts], stub: Option<&DomainName>, backend: &str) -> Plan {
    let mut steps = Vec::new();
    let intents = note_intents(devices, stub.map(|stub| stub.id), &mut steps);
    for facts in devices {
        match &facts.stub {
            Some(_) if facts.is_parked() => continue,
            // Somebody took it from xen-pciback: it is prepared anew.
            Some(owner) => steps.extend(from_pool(facts, owner)),
            None => {}
        }
        steps.extend(park(facts));
        steps.extend(stub.into_iter().flat_map(|stub| hand_over(facts, stub)));
    }
    let remembered = if stub.is_none() { devices.iter().map(HostFacts::device).collect() } else { Vec::new() };
    steps.push(Step::RecordAdded { intents, remembered, backend: backend.to_owned() });
    Plan::undone(steps)
}

/// Out of the pool, from xen-pciback, and to the driver that had the device if that is wanted: `assignable remove`.
pub(crate) fn remove(devices: &[HostFacts], rebind: bool) -> Plan {
    let names: Vec<Sbdf> = devices.iter().map(HostFacts::device).collect();
    let mut steps =
        vec![Step::NoteIntents { intents: names.iter().map(|device| (*device, Intent::Remove { rebind })).collect() }];
    steps.extend(devices.iter().flat_map(|facts| to_host(facts, rebind)));
    steps.push(Step::RecordRemoved { devices: names });
    Plan::undone(steps)
}

/// Into the pool of a stub, as the first part of an attach, which forgets the intents at its end: those are the result.
pub(crate) fn to_attach(devices: &[HostFacts], stub: &DomainName) -> (Plan, Vec<Sbdf>) {
    let mut steps = Vec::new();
    let intents = note_intents(devices, Some(stub.id), &mut steps);
    let new = || devices.iter().filter(|facts| facts.stub.is_none());
    steps.extend(new().flat_map(park));
    steps.extend(new().flat_map(|facts| hand_over(facts, stub)));
    (Plan::undone(steps), intents)
}

/// A parked device into the pool of the stub that it is for.
pub(crate) fn to_pool(facts: &HostFacts, stub: &DomainName) -> Plan {
    Plan::undone([park(facts), hand_over(facts, stub)].concat())
}

/// Begins a plan with the intents of these devices, if there are any. Whose they are.
fn note_intents(devices: &[HostFacts], stub: Option<DomId>, steps: &mut Vec<Step>) -> Vec<Sbdf> {
    let intents: Vec<(Sbdf, Intent)> =
        devices.iter().filter_map(|facts| Some((facts.device(), intent_to_add(facts, stub)?))).collect();
    let noted = intents.iter().map(|(device, _)| *device).collect();
    if !intents.is_empty() {
        steps.push(Step::NoteIntents { intents });
    }
    noted
}

/// The intent to record for giving a device to the stub; none if the stub has it already and it is parked.
fn intent_to_add(facts: &HostFacts, stub: Option<DomId>) -> Option<Intent> {
    let is_done = match facts.stub {
        Some(_) => facts.is_parked(),
        None => facts.is_with_pciback() && stub.is_none(),
    };
    (!is_done).then(|| Intent::Add { from: facts.driver.clone(), stub })
}

/// From dom0's driver to xen-pciback, its DMA in quarantine. One that is parked already may never have been there: xen-pciback took it at boot
/// (`xen-pciback.hide=`).
fn park(facts: &HostFacts) -> Vec<Step> {
    let device = facts.device();
    if facts.is_with_pciback() {
        return vec![Step::Quarantine { device, was_parked: true }];
    }
    let mut steps = Vec::new();
    if let Some(driver) = facts.driver.clone() {
        steps.push(Step::NoteDriver { device, driver: driver.clone(), before: facts.noted_driver.clone() });
        steps.push(Step::UnbindDriver { device, driver });
    }
    if !facts.has_slot {
        steps.push(Step::AddSlot { device });
    }
    steps.extend(bind(facts, PCIBACK));
    steps.push(Step::Quarantine { device, was_parked: false });
    steps
}

/// Linux binds none but the driver that `driver_override` names where that is set: it is out of the way meanwhile.
fn bind(facts: &HostFacts, driver: &str) -> Vec<Step> {
    let (device, driver) = (facts.device(), driver.to_owned());
    match facts.driver_override.clone().filter(|admins| *admins != driver) {
        None => vec![Step::BindDriver { device, driver }],
        Some(admins) => vec![
            Step::OverrideDriver { device, admins: admins.clone(), driver: driver.clone() },
            Step::BindDriver { device, driver },
            Step::RestoreOverride { device, admins },
        ],
    }
}

/// A parked device to the stub, which must find it fit.
fn hand_over(facts: &HostFacts, stub: &DomainName) -> Vec<Step> {
    let (device, stub) = (facts.device(), stub.clone());
    // What left a pool just now has no notes any more.
    let is_new = facts.stub.is_none();
    vec![
        Step::QuiesceAndReset { device, decode: facts.resources.decode() },
        Step::ConfigSpace { stub: stub.clone(), device, permission: Permission::Allow },
        Step::EnterPool {
            stub: stub.clone(),
            device,
            had_reset: is_new && facts.was_reset,
            had_backend: is_new && facts.has_backend,
        },
        Step::AwaitVerdict { stub, device },
    ]
}

/// A free device out of the pool of its stub.
pub(crate) fn from_pool(facts: &HostFacts, stub: &DomainName) -> Vec<Step> {
    let (device, stub) = (facts.device(), stub.clone());
    let reset = if facts.was_reset { Reset::Done } else { Reset::Failed };
    vec![
        Step::LeavePool { stub: stub.clone(), resources: facts.resources.clone(), reset },
        Step::ConfigSpace { stub: stub.clone(), device, permission: Permission::Revoke },
        Step::RemovePoolEntry { stub, device },
    ]
}

/// A device to dom0, from wherever it is on that way. One that was pulled out has no driver, and Xen has forgotten it.
pub(crate) fn to_host(facts: &HostFacts, rebind: bool) -> Vec<Step> {
    let device = facts.device();
    let mut steps: Vec<Step> = facts.stub.iter().flat_map(|stub| from_pool(facts, stub)).collect();
    if !facts.is_there {
        return steps;
    }
    steps.push(Step::EndQuarantine { device });
    if facts.is_with_pciback() {
        steps.push(Step::UnbindDriver { device, driver: PCIBACK.to_owned() });
    }
    if facts.has_slot {
        steps.push(Step::RemoveSlot { device });
    }
    if rebind && let (Some(driver), Some(path)) = (driver_to_rebind(facts), facts.noted_driver.clone()) {
        if facts.driver.is_none() || facts.is_with_pciback() {
            steps.extend(bind(facts, driver));
        }
        steps.push(Step::ForgetDriver { device, path });
    }
    steps
}

/// The driver that had the device, if that is known.
pub(crate) fn driver_to_rebind(facts: &HostFacts) -> Option<&str> {
    facts.noted_driver.as_deref().and_then(|path| path.rsplit('/').next())
}
