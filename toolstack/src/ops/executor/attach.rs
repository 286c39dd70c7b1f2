//! Steps of devices on their way to a guest.

use pcidom_abi::DeviceNode;
use xen_types::{DomId, Pirq, Sbdf};
use xenstore::{XenbusState, path};

use crate::audit;
use crate::device::permitted_writes;
use crate::device::quiesce::release as release_devices;
use crate::device::reset::{Reset, reset};
use crate::device::resources::DeviceResources;
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::ops::connect::{self, Settled};
use crate::ops::hot_unplug::{self, IfSilent, UnplugRequest, phases};
use crate::ops::in_use;
use crate::ops::patience::Patience;
use crate::ops::plan::{Right, Step};
use crate::ops::pool::{self, PoolState, STUB_PATIENCE};
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Keep, Phase};
use crate::records::directories::{self, Ends};
use crate::records::entries::Entries;
use crate::records::export::Export;
use crate::records::guard;
use crate::records::reset_note::{self, ResetNote};
use crate::store::Change;
use crate::sysfs::ConfigWalk as _;
use crate::sysfs::Decode;
use crate::xen::Permission;

/// Notes whose the devices are going to be.
pub(super) fn reserve(
    host: &Host,
    stub: DomId,
    (guest, target): (DomId, Option<DomId>),
    devices: &[Sbdf],
    keeps: Option<&[Keep]>,
) -> Result<(), Error> {
    let reserve = |device: &Sbdf| device_table::reserve(*device, stub, guest, target);
    let mut changes: Vec<_> = devices.iter().flat_map(reserve).collect();
    if let Some(keeps) = keeps {
        changes.extend(devices.iter().flat_map(|device| device_table::forget_keep(*device)));
        changes.extend(keeps.iter().flat_map(Keep::store));
    }
    guard::commit(host, devices, &changes)
}

/// Undoes [`reserve`]. Devices that turned out to be leaked meanwhile stay as they are.
///
/// # Errors
/// [`Error::Leaked`] for one of those: all that was done for them before goes on being needed.
pub(super) fn unreserve(
    host: &Host,
    guest: DomId,
    devices: &[Sbdf],
    before: &[(Sbdf, Option<Keep>)],
    resets: &[(Sbdf, ResetNote)],
) -> Result<(), Error> {
    let (mut changes, mut leaked) = (Vec::new(), None);
    for (device, keep) in before {
        changes.extend(keep.as_ref().map_or_else(|| device_table::forget_keep(*device), Keep::store));
    }
    for device in devices.iter().copied() {
        match device_table::load_one(host, device)? {
            Some(record) if record.phase == Phase::Leaked => leaked = Some(device),
            _ => {
                changes.extend(device_table::unreserve(host, device)?);
                // Where the device was reset once more, that counts.
                let note = resets.iter().find(|(other, _)| *other == device).map(|(_, note)| note);
                if note.is_some() && reset_note::load(host, device)?.is_none() {
                    changes.push(device_table::note_reset(device, note));
                }
            }
        }
    }
    host.commit(&changes)?;
    leaked.map_or(Ok(()), |device| Err(in_use::refusal(host, device, guest)?))
}

/// Resets a device, unless it is fresh from a reset.
pub(super) fn reset_for_guest(host: &Host, device: Sbdf, decode: Decode, is_fresh: bool) -> Result<(), Error> {
    if is_fresh {
        return Ok(());
    }
    host.sysfs.config(device)?.walk_and_quiesce(decode)?;
    match reset(host, device, decode)? {
        Reset::Lost => return Err(Error::LostByReset(device)),
        Reset::NoMethod => {
            host.note(&format!("{device} cannot be reset by itself; it was quiesced through its registers instead"));
        }
        Reset::Done(_) | Reset::Failed => {}
    }
    Ok(())
}

/// Resets a device that a guest may have had. By now it cannot reach the device any more.
pub(super) fn reset_after_guest(host: &Host, stub: &DomainName, device: Sbdf, decode: Decode) -> Result<(), Error> {
    let reset = reset(host, device, decode)?;
    host.commit(&[device_table::note_reset(device, Some(&reset.note()))])?;
    match pool::state(host, stub.id, device)? {
        PoolState::Refused(_) => super::pool::look_again(host, stub, device),
        _ => Ok(()),
    }
}

/// Notes for the broker what the guest may have written to the devices.
pub(super) fn permit_writes(host: &Host, devices: &[DeviceSpec]) -> Result<(), Error> {
    host.commit(&permitted_writes::note(host, devices)?)
}

/// Undoes [`permit_writes`].
pub(super) fn forget_writes(host: &Host, devices: &[DeviceSpec]) -> Result<(), Error> {
    let nodes = devices.iter().map(|spec| DeviceNode::PermittedWrites.of(spec.device));
    host.commit(&nodes.map(Change::remove).collect::<Vec<_>>())
}

/// Gives or takes a right. Errors name the step.
pub(super) fn set_right(
    host: &Host,
    guest: DomId,
    right: Right,
    permission: Permission,
    step: &Step,
) -> Result<(), Error> {
    let xen = &host.hypervisor;
    let set = match (right, permission) {
        (Right::Memory(frames), _) => xen.set_iomem(guest, frames, permission),
        (Right::Ports(ports), _) => xen.set_ioports(guest, ports, permission),
        (Right::MappedInterrupt(gsi), Permission::Allow) => xen.map_gsi(guest, gsi).map(drop),
        (Right::MappedInterrupt(gsi), Permission::Revoke) => xen.unmap_pirq(guest, Pirq(gsi)),
        (Right::Interrupt(gsi), _) => xen.set_irq(guest, Pirq(gsi), permission),
    };
    set.doing(|| step.to_string())
}

/// Gives a device's DMA to a guest.
pub(super) fn assign(host: &Host, guest: DomId, device: Sbdf, is_relaxed: bool, step: &Step) -> Result<(), Error> {
    host.hypervisor.assign(guest, device, is_relaxed).doing(|| step.to_string())
}

/// Takes it from the guest.
pub(super) fn unassign(host: &Host, guest: DomId, device: Sbdf, step: &Step) -> Result<(), Error> {
    host.hypervisor.deassign(guest, device).doing(|| step.to_string())
}

/// Writes both directories.
pub(super) fn write_directories(
    host: &Host,
    stub: &DomainName,
    guest: &DomainName,
    export: &Export,
    devices: &[DeviceSpec],
) -> Result<(), Error> {
    host.commit(&directories::create(stub.id, guest, export, devices))
}

/// Undoes [`write_directories`]: the devices are quieted, the directories removed and the stub given the time to let go, before any right is taken
/// away.
pub(super) fn remove_directories(
    host: &Host,
    stub: &DomainName,
    guest: DomId,
    resources: &[DeviceResources],
) -> Result<(), Error> {
    let devices: Vec<Sbdf> = resources.iter().map(|resources| resources.device).collect();
    // From here on the broker does nothing for the guest any more.
    host.commit(&phases(&devices, Phase::Detaching))?;
    host.commit(&audit::note_pirqs(host, resources)?)?;
    release_devices(host, guest, &devices, resources)?;
    host.commit(&directories::remove(host, stub.id, guest)?)?;
    pool::await_return(host, stub, guest, &devices)
}

/// Adds the devices to those that the guest has, and has it look.
pub(super) fn add_entries(
    host: &Host,
    (stub, guest): (&DomainName, &DomainName),
    export: &Export,
    devices: &[DeviceSpec],
    patience: Patience,
) -> Result<(), Error> {
    for _ in 0..connect::ROUNDS {
        let settled = connect::settle(host, stub, guest, patience)?;
        let ends = Ends::read(host, stub.id, guest.id)?;
        let mut changes = ends.expected(stub.id, guest.id);
        changes.extend(Entries::load(host, stub.id, guest.id)?.append(export, devices));
        // What is told there from now on is about these devices.
        changes.push(Change::remove(path::error_node(stub.id, guest.id)));
        if settled == Settled::Connected {
            changes.push(directories::set_back(stub.id, guest.id, XenbusState::Reconfiguring));
        }
        if host.commit_if(&changes)? {
            return Ok(());
        }
    }
    Err(Error::GuestUnsteady(guest.clone()))
}

/// Undoes [`add_entries`]: the guest is asked to let go of what it may have found; one that does not loses it all the same.
pub(super) fn remove_entries(
    host: &Host,
    stub: &DomainName,
    guest: &DomainName,
    resources: &[DeviceResources],
) -> Result<(), Error> {
    let devices: Vec<Sbdf> = resources.iter().map(|resources| resources.device).collect();
    let request = UnplugRequest { stub, guest, devices: &devices, timeout: STUB_PATIENCE, if_silent: IfSilent::Leave };
    hot_unplug::request_release(host, request)?;
    host.commit(&phases(&devices, Phase::Detaching))?;
    host.commit(&audit::note_pirqs(host, resources)?)?;
    release_devices(host, guest.id, &devices, resources)?;
    hot_unplug::remove_entries(host, stub, guest, &devices)?;
    pool::await_return(host, stub, guest.id, &devices)
}
