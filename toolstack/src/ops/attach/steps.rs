//! The steps of an attach, each with its undo.

use pcidom_abi::DeviceNode;
use xen_types::{Pirq, Sbdf};
use xenstore::{XenbusState, path};

use crate::audit;
use crate::broker;
use crate::device::permitted_writes;
use crate::device::reset::{Reset, reset};
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::{Doing, DomainName, Error};
use crate::ops::connect::{self, Settled};
use crate::ops::hot_unplug::{self, IfSilent, Wanted};
use crate::ops::in_use;
use crate::ops::patience::Patience;
use crate::ops::pool::{self, PoolState, STUB_PATIENCE};
use crate::records::device_spec::{DeviceSpec, RdmPolicy};
use crate::records::device_table::{self, Keep, Phase};
use crate::records::directories::{self, Ends};
use crate::records::entries::Entries;
use crate::records::export::Export;
use crate::records::guard;
use crate::records::rollback::RollbackStack;
use crate::store::Change;
use crate::xen::Permission::{Allow, Revoke};

/// Notes whose the devices are going to be. Those that turn out to be held by then stay as they are, and so does all that was done for
/// them before.
pub(super) fn reserve(
    rollback: &mut RollbackStack<'_>,
    stub: &DomainName,
    guest: &DomainName,
    facts: &[DeviceResources],
    keeps: Option<&[Keep]>,
) -> Result<(), Error> {
    let devices: Vec<Sbdf> = facts.iter().map(|facts| facts.device).collect();
    let mut changes: Vec<_> =
        devices.iter().flat_map(|device| device_table::reserve(*device, stub.id, guest.id)).collect();
    let mut kept = Vec::new();
    if let Some(keeps) = keeps {
        for device in devices.iter().copied() {
            let before = Keep::load(rollback.host(), device)?;
            kept.extend(before.map_or_else(|| device_table::forget_keep(device), |before| before.store()));
            changes.extend(device_table::forget_keep(device));
        }
        changes.extend(keeps.iter().flat_map(Keep::store));
    }
    let (id, reserved) = (guest.id, devices.clone());
    rollback.step(
        format!("note that the devices go to {guest}"),
        |host| guard::commit(host, &devices, &changes),
        move |host| {
            let (mut changes, mut held) = (kept, None);
            for device in reserved {
                match device_table::load_one(host, device)? {
                    Some(record) if record.phase == Phase::Leaked => held = Some(device),
                    _ => changes.extend(device_table::unreserve(host, device)?),
                }
            }
            host.commit(&changes)?;
            held.map_or(Ok(()), |device| Err(in_use::refusal(host, device, id)?))
        },
    )
}

/// Resets a device, unless it is `fresh` from a reset, and brings it into the state in which a guest's driver expects to find it.
pub(super) fn prepare<'a>(
    rollback: &mut RollbackStack<'a>,
    stub: &DomainName,
    facts: &DeviceResources,
    fresh: bool,
) -> Result<(), Error> {
    let (device, decode) = (facts.device, facts.decode());
    let stub = stub.clone();
    rollback.step(
        if fresh { format!("{device} is as its last reset left it") } else { format!("reset {device}") },
        |host| {
            if fresh {
                return Ok(());
            }
            host.sysfs.config(device)?.quiesce(decode)?;
            if reset(host, device, decode)? == Reset::NoMethod {
                host.note(&format!(
                    "{device} cannot be reset by itself; it was made quiet through its registers instead"
                ));
            }
            Ok(())
        },
        // By then the guest, if it got so far, cannot reach it any more.
        move |host| {
            let reset = reset(host, device, decode)?;
            host.commit(&[device_table::note_reset(device, reset)])?;
            match pool::state(host, stub.id, device)? {
                PoolState::Refused(_) => {
                    host.commit(&pool::present_again(stub.id, device))?;
                    pool::await_verdict(host, &stub, device)
                }
                _ => Ok(()),
            }
        },
    )?;
    rollback.step(
        format!("make {device} ready for a driver"),
        |host| host.sysfs.config(device)?.prepare(decode),
        move |host| host.sysfs.config(device)?.quiesce(decode),
    )
}

/// Notes for the broker what the guest may have written to the devices: after their resets, as they are what the guest finds.
pub(super) fn permit_writes(rollback: &mut RollbackStack<'_>, devices: &[DeviceSpec]) -> Result<(), Error> {
    let nodes: Vec<String> = devices.iter().map(|spec| DeviceNode::PermittedWrites.of(spec.device)).collect();
    rollback.step(
        "note for the broker what may be written to the devices",
        |host| {
            let lists = devices.iter().map(|spec| permitted_writes::note(host, spec.device, &spec.policy));
            host.commit(&lists.collect::<Result<Vec<_>, _>>()?)
        },
        move |host| host.commit(&nodes.into_iter().map(Change::remove).collect::<Vec<_>>()),
    )
}

/// Does nothing. When what comes next has been undone, the guest must have kept nothing of it: it may be running, and have made use of a
/// right while it had it.
pub(super) fn guard(
    rollback: &mut RollbackStack<'_>,
    guest: &DomainName,
    facts: &[DeviceResources],
) -> Result<(), Error> {
    let (guest, facts) = (guest.clone(), facts.to_vec());
    rollback.step(
        format!("so far {guest} has nothing of the devices"),
        |_| Ok(()),
        move |host| in_use::hold(host, &guest, &facts).map(drop),
    )
}

/// Lets the guest use registers and interrupts.
pub(super) fn grant(rollback: &mut RollbackStack<'_>, guest: &DomainName, rights: &GuestRights) -> Result<(), Error> {
    let id = guest.id;
    for frames in rights.frames.iter().copied() {
        let what = format!("let {guest} map {} pages from frame {:#x}", frames.count, frames.first);
        let doing = what.clone();
        rollback.step(
            what.clone(),
            |host| host.hypervisor.set_iomem(id, frames, Allow).doing(|| doing),
            move |host| host.hypervisor.set_iomem(id, frames, Revoke).doing(|| what),
        )?;
    }
    for ports in rights.ports.iter().copied() {
        let what = format!("let {guest} use {} ports from {:#x}", ports.count, ports.first);
        let doing = what.clone();
        rollback.step(
            what.clone(),
            |host| host.hypervisor.set_ioports(id, ports, Allow).doing(|| doing),
            move |host| host.hypervisor.set_ioports(id, ports, Revoke).doing(|| what),
        )?;
    }
    for gsi in rights.gsis.iter().copied() {
        let what = format!("map interrupt {gsi} to {guest}");
        let doing = what.clone();
        rollback.step(
            what.clone(),
            |host| host.hypervisor.map_gsi(id, gsi).map(drop).doing(|| doing),
            move |host| host.hypervisor.unmap_pirq(id, Pirq(gsi)).doing(|| what),
        )?;
        let what = format!("let {guest} use interrupt {gsi}");
        let doing = what.clone();
        rollback.step(
            what.clone(),
            |host| host.hypervisor.set_irq(id, Pirq(gsi), Allow).doing(|| doing),
            move |host| host.hypervisor.set_irq(id, Pirq(gsi), Revoke).doing(|| what),
        )?;
    }
    Ok(())
}

/// Gives the device's DMA to the guest.
pub(super) fn assign(rollback: &mut RollbackStack<'_>, guest: &DomainName, spec: &DeviceSpec) -> Result<(), Error> {
    let (id, device) = (guest.id, spec.device);
    let what = format!("assign {device} to {guest}");
    let relaxed = spec.rdm_policy == RdmPolicy::Relaxed;
    let doing = what.clone();
    rollback.step(
        what.clone(),
        |host| host.hypervisor.assign(id, device, relaxed).doing(|| doing),
        move |host| host.hypervisor.deassign(id, device).doing(|| what),
    )
}

/// Writes both directories. To undo that, the devices are quieted, the directories removed and the stub given the time to let
/// go, before any right is taken away.
pub(super) fn publish(
    rollback: &mut RollbackStack<'_>,
    stub: &DomainName,
    guest: &DomainName,
    export: &Export,
    devices: &[DeviceSpec],
    facts: &[DeviceResources],
) -> Result<(), Error> {
    let changes = directories::create(stub.id, guest, export, devices);
    let (facts, stub, guest) = (facts.to_vec(), stub.clone(), guest.id);
    rollback.step(
        "write the backend's and the frontend's directory",
        |host| host.commit(&changes),
        move |host| {
            // From here on the broker does nothing for the guest any more.
            let devices: Vec<Sbdf> = facts.iter().map(|facts| facts.device).collect();
            let detaching = devices.iter().map(|device| device_table::set_phase(*device, Phase::Detaching));
            host.commit(&detaching.collect::<Vec<_>>())?;
            host.commit(&audit::note_pirqs(host, &facts)?)?;
            broker::let_go(host, guest, &devices, &facts)?;
            host.commit(&directories::remove(host, stub.id, guest)?)?;
            pool::await_return(host, &stub, guest, &devices)
        },
    )
}

/// Adds the devices to those that the guest has, and has it look. To undo that, the guest is asked to let go of what it may have
/// found; one that does not loses it all the same.
pub(super) fn append(
    rollback: &mut RollbackStack<'_>,
    stub: &DomainName,
    guest: &DomainName,
    export: &Export,
    devices: &[DeviceSpec],
    facts: &[DeviceResources],
    patience: Patience,
) -> Result<(), Error> {
    let (facts, owner, receiver) = (facts.to_vec(), stub.clone(), guest.clone());
    rollback.step(
        format!("add the devices to those of {guest}"),
        |host| {
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
        },
        move |host| {
            let devices: Vec<Sbdf> = facts.iter().map(|facts| facts.device).collect();
            let if_silent = IfSilent::Leave;
            let wanted =
                Wanted { stub: &owner, guest: &receiver, devices: &devices, timeout: STUB_PATIENCE, if_silent };
            hot_unplug::withdraw(host, wanted)?;
            host.commit(&hot_unplug::phases(&devices, Phase::Detaching))?;
            host.commit(&audit::note_pirqs(host, &facts)?)?;
            broker::let_go(host, receiver.id, &devices, &facts)?;
            hot_unplug::remove_entries(host, &owner, &receiver, &devices)?;
            pool::await_return(host, &owner, receiver.id, &devices)
        },
    )
}
