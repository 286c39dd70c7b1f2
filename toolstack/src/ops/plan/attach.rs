//! The plan of an attach, from the pool on. The order is that of libxl: registers, interrupts, DMA, and then the directories.

use xen_types::Sbdf;

use super::{Plan, Right, Step};
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::DomainName;
use crate::ops::connect::Until;
use crate::ops::patience::Patience;
use crate::records::device_spec::{DeviceSpec, RdmPolicy};
use crate::records::device_table::Keep;
use crate::records::export::Export;
use crate::records::reset_note::ResetNote;

/// The request, and what was found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachInput {
    pub(crate) stub: DomainName,
    /// The guest, or its stub domain.
    pub(crate) guest: DomainName,
    /// The HVM guest whose stub domain that is: its are the device's DMA and, as the stub domain's, the rights.
    pub(crate) target: Option<DomainName>,
    /// The guest is connected to the stub already.
    pub(crate) has_connection: bool,
    pub(crate) export: Export,
    pub(crate) devices: Vec<AttachedDevice>,
    /// Rights for the guest's other devices, which it has already.
    pub(crate) has: GuestRights,
    /// Persistent assignments to record; `None` to leave them as they are.
    pub(crate) keeps: Option<Vec<Keep>>,
    pub(crate) patience: Patience,
    pub(crate) until: Until,
    /// Devices in the intent log.
    pub(crate) intents: Vec<Sbdf>,
}

/// One of the devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachedDevice {
    pub(crate) spec: DeviceSpec,
    pub(crate) resources: DeviceResources,
    /// It is as its last reset left it.
    pub(crate) is_fresh: bool,
    /// What became of its last reset.
    pub(crate) reset: Option<ResetNote>,
    /// Its persistent assignment now.
    pub(crate) persistent: Option<Keep>,
}

/// From the pool to the guest.
pub(crate) fn attach(input: &AttachInput) -> Plan {
    let AttachInput { stub, guest, target, export, patience, .. } = input;
    let devices: Vec<Sbdf> = input.devices.iter().map(|device| device.spec.device).collect();
    let specs: Vec<DeviceSpec> = input.devices.iter().map(|device| device.spec.clone()).collect();
    let resources: Vec<DeviceResources> = input.devices.iter().map(|device| device.resources.clone()).collect();
    let before = input.devices.iter().map(|device| (device.spec.device, device.persistent.clone()));
    let mut steps = vec![Step::Reserve {
        stub: stub.clone(),
        guest: guest.clone(),
        target: target.clone(),
        devices: devices.clone(),
        keeps: input.keeps.clone(),
        before: if input.keeps.is_some() { before.collect() } else { Vec::new() },
        resets: input.devices.iter().filter_map(|device| Some((device.spec.device, device.reset.clone()?))).collect(),
    }];
    for spec in specs.iter().filter(|spec| !spec.policy.is_default()) {
        let (device, policy) = (spec.device, spec.policy);
        steps.push(Step::SetPolicy { stub: stub.clone(), device, policy });
        // A stub that does not take it is told of a device without it: by what undoes the step before.
        steps.push(Step::AwaitVerdict { stub: stub.clone(), devices: vec![device] });
    }
    for AttachedDevice { resources, is_fresh, .. } in &input.devices {
        let (device, decode) = (resources.device, resources.decode());
        steps.push(Step::Reset { stub: stub.clone(), device, decode, is_fresh: *is_fresh });
        steps.push(Step::PrepareForDriver { device, decode });
    }
    steps.push(Step::PermitWrites { devices: specs.clone() });
    steps.push(Step::AuditOnUndo { guest: guest.clone(), resources: resources.clone() });
    let rights = GuestRights::of(&resources).without(&input.has);
    for guest in [Some(guest), target.as_ref()].into_iter().flatten() {
        steps.extend(Right::all(&rights).into_iter().map(|right| Step::Grant { guest: guest.clone(), right }));
    }
    steps.extend(specs.iter().map(|spec| Step::Assign {
        guest: target.as_ref().unwrap_or(guest).clone(),
        device: spec.device,
        is_relaxed: spec.rdm_policy == RdmPolicy::Relaxed,
    }));
    let (stub, guest, export) = (stub.clone(), guest.clone(), export.clone());
    let plugged: Vec<DeviceSpec> = if target.is_some() { specs.clone() } else { Vec::new() };
    steps.push(match input.has_connection {
        true => Step::AddEntries {
            stub: stub.clone(),
            guest: guest.clone(),
            export,
            devices: specs,
            resources,
            patience: *patience,
        },
        false => Step::WriteDirectories { stub: stub.clone(), guest: guest.clone(), export, devices: specs, resources },
    });
    // Once, with its first devices, and while it looks at them. Not where they are just following it, and not of a stub domain, which has no drivers for them.
    if !input.has_connection && input.keeps.is_some() && target.is_none() {
        steps.push(Step::TellNeeds { guest: guest.clone() });
    }
    steps.push(Step::AwaitGuest { stub, guest, devices: devices.clone(), patience: *patience, until: input.until });
    if let Some(target) = target {
        let plug = |device| Step::Plug { target: target.clone(), device };
        steps.extend(plugged.iter().cloned().map(plug));
    }
    steps.push(Step::RecordAttached { devices, intents: input.intents.clone() });
    Plan::undone(steps)
}
