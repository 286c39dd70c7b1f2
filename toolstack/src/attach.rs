//! `pcidom attach`: gives devices to a guest that has none yet.
//!
//! Everything that can be refused is looked at first. Then come the steps of [`perform`], each with its undo, so that a failure
//! at any point leaves things as they were (`spec/xen-platform.md` D7 gives the order).

use std::time::Duration;

use xen_types::{DomId, Errno, Pirq, Sbdf};
use xenstore::{XenbusState, path};

use crate::assignable;
use crate::broker;
use crate::connect::{self, Connection};
use crate::device_spec::{DeviceSpec, RdmPolicy};
use crate::directories;
use crate::domain;
use crate::error::{Doing, DomainName, Error};
use crate::facts::{Facts, GuestRights};
use crate::host::Host;
use crate::journal::Journal;
use crate::pool::{self, PoolState};
use crate::sysfs::{Decode, PCIBACK, ResetOutcome};
use crate::table::{self, Phase};
use crate::xen::Permission::{Allow, Revoke};

/// What is to be attached to what.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Name or number.
    pub(crate) guest: String,
    /// Name or number of the stub.
    pub(crate) backend: String,
    pub(crate) devices: Vec<DeviceSpec>,
    /// How long the guest may take.
    pub(crate) timeout: Duration,
}

/// Attaches the devices. Reclaim first: see [`crate::reclaim`].
pub(crate) fn attach(host: &Host, request: &Request) -> Result<Connection, Error> {
    if !host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Err(Error::NoIommu);
    }
    let stub = find_stub(host, &request.backend)?;
    let guest = find_guest(host, &request.guest, stub.id)?;
    let export = host.read(&path::export_node(stub.id))?.unwrap_or_default();
    if !host.sysfs.has_pciback() {
        return Err(Error::NoPciback);
    }
    for (index, spec) in request.devices.iter().enumerate() {
        if request.devices.iter().take(index).any(|other| other.device == spec.device) {
            return Err(Error::Usage(format!("{} is named twice", spec.device)));
        }
        check_device(host, spec, &guest, &stub)?;
        if spec.msitranslate {
            host.note(&format!("{}: msitranslate=1 means nothing for a PV guest and is ignored", spec.device));
        }
    }
    check_pages(host, &request.devices)?;
    Journal::run(host, |journal| perform(journal, host, request, &stub, &guest, &export))
}

/// The stub, ready to serve.
fn find_stub(host: &Host, wanted: &str) -> Result<DomainName, Error> {
    let (stub, info) = domain::find(host, wanted)?.ok_or_else(|| Error::StubNotRunning(wanted.to_owned()))?;
    if info.dying || info.shutdown || stub.id == DomId::DOM0 {
        return Err(Error::StubNotRunning(wanted.to_owned()));
    }
    if !host.exists(&path::version_node(stub.id))? {
        return Err(Error::StubNotReady(stub));
    }
    Ok(stub)
}

/// A PV guest that has no PCI devices.
fn find_guest(host: &Host, wanted: &str, stub: DomId) -> Result<DomainName, Error> {
    let (guest, info) = domain::find(host, wanted)?.ok_or_else(|| Error::NoSuchGuest(wanted.to_owned()))?;
    let unfit = |guest, why| Err(Error::UnfitGuest { guest, why });
    if guest.id == DomId::DOM0 {
        return unfit(guest, "it is dom0, which has the devices by itself");
    }
    if guest.id == stub {
        return unfit(guest, "it is the backend");
    }
    if info.dying || info.shutdown {
        return unfit(guest, "it has shut down");
    }
    if info.hvm {
        return Err(Error::NotPv(guest));
    }
    let Some(backend) = host.read(&path::child(&path::frontend_dir(guest.id), "backend-id"))? else {
        return Ok(guest);
    };
    match backend.parse().map(DomId) {
        Ok(DomId::DOM0) => Err(Error::ServedByDom0 { guest }),
        Ok(id) if !domain::is_alive(host, id)? => Err(Error::BackendGone { guest }),
        Ok(id) if id == stub => Err(Error::HasDevices { guest }),
        Ok(id) => Err(Error::ServedByOther { guest, backend: domain::named(host, id)? }),
        Err(_) => Err(Error::Nonsense { place: path::frontend_dir(guest.id), value: backend }),
    }
}

/// Whether the device is there, nobody's, and Xen would give it to the guest.
fn check_device(host: &Host, spec: &DeviceSpec, guest: &DomainName, stub: &DomainName) -> Result<(), Error> {
    let device = spec.device;
    assignable::check_endpoint(host, device)?;
    if let Some(owner) = table::libxl_owner(host, device)? {
        return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
    }
    let driver = host.sysfs.driver(device);
    if driver.as_deref() != Some(PCIBACK) && !spec.seize {
        return Err(Error::NotAssignable { device, driver });
    }
    match table::load_one(host, device)? {
        None => drop(host.sysfs.ecam_frame(device)?), // it will be handed over: is there something to hand over?
        Some(record) if record.stub != stub.id => {
            return Err(Error::OtherPool { device, stub: domain::named(host, record.stub)? });
        }
        Some(record) => {
            if let Some(owner) = record.frontend {
                return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
            }
            match pool::state(host, stub.id, device)? {
                PoolState::Free => {}
                PoolState::Lent(owner) => {
                    return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
                }
                PoolState::Refused(reason) => return Err(Error::StubRefuses { stub: stub.clone(), device, reason }),
                PoolState::New | PoolState::Released | PoolState::Unknown(_) => return Err(Error::Unsettled(device)),
            }
        }
    }
    host.hypervisor.test_assign(guest.id, device).or_else(|error| match error.errno {
        Errno::EOPNOTSUPP | Errno::ENOSYS => Err(Error::NoPassthrough { guest: guest.clone(), device }),
        Errno::EBUSY => Err(Error::OwnedElsewhere(device)),
        _ => Err(error).doing(|| format!("whether {device} can be given to {guest}")),
    })
}

/// No page of the devices may hold registers of a device that stays outside of the guest.
fn check_pages(host: &Host, devices: &[DeviceSpec]) -> Result<(), Error> {
    let wanted = |device| devices.iter().any(|spec| spec.device == device);
    let all = host.sysfs.devices()?;
    for spec in devices {
        let facts = Facts::gather(host, spec.device)?;
        for other in all.iter().copied().filter(|other| !wanted(*other)) {
            if let Some(page) = facts.shared_page(&Facts::gather(host, other)?) {
                return Err(Error::SharedPage { device: spec.device, other, page });
            }
        }
    }
    Ok(())
}

/// The steps.
fn perform<'a>(
    journal: &mut Journal<'a>,
    host: &'a Host,
    request: &Request,
    stub: &DomainName,
    guest: &DomainName,
    export: &str,
) -> Result<Connection, Error> {
    for spec in &request.devices {
        if host.sysfs.driver(spec.device).as_deref() != Some(PCIBACK) {
            assignable::park(journal, host, spec.device)?;
        }
    }
    // Only a parked device has an interrupt for sure: xen-pciback enables it.
    let facts: Vec<Facts> =
        request.devices.iter().map(|spec| Facts::gather(host, spec.device)).collect::<Result<_, _>>()?;
    for facts in &facts {
        if table::load_one(host, facts.device)?.is_none() {
            pool::hand_over(journal, stub, facts)?;
        }
    }
    reserve(journal, guest, &facts)?;
    for facts in &facts {
        prepare(journal, facts)?;
    }
    grant(journal, guest, &GuestRights::of(&facts))?;
    for spec in &request.devices {
        assign(journal, guest, spec)?;
    }
    publish(journal, stub, guest, export, &request.devices, &facts)?;
    let connection = connect::await_connection(host, stub, guest, &request.devices, request.timeout)?;
    let attached: Vec<_> = facts.iter().map(|facts| table::set_phase(facts.device, Phase::Attached)).collect();
    host.commit(&attached)?;
    Ok(connection)
}

/// Notes whose the devices are going to be.
fn reserve(journal: &mut Journal<'_>, guest: &DomainName, facts: &[Facts]) -> Result<(), Error> {
    let devices: Vec<Sbdf> = facts.iter().map(|facts| facts.device).collect();
    let changes: Vec<_> = devices.iter().flat_map(|device| table::reserve(*device, guest.id)).collect();
    journal.step(
        format!("note that the devices go to {guest}"),
        |host| host.commit(&changes),
        move |host| host.commit(&devices.into_iter().flat_map(table::unreserve).collect::<Vec<_>>()),
    )
}

/// Resets a device and brings it into the state in which a guest's driver expects to find it.
fn prepare(journal: &mut Journal<'_>, facts: &Facts) -> Result<(), Error> {
    let (device, decode) = (facts.device, facts.decode());
    journal.step(
        format!("reset {device}"),
        |host| {
            host.sysfs.config(device)?.quiesce(decode)?;
            reset(host, device, decode)
        },
        |_| Ok(()),
    )?;
    journal.step(
        format!("make {device} ready for a driver"),
        |host| host.sysfs.config(device)?.prepare(decode),
        move |host| host.sysfs.config(device)?.quiesce(decode),
    )
}

/// Resets a device if that is possible, and leaves it quiet. That it is not possible is not rare and no reason to stop (libxl
/// does not even tell).
pub(crate) fn reset(host: &Host, device: Sbdf, decode: Decode) -> Result<(), Error> {
    match host.sysfs.reset(device) {
        Ok(ResetOutcome::Done) => {}
        Ok(ResetOutcome::NoMethod) => {
            host.note(&format!("{device} cannot be reset by itself; it was made quiet through its registers instead"));
        }
        Err(error) => host.note(&format!("{device} was not reset: {error}")),
    }
    host.sysfs.config(device)?.quiesce(decode)
}

/// Lets the guest use registers and interrupts.
fn grant(journal: &mut Journal<'_>, guest: &DomainName, rights: &GuestRights) -> Result<(), Error> {
    let id = guest.id;
    for frames in rights.frames.iter().copied() {
        let what = format!("let {guest} map {} pages from frame {:#x}", frames.count, frames.first);
        let doing = what.clone();
        journal.step(
            what.clone(),
            |host| host.hypervisor.set_iomem(id, frames, Allow).doing(|| doing),
            move |host| host.hypervisor.set_iomem(id, frames, Revoke).doing(|| what),
        )?;
    }
    for ports in rights.ports.iter().copied() {
        let what = format!("let {guest} use {} ports from {:#x}", ports.count, ports.first);
        let doing = what.clone();
        journal.step(
            what.clone(),
            |host| host.hypervisor.set_ioports(id, ports, Allow).doing(|| doing),
            move |host| host.hypervisor.set_ioports(id, ports, Revoke).doing(|| what),
        )?;
    }
    for gsi in rights.gsis.iter().copied() {
        let what = format!("map interrupt {gsi} to {guest}");
        let doing = what.clone();
        journal.step(
            what.clone(),
            |host| host.hypervisor.map_gsi(id, gsi).map(drop).doing(|| doing),
            move |host| host.hypervisor.unmap_pirq(id, Pirq(gsi)).doing(|| what),
        )?;
        let what = format!("let {guest} use interrupt {gsi}");
        let doing = what.clone();
        journal.step(
            what.clone(),
            |host| host.hypervisor.set_irq(id, Pirq(gsi), Allow).doing(|| doing),
            move |host| host.hypervisor.set_irq(id, Pirq(gsi), Revoke).doing(|| what),
        )?;
    }
    Ok(())
}

/// Gives the device's DMA to the guest.
fn assign(journal: &mut Journal<'_>, guest: &DomainName, spec: &DeviceSpec) -> Result<(), Error> {
    let (id, device) = (guest.id, spec.device);
    let what = format!("assign {device} to {guest}");
    let relaxed = spec.rdm_policy == RdmPolicy::Relaxed;
    let doing = what.clone();
    journal.step(
        what.clone(),
        |host| host.hypervisor.assign(id, device, relaxed).doing(|| doing),
        move |host| host.hypervisor.deassign(id, device).doing(|| what),
    )
}

/// Writes both directories. To undo that, the devices are quieted, the directories removed and the stub given the time to let
/// go, before any right is taken away.
fn publish(
    journal: &mut Journal<'_>,
    stub: &DomainName,
    guest: &DomainName,
    export: &str,
    devices: &[DeviceSpec],
    facts: &[Facts],
) -> Result<(), Error> {
    let changes = directories::create(stub.id, guest, export, devices);
    let (facts, stub, guest) = (facts.to_vec(), stub.clone(), guest.id);
    journal.step(
        "write the backend's and the frontend's directory",
        |host| host.commit(&changes),
        move |host| {
            // From here on the broker does nothing for the guest any more.
            let devices: Vec<Sbdf> = facts.iter().map(|facts| facts.device).collect();
            let detaching = devices.iter().map(|device| table::set_phase(*device, Phase::Detaching));
            host.commit(&detaching.collect::<Vec<_>>())?;
            broker::let_go(host, guest, &devices, &facts)?;
            host.commit(&directories::remove(stub.id, guest))?;
            facts.iter().try_for_each(|facts| pool::await_return(host, &stub, guest, facts.device))
        },
    )
}

/// The state of one end.
pub(crate) fn end_state(host: &Host, dir: &str) -> Result<XenbusState, Error> {
    host.read_state(&path::child(dir, "state"))
}
