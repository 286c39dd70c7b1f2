//! `pcidom assignable`: which devices may be given to guests, with the same bookkeeping as `xl pci-assignable-*`.

use xen_types::{DomId, Errno, Sbdf};
use xenstore::path;

use crate::device::resources::DeviceResources;
use crate::device::virtual_functions;
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::ecam::Protection;
use crate::ops::in_use;
use crate::ops::intent_log::{self, Work};
use crate::ops::pool;
use crate::records::device_table::{self, Phase, Record};
use crate::records::guard;
use crate::records::rollback::RollbackStack;
use crate::store::Change;
use crate::sysfs::PCIBACK;

/// Only endpoints that dom0 knows can be given away.
pub(crate) fn check_endpoint(host: &Host, device: Sbdf) -> Result<(), Error> {
    if !host.sysfs.exists(device) {
        return Err(Error::NoSuchDevice(device));
    }
    if host.sysfs.is_bridge(device)? {
        return Err(Error::Bridge(device));
    }
    Ok(())
}

/// Where `xl` keeps the driver to which the device goes back.
fn driver_path_node(device: Sbdf) -> String {
    path::child(&path::libxl_pci_dir(device), "driver_path")
}

/// Takes a device from dom0's driver, parks it with xen-pciback and puts its DMA into quarantine. One that is parked already may never have been
/// there: xen-pciback took it at boot (`xen-pciback.hide=`).
pub(crate) fn park(rollback: &mut RollbackStack<'_>, host: &Host, device: Sbdf) -> Result<(), Error> {
    let driver = host.sysfs.driver(device);
    if driver.as_deref() == Some(PCIBACK) {
        // To be in quarantine is nothing that would have to be undone.
        return rollback.step(format!("put {device} into quarantine"), |host| quarantine(host, device), |_| Ok(()));
    }
    if let Some(driver) = driver {
        let remembered = host.read(&driver_path_node(device))?;
        let path = format!("/sys/bus/pci/drivers/{driver}");
        rollback.step(
            format!("remember that {driver} had {device}"),
            |host| host.commit(&[Change::write(driver_path_node(device), path)]),
            move |host| host.commit(&set_driver(device, remembered)),
        )?;
        let back = driver.clone();
        rollback.step(
            format!("unbind {device} from {driver}"),
            |host| host.sysfs.unbind(device, &driver),
            move |host| bind(host, device, &back),
        )?;
    }
    if !host.sysfs.has_pciback_slot(device)? {
        rollback.step(
            format!("have xen-pciback accept {device}"),
            |host| host.sysfs.add_pciback_slot(device),
            move |host| host.sysfs.remove_pciback_slot(device),
        )?;
    }
    bind_step(rollback, device, PCIBACK)?;
    rollback.step(
        format!("put {device} into quarantine"),
        |host| quarantine(host, device),
        move |host| host.hypervisor.deassign(DomId::IO, device).doing(|| format!("end the quarantine of {device}")),
    )
}

/// Binds a device to a driver. Linux binds none but the one that `driver_override` names where that is set: it is out of the way meanwhile, and
/// afterwards what the admin wrote there. The note of the command's work has it for the next command if this one is killed.
fn bind_step(rollback: &mut RollbackStack<'_>, device: Sbdf, driver: &str) -> Result<(), Error> {
    let wanted = override_in_the_way(rollback.host(), device, driver);
    if let Some(wanted) = wanted.clone() {
        let back = wanted.clone();
        rollback.step(
            format!("set the driver_override of {device}, which is {wanted}, to {driver}"),
            |host| {
                host.commit(&[intent_log::note_override(device, &wanted)])?;
                host.sysfs.set_driver_override(device, driver)
            },
            move |host| host.sysfs.set_driver_override(device, &back),
        )?;
    }
    let bound = driver.to_owned();
    rollback.step(
        format!("bind {device} to {driver}"),
        |host| host.sysfs.bind(device, driver),
        move |host| host.sysfs.unbind(device, &bound),
    )?;
    let Some(wanted) = wanted else { return Ok(()) };
    rollback.step(
        format!("set the driver_override of {device} to {wanted} again"),
        |host| host.sysfs.set_driver_override(device, &wanted),
        |_| Ok(()), // the first step's undo does it anyway
    )
}

/// As [`bind_step`], to undo something.
fn bind(host: &Host, device: Sbdf, driver: &str) -> Result<(), Error> {
    let Some(wanted) = override_in_the_way(host, device, driver) else {
        return host.sysfs.bind(device, driver);
    };
    host.commit(&[intent_log::note_override(device, &wanted)])?;
    host.sysfs.set_driver_override(device, driver)?;
    let bound = host.sysfs.bind(device, driver);
    host.sysfs.set_driver_override(device, &wanted)?;
    bound
}

/// What `driver_override` says, if it does not let the driver have the device.
fn override_in_the_way(host: &Host, device: Sbdf, driver: &str) -> Option<String> {
    host.sysfs.driver_override(device).filter(|wanted| wanted != driver)
}

/// Gives the device's DMA to nobody. The strict rule about memory that firmware reserved is for guests, which would have to map it:
/// nobody does anything in quarantine.
pub(crate) fn quarantine(host: &Host, device: Sbdf) -> Result<(), Error> {
    match host.hypervisor.assign(DomId::IO, device, true) {
        Err(error) if matches!(error.errno, Errno::EOPNOTSUPP | Errno::ENOSYS) => Err(Error::NoIommu),
        outcome => outcome.doing(|| format!("quarantine {device}")),
    }
}

/// What `xl` shall know of the driver that had the device.
pub(crate) fn set_driver(device: Sbdf, path: Option<String>) -> Vec<Change> {
    let dir = path::libxl_pci_dir(device);
    match path {
        Some(path) => vec![Change::write(driver_path_node(device), path)],
        None => vec![
            Change::remove(driver_path_node(device)),
            Change::remove_if_empty(dir),
            Change::remove_if_empty(path::LIBXL_PCI),
        ],
    }
}

/// `assignable add`: parks devices and gives them to the stub; without a stub they are handed over at their first attach.
pub(crate) fn add(host: &Host, devices: &[Sbdf], backend: &str) -> Result<(), Error> {
    if !host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Err(Error::NoIommu);
    }
    if !host.sysfs.has_pciback() {
        return Err(Error::NoPciback);
    }
    let stub = ready_stub(host, backend)?;
    let mut works = Vec::new();
    for device in devices.iter().copied() {
        check_endpoint(host, device)?;
        virtual_functions::check(host, device)?;
        works.extend(Work::to_add(host, device, stub.as_ref().map(|stub| stub.id))?.map(|work| (device, work)));
    }
    let working: Vec<Sbdf> = works.iter().map(|(device, _)| *device).collect();
    let strays = devices.iter().map(|device| stray(host, *device)).collect::<Result<Vec<_>, _>>()?;
    RollbackStack::run(host, |rollback| {
        intent_log::begin(rollback, works)?;
        for (device, stray) in devices.iter().zip(&strays) {
            add_one(rollback, host, *device, stub.as_ref(), stray.as_ref())?;
        }
        let mut changes = intent_log::done(&working);
        if stub.is_none() {
            changes.extend(devices.iter().flat_map(|device| device_table::remember(*device, backend)));
        }
        host.commit(&changes)
    })?;
    if let Some(what) = Protection::find(host).trouble() {
        host.note(&format!("{what}, so the backend could write the devices' configuration space by itself"));
    }
    if stub.is_none() {
        host.note(&format!("the backend {backend} is not ready; it gets the devices when it is"));
    }
    Ok(())
}

/// The stub, if it could take a device now.
pub(crate) fn ready_stub(host: &Host, backend: &str) -> Result<Option<DomainName>, Error> {
    let Some((stub, info)) = domain::find(host, backend)? else {
        return Ok(None);
    };
    let ready = stub.id != DomId::DOM0 && !info.dying && !info.shutdown && host.exists(&path::version_node(stub.id))?;
    Ok(ready.then_some(stub))
}

/// What is known of a device that a stub holds, and that somebody has taken from xen-pciback.
fn stray(host: &Host, device: Sbdf) -> Result<Option<DeviceResources>, Error> {
    let is_held = device_table::load_one(host, device)?.is_some();
    (is_held && !guard::is_parked(host, device)).then(|| facts_of(host, device)).transpose()
}

fn add_one<'a>(
    rollback: &mut RollbackStack<'a>,
    host: &'a Host,
    device: Sbdf,
    stub: Option<&DomainName>,
    stray: Option<&'a DeviceResources>,
) -> Result<(), Error> {
    check_endpoint(host, device)?;
    let record = device_table::load_one(host, device)?;
    guard::check(host, device, record.as_ref())?;
    if let Some(record) = record {
        if let Some(owner) = record.frontend {
            return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
        }
        if stub.is_some_and(|stub| stub.id != record.stub) {
            return Err(Error::OtherPool { device, stub: domain::named(host, record.stub)? });
        }
        let Some(facts) = stray else {
            host.note(&format!("{device} is in the pool already"));
            return Ok(());
        };
        host.note(&format!("{device} is in the pool and was taken from xen-pciback: it is prepared anew"));
        pool::take(rollback, &domain::named(host, record.stub)?, facts)?;
    }
    if stub.is_some() {
        host.sysfs.ecam_frame(device)?; // before anything is done
    }
    park(rollback, host, device)?;
    match stub {
        Some(stub) => pool::hand_over(rollback, stub, &DeviceResources::gather(host, device)?),
        None => Ok(()),
    }
}

/// `assignable remove`: takes devices from the stub and from xen-pciback; with `rebind` the drivers that had them get them
/// back.
pub(crate) fn remove(host: &Host, devices: &[Sbdf], rebind: bool) -> Result<(), Error> {
    for device in devices.iter().copied() {
        check_removable(host, device)?;
    }
    let facts = devices.iter().map(|device| facts_of(host, *device)).collect::<Result<Vec<_>, _>>()?;
    let works = devices.iter().map(|device| (*device, Work::Remove { rebind })).collect();
    RollbackStack::run(host, |rollback| {
        intent_log::begin(rollback, works)?;
        facts.iter().try_for_each(|facts| remove_one(rollback, host, facts, rebind))?;
        // Also the one that was only parked, and was to be given to a stub that never came.
        let mut changes = Vec::new();
        for device in devices.iter().copied() {
            changes.extend(device_table::forget(host, device)?);
        }
        changes.extend(intent_log::done(devices));
        host.commit(&changes)
    })
}

/// Of a device that was pulled out there is what the pool says.
pub(crate) fn facts_of(host: &Host, device: Sbdf) -> Result<DeviceResources, Error> {
    match device_table::load_one(host, device)? {
        Some(record) => DeviceResources::find(host, record.stub, device),
        None => DeviceResources::gather(host, device),
    }
}

fn check_removable(host: &Host, device: Sbdf) -> Result<(), Error> {
    let record = device_table::load_one(host, device)?;
    let is_gone = record.is_some() && !host.sysfs.exists(device);
    if !is_gone {
        check_endpoint(host, device)?;
    }
    if let Some(Record { phase: Phase::Leaked, frontend: Some(holder), .. }) = record {
        return Err(in_use::refusal(host, device, holder)?);
    }
    if let Some(owner) = guard::stranger(host, device, record.as_ref())?.or_else(|| record?.frontend) {
        return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
    }
    match host.sysfs.driver(device) {
        _ if is_gone => Ok(()),
        Some(driver) if driver == PCIBACK => Ok(()),
        // Somebody took it from xen-pciback under us.
        _ if record.is_some() => Ok(()),
        driver => Err(Error::NotAssignable { device, driver }),
    }
}

/// One device, from wherever it is on that way.
pub(crate) fn remove_one<'a>(
    rollback: &mut RollbackStack<'a>,
    host: &Host,
    facts: &'a DeviceResources,
    rebind: bool,
) -> Result<(), Error> {
    let device = facts.device;
    if let Some(record) = device_table::load_one(host, device)? {
        pool::take(rollback, &domain::named(host, record.stub)?, facts)?;
    }
    if !host.sysfs.exists(device) {
        return Ok(()); // pulled out: no driver has it, and Xen has forgotten it
    }
    let what = format!("end the quarantine of {device}");
    match end_quarantine(host, device)? {
        Quarantine::Never => {}
        Quarantine::Ended => rollback.record(what, move |host| quarantine(host, device)),
    }
    if host.sysfs.driver(device).as_deref() == Some(PCIBACK) {
        rollback.step(
            format!("unbind {device} from xen-pciback"),
            |host| host.sysfs.unbind(device, PCIBACK),
            move |host| bind(host, device, PCIBACK),
        )?;
    }
    if host.sysfs.has_pciback_slot(device)? {
        rollback.step(
            format!("have xen-pciback forget {device}"),
            |host| host.sysfs.remove_pciback_slot(device),
            move |host| host.sysfs.add_pciback_slot(device),
        )?;
    }
    if rebind { rebind_driver(rollback, host, device) } else { Ok(()) }
}

enum Quarantine {
    Ended,
    /// Parked since boot (`xen-pciback.hide=`), or it has ended already.
    Never,
}

fn end_quarantine(host: &Host, device: Sbdf) -> Result<Quarantine, Error> {
    match host.hypervisor.deassign(DomId::IO, device) {
        Err(error) if matches!(error.errno, Errno::ENODEV | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(Quarantine::Never),
        outcome => outcome.doing(|| format!("end the quarantine of {device}")).map(|()| Quarantine::Ended),
    }
}

/// Undoes what [`park`] did, or part of it, for a command that was killed.
pub(crate) fn unpark(host: &Host, device: Sbdf, driver: Option<&str>) -> Result<(), Error> {
    if host.sysfs.exists(device) {
        end_quarantine(host, device)?;
        if host.sysfs.driver(device).as_deref() == Some(PCIBACK) {
            host.sysfs.unbind(device, PCIBACK)?;
        }
        if host.sysfs.has_pciback_slot(device)? {
            host.sysfs.remove_pciback_slot(device)?;
        }
        if let (Some(driver), None) = (driver, host.sysfs.driver(device)) {
            bind(host, device, driver)?;
        }
    }
    host.commit(&set_driver(device, None))
}

fn rebind_driver(rollback: &mut RollbackStack<'_>, host: &Host, device: Sbdf) -> Result<(), Error> {
    let remembered = host.read(&driver_path_node(device))?;
    let Some(driver) = remembered.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned) else {
        host.note(&format!("nothing is known of a driver that had {device}; it has none now"));
        return Ok(());
    };
    if host.sysfs.driver(device).is_none() {
        bind_step(rollback, device, &driver)?;
    }
    rollback.step(
        format!("forget the driver of {device}"),
        |host| host.commit(&set_driver(device, None)),
        move |host| host.commit(&set_driver(device, remembered)),
    )
}
