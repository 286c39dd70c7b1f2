//! `pcidom assignable`: adds devices to the pool and removes them, with the same bookkeeping as `xl pci-assignable-*`.

use pcidom_broker::due::{is_in_pool, ready_stub};
use xen_types::Sbdf;

use crate::device::virtual_functions;
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::ecam::Protection;
use crate::ops::device_status::{DeviceStatus, look_ahead};
use crate::ops::dom0_use;
use crate::ops::executor;
use crate::ops::in_use;
use crate::ops::named_devices::{distinct, with_name};
use crate::ops::plan::{self, Plan};
use crate::ops::pool;
use crate::ops::versions;
use crate::records::device_table::{self, Phase, Record};
use crate::records::guard;
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

/// `assignable add`: parks devices and gives them to the stub; without a stub they are handed over at their first attach. A single one may get a
/// name.
pub(crate) fn add_named(host: &Host, devices: &[Sbdf], backend: &str, name: Option<&str>) -> Result<(), Error> {
    let (plan, stub) = plan_add(host, devices, backend, name)?;
    executor::execute(host, &plan)?;
    if let Some(what) = Protection::find(host).trouble() {
        host.note(&format!("{what}, so the backend could write the devices' configuration space by itself"));
    }
    if stub.is_none() {
        host.note(&format!("the backend {backend} is not ready; it gets the devices when it is"));
    }
    Ok(())
}

/// As [`add_named`], without a name.
#[cfg(test)]
pub(crate) fn add(host: &Host, devices: &[Sbdf], backend: &str) -> Result<(), Error> {
    add_named(host, devices, backend, None)
}

/// What [`add_named`] would do, and the stub that would get the devices. Everything that can be refused is.
pub(crate) fn plan_add(
    host: &Host,
    devices: &[Sbdf],
    backend: &str,
    name: Option<&str>,
) -> Result<(Plan, Option<DomainName>), Error> {
    if !host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Err(Error::NoIommu);
    }
    if !host.sysfs.has_pciback() {
        return Err(Error::NoPciback);
    }
    if let Some(name) = name {
        check_name(host, devices, name)?;
    }
    let stub = ready_stub(host, backend)?;
    versions::check_named(host, backend)?;
    let devices = distinct(devices);
    let all = host.at_one_moment(|| {
        look_ahead(host, stub.as_ref().map(|stub| stub.id), devices.iter().copied())?;
        let mut all: Vec<DeviceStatus> = Vec::new();
        for device in devices {
            check_addable(host, device, stub.as_ref())?;
            all.push(DeviceStatus::gather(host, device)?);
        }
        Ok::<_, Error>(all)
    })?;
    dom0_use::check(host, &all.iter().map(DeviceStatus::device).collect::<Vec<_>>())?;
    if let Some(stub) = &stub {
        let new = all.iter().filter(|status| status.stub.is_none());
        pool::check_room(host, stub, new.count())?;
    }
    Ok((plan::pool::add(&all, stub.as_ref(), backend, name), stub))
}

/// A name is for one device, and each has one of its own.
fn check_name(host: &Host, devices: &[Sbdf], name: &str) -> Result<(), Error> {
    let [device] = distinct(devices)[..] else {
        return Err(Error::Usage(format!("the name {name} is for one device, and {} are named", devices.len())));
    };
    match with_name(host, name)? {
        Some(other) if other != device => Err(Error::NameTaken { name: name.to_owned(), device: other }),
        _ => Ok(()),
    }
}

fn check_addable(host: &Host, device: Sbdf, stub: Option<&DomainName>) -> Result<(), Error> {
    check_endpoint(host, device)?;
    virtual_functions::check(host, device)?;
    let record = device_table::load_one(host, device)?;
    guard::check(host, device, record.as_ref())?;
    if let Some(record) = record {
        if let Some(owner) = record.frontend {
            return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
        }
        if stub.is_some_and(|stub| stub.id != record.stub) {
            return Err(Error::OtherPool { device, stub: domain::named(host, record.stub)? });
        }
        if guard::is_parked(host, device) {
            host.note(&format!("{device} is in the pool already"));
            return Ok(());
        }
        host.note(&format!("{device} is in the pool and was taken from xen-pciback: it is prepared anew"));
    }
    if stub.is_some() {
        host.sysfs.ecam_frame(device)?; // it will be handed over: is there something to hand over?
    }
    Ok(())
}

/// `assignable remove`: takes devices from the stub and from xen-pciback; with `rebind` the drivers that had them get them
/// back.
pub(crate) fn remove(host: &Host, devices: &[Sbdf], rebind: bool) -> Result<(), Error> {
    executor::execute(host, &plan_remove(host, devices, rebind)?)
}

/// What [`remove`] would do. Everything that can be refused is.
pub(crate) fn plan_remove(host: &Host, devices: &[Sbdf], rebind: bool) -> Result<Plan, Error> {
    let devices = distinct(devices);
    let all = host.at_one_moment(|| {
        look_ahead(host, None, devices.iter().copied())?;
        devices.iter().try_for_each(|device| check_removable(host, *device))?;
        devices.iter().map(|device| DeviceStatus::gather(host, *device)).collect::<Result<Vec<_>, _>>()
    })?;
    all.iter().for_each(|status| note_unknown_driver(host, status, rebind));
    Ok(plan::pool::remove(&all, rebind))
}

/// Says of a device that it gets no driver though one is wanted.
pub(crate) fn note_unknown_driver(host: &Host, status: &DeviceStatus, rebind: bool) {
    if rebind && status.is_there && plan::pool::driver_to_rebind(status).is_none() {
        host.note(&format!("nothing is known of a driver that had {}; it has none now", status.device()));
    }
}

/// Takes a free device from the pool that has it, and leaves it parked.
pub(crate) fn leave_pool(host: &Host, device: Sbdf) -> Result<(), Error> {
    let status = DeviceStatus::gather(host, device)?;
    let steps = status.stub.iter().flat_map(|stub| plan::pool::from_pool(&status, stub)).collect();
    executor::execute(host, &Plan::undone(steps))
}

fn check_removable(host: &Host, device: Sbdf) -> Result<(), Error> {
    let record = device_table::load_one(host, device)?;
    let is_gone = record.is_some() && !host.sysfs.exists(device);
    if let Some(record) = record
        && is_in_pool(host, record.stub, device)?
    {
        versions::check_stub(host, &domain::named(host, record.stub)?)?;
    }
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
