//! The plans of taking devices from a guest: told first, rights after.

use std::time::Duration;

use xen_types::Sbdf;

use super::{Looked, OnFailure, Plan, Right, Step};
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::DomainName;
use crate::records::device_table::Target;

/// Devices of one guest that are to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) stub: DomainName,
    pub(crate) stub_alive: bool,
    pub(crate) guest: DomainName,
    pub(crate) guest_alive: bool,
    /// The HVM guest whose stub domain `guest` is.
    pub(crate) target: Option<Target>,
    pub(crate) devices: Vec<Sbdf>,
    /// Devices that the guest goes on using: what these need it keeps.
    pub(crate) staying: Vec<Sbdf>,
    /// What happens to the connection of backend and frontend.
    pub(crate) connection: Connection,
    /// Persistent assignments stay, for when the guest is there again.
    pub(crate) stays_persistent: bool,
}

impl Assignment {
    /// The living domains that have rights to the devices.
    pub(crate) fn alive(&self) -> Vec<&DomainName> {
        let target = self.target.iter().filter(|target| target.is_alive).map(|target| &target.guest);
        self.guest_alive.then_some(&self.guest).into_iter().chain(target).collect()
    }

    /// The domain that has the devices' DMA; `None` where it is gone.
    fn holder(&self) -> Option<&DomainName> {
        match &self.target {
            Some(target) => target.is_alive.then_some(&target.guest),
            None => self.guest_alive.then_some(&self.guest),
        }
    }
}

/// What happens to the connection of backend and frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// Other devices stay, and so does it.
    Stays,
    /// There is nobody any more at one of its ends: its directories go.
    Gone,
    /// Its last device goes, and the guest is asked to close. Whether the directories go too when it does not.
    Ends { by_force: bool },
}

/// Whether the rights to take back are known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// All were given.
    Complete,
    /// A command died at giving or taking them: those that are not there are no error.
    Uncertain,
}

/// Resources of the devices, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Those that dom0 sees.
    pub(crate) present: Vec<DeviceResources>,
    /// Those that were pulled out: these have no registers any more, but the guest still has its rights.
    pub(crate) removed: Vec<DeviceResources>,
    /// Devices that dom0 does not see: Xen may have forgotten that the guest has them.
    pub(crate) absent: Vec<Sbdf>,
    /// Rights for the devices that the guest keeps.
    pub(crate) kept: GuestRights,
}

/// Has the guest let go, where there is a stub that could ask it. Nothing that it has is taken here.
pub(crate) fn ask(assignment: &Assignment, timeout: Duration, by_force: bool) -> Plan {
    let (stub, guest, devices) = (assignment.stub.clone(), assignment.guest.clone(), assignment.devices.clone());
    let mut steps = Vec::new();
    // First, as nobody can use the device any more behind it; and only while there is a device model.
    if let Some(Target { guest: target, is_alive: true }) = &assignment.target
        && assignment.guest_alive
    {
        let (target, devices) = (target.clone(), devices.clone());
        steps.push(Step::Unplug { target, devices, timeout, by_force });
    }
    if assignment.stub_alive {
        steps.push(Step::AskGuest { stub, guest, devices, timeout, by_force });
    } else {
        // Nobody can ask it for one device. When the last one goes it is asked to close.
        steps.push(Step::RecordDetaching { devices });
        if assignment.staying.is_empty() {
            steps.push(Step::CloseOrphan { stub: stub.id, guest });
        }
    }
    Plan { steps, on_failure: OnFailure::LeaveToNext }
}

/// Takes everything back: quiesce the devices, remove them from what the guest sees and wait until the stub has them back, take the guest's rights,
/// look for what it has kept, reset the devices while the connection ends if its last device goes, and return them to the pool, where the stub
/// checks them anew (or, without a stub, leave them parked).
pub(crate) fn release(assignment: &Assignment, known: &Known, rights: Rights, looked: Looked) -> Plan {
    let Assignment { stub, guest, devices, .. } = assignment;
    let all = [known.present.as_slice(), known.removed.as_slice()].concat();
    let mut steps = vec![Step::NoteInterrupts {
        // While they are known; of a guest that is gone, Xen has unmapped them.
        resources: if assignment.guest_alive { all.clone() } else { Vec::new() },
        no_longer_persistent: if assignment.stays_persistent { Vec::new() } else { devices.clone() },
    }];
    steps.extend(devices.iter().map(|device| Step::Quiesce {
        guest: guest.id,
        device: *device,
        resources: known.present.iter().find(|resources| resources.device == *device).cloned(),
    }));
    let (stub, guest, devices) = (stub.clone(), guest.clone(), devices.clone());
    steps.push(match assignment.connection {
        Connection::Gone => Step::RemoveDirectories { stub: stub.clone(), guest: guest.clone() },
        Connection::Stays | Connection::Ends { .. } => {
            Step::RemoveEntries { stub: stub.clone(), guest: guest.clone(), devices: devices.clone() }
        }
    });
    if assignment.stub_alive {
        steps.push(Step::AwaitReturn { stub: stub.clone(), guest: guest.id, devices: devices.clone() });
    }
    steps.extend(revoke(assignment, known, rights, &all));
    if assignment.holder().is_none() {
        // Xen has taken the rights back with the domain. Where a device went depends on Xen's quarantine setting: make sure.
        let present = known.present.iter();
        steps.extend(present.map(|resources| Step::Quarantine { device: resources.device, was_parked: true }));
    }
    steps.push(Step::Audit { guest: guest.clone(), resources: all });
    steps.extend(begin_resets(&known.present));
    if let Connection::Ends { by_force } = assignment.connection {
        steps.push(Step::Close { stub: stub.clone(), guest: guest.clone(), by_force });
    }
    steps.push(Step::ReturnToPool { stub, is_stub_there: assignment.stub_alive, guest, devices, looked });
    Plan { steps, on_failure: OnFailure::LeaveToNext }
}

/// Every right of living guests that they need for none of their other devices.
fn revoke(assignment: &Assignment, known: &Known, rights: Rights, all: &[DeviceResources]) -> Vec<Step> {
    let is_uncertain = rights == Rights::Uncertain;
    let mut steps = Vec::new();
    if let Some(guest) = assignment.holder() {
        steps.extend(assignment.devices.iter().map(|device| Step::Unassign {
            guest: guest.clone(),
            device: *device,
            may_be_absent: is_uncertain || known.absent.contains(device),
        }));
    }
    let rights = GuestRights::of(all).without(&known.kept);
    for guest in assignment.alive() {
        // A device model that has let go of a device has unmapped its interrupt.
        let may_be_absent = |right| {
            let is_unmapped = matches!(right, Right::MappedInterrupt(_)) && Some(guest) == assignment.holder();
            is_uncertain || is_unmapped && assignment.target.is_some()
        };
        let revoked = Right::all(&rights).into_iter().rev();
        steps.extend(revoked.map(|right| Step::Revoke {
            guest: guest.clone(),
            right,
            may_be_absent: may_be_absent(right),
        }));
    }
    steps
}

/// Looks again at devices that were taken from the guest before and of which it still had something. An HVM guest is asked once more, as its device model
/// may not have heard it, and has `patience`; with none, by force, devices are freed without a question and a look.
pub(crate) fn retry(assignment: &Assignment, known: &Known, looked: Looked, patience: Option<Duration>) -> Plan {
    let Assignment { stub, guest, devices, .. } = assignment;
    let mut steps = Vec::new();
    if devices.is_empty() {
        return Plan { steps, on_failure: OnFailure::LeaveToNext };
    }
    if let Some(timeout) = patience {
        if let Some(Target { guest: target, is_alive: true }) = &assignment.target {
            let (target, devices) = (target.clone(), devices.clone());
            steps.push(Step::Unplug { target, devices, timeout, by_force: true });
        }
        let resources = [known.present.as_slice(), known.removed.as_slice()].concat();
        steps.push(Step::Audit { guest: guest.clone(), resources });
    }
    steps.extend(begin_resets(&known.present));
    steps.push(Step::ReturnToPool {
        stub: stub.clone(),
        is_stub_there: assignment.stub_alive,
        guest: guest.clone(),
        devices: devices.clone(),
        looked,
    });
    Plan { steps, on_failure: OnFailure::LeaveToNext }
}

fn begin_resets(present: &[DeviceResources]) -> impl Iterator<Item = Step> {
    present.iter().map(|resources| Step::BeginReset { device: resources.device, decode: resources.decode() })
}
