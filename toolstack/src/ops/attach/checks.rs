//! Checks of an attach, all made before anything is changed.

use pcidom_abi::paths;
use xen_types::{DomId, Errno, Sbdf};
use xenstore::path;

use crate::device::resources::{DeviceResources, pages_of_other, share_nothing, shared_page};
use crate::device::state;
use crate::device::virtual_functions;
use crate::error::{Doing, DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::assignable;
use crate::ops::in_use;
use crate::ops::pool::{self, PoolState};
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Phase, Record};
use crate::records::directories;
use crate::records::guard;
use crate::sysfs::PCIBACK;
use crate::xen::DomainInfo;

/// The stub, ready to serve.
pub(crate) fn find_stub(host: &Host, wanted: &str) -> Result<DomainName, Error> {
    ready(host, wanted, domain::find(host, wanted)?)
}

/// The stub that was `found` under the name, ready to serve.
pub(super) fn ready(host: &Host, wanted: &str, found: Option<(DomainName, DomainInfo)>) -> Result<DomainName, Error> {
    let (stub, info) = found.ok_or_else(|| Error::StubNotRunning(wanted.to_owned()))?;
    if info.dying || info.shutdown || stub.id == DomId::DOM0 {
        return Err(Error::StubNotRunning(wanted.to_owned()));
    }
    if !host.exists(&paths::version_node(stub.id))? {
        return Err(Error::StubNotReady(stub));
    }
    Ok(stub)
}

/// A guest that devices can be given to.
pub(super) struct Found {
    /// The domain with the frontend: a PV guest, or the stub domain of an HVM guest.
    pub(super) frontend: DomainName,
    /// The HVM guest.
    pub(super) target: Option<DomainName>,
    /// Whether the frontend has a connection to the stub.
    pub(super) has_connection: bool,
}

/// The domain that was `found` under the name, which must be a PV guest or an HVM guest with a stub domain, and have no PCI devices, or such of this
/// stub. A stub domain's name means its guest.
pub(super) fn find_guest(
    host: &Host,
    wanted: &str,
    found: Option<(DomainName, DomainInfo)>,
    stub: DomId,
) -> Result<Found, Error> {
    let found = found.ok_or_else(|| Error::NoSuchGuest(wanted.to_owned()))?;
    let (named, is_hvm) = (found.0.clone(), found.1.hvm);
    let (frontend, info) = domain::frontend(host, found)?;
    let target = if is_hvm { Some(named) } else { domain::target(host, frontend.id)? };
    let has_connection = check_frontend(host, &frontend, info, stub)?;
    if let Some(target) = &target
        && domain::info(host, target.id)?.is_none_or(|info| info.dying || info.shutdown)
    {
        return Err(Error::UnfitGuest { guest: target.clone(), why: "it has shut down" });
    }
    // A stub domain may outlive its guest, whose number comes again.
    if let Some(target) = &target
        && domain::stub_domain(host, target.id)?.is_none_or(|stub_domain| stub_domain.id != frontend.id)
    {
        return Err(Error::UnfitGuest { guest: frontend, why: "it is a stub domain whose guest is gone" });
    }
    Ok(Found { frontend, target, has_connection })
}

/// Whether the frontend of a domain that is fit for one has a connection to the stub.
fn check_frontend(host: &Host, guest: &DomainName, info: DomainInfo, stub: DomId) -> Result<bool, Error> {
    let guest = guest.clone();
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
        return Ok(false);
    };
    let backend_id = backend.parse().map(DomId);
    if backend_id != Ok(stub) && host.exists(&path::backend_dir(stub, guest.id))? {
        directories::check_frontend(host, stub, &guest)?;
    }
    match backend_id {
        Ok(DomId::DOM0) => Err(Error::ServedByDom0 { guest }),
        Ok(id) if !domain::is_alive(host, id)? => Err(Error::BackendGone { guest }),
        // Its directory may be the one of a dead stub that had the same number.
        Ok(id) if id == stub && host.exists(&path::backend_dir(stub, guest.id))? => Ok(true),
        Ok(id) if id == stub => Err(Error::BackendGone { guest }),
        Ok(id) => Err(Error::ServedByOther { guest, backend: domain::named(host, id)? }),
        Err(_) => Err(HostError::Nonsense { place: path::frontend_dir(guest.id), value: backend }.into()),
    }
}

/// Whether the device is there, nobody's, and Xen would give it to the guest.
pub(super) fn check_device(host: &Host, spec: &DeviceSpec, guest: &DomainName, stub: &DomainName) -> Result<(), Error> {
    let device = spec.device;
    assignable::check_endpoint(host, device)?;
    virtual_functions::check(host, device)?;
    if state::is_gone(&host.sysfs.config(device)?)? {
        return Err(Error::Gone(device));
    }
    let record = device_table::load_one(host, device)?;
    if let Some(Record { phase: Phase::Leaked, frontend: Some(holder), .. }) = record {
        return Err(in_use::refusal(host, device, holder)?);
    }
    guard::check(host, device, record.as_ref())?;
    let driver = host.sysfs.driver(device);
    // What a stub holds and somebody took from xen-pciback is not what the stub has seen.
    if driver.as_deref() != Some(PCIBACK) && (!spec.seize || record.is_some()) {
        return Err(Error::NotAssignable { device, driver });
    }
    match record {
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
                PoolState::Assigned(owner) | PoolState::Absent(owner) => {
                    return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
                }
                PoolState::Refused(reason) => return Err(Error::StubRefuses { stub: stub.clone(), device, reason }),
                PoolState::New | PoolState::Released | PoolState::Unknown(_) => return Err(Error::Unsettled(device)),
            }
        }
    }
    host.hypervisor.test_assign(guest.id, device).or_else(|error| match error.errno {
        Errno::EOPNOTSUPP | Errno::ENOSYS => Err(Error::NoPassthrough { guest: guest.clone(), device }),
        // Xen says EINVAL for both "another domain's" and "no such device" here.
        Errno::EINVAL | Errno::EBUSY | Errno::ENODEV => Err(Error::OwnedElsewhere(device)),
        _ => Err(error).doing(|| format!("whether {device} can be given to {guest}")),
    })
}

/// No page of the devices may hold registers of a device that stays outside of the guest. `others` are those that it has.
pub(super) fn check_pages(host: &Host, devices: &[DeviceSpec], others: &[Sbdf]) -> Result<(), Error> {
    let own =
        devices.iter().map(|spec| DeviceResources::of_registers(host, spec.device)).collect::<Result<Vec<_>, _>>()?;
    let known: Vec<Sbdf> = devices.iter().map(|spec| spec.device).chain(others.iter().copied()).collect();
    // There may be hundreds, with a file each.
    if share_nothing(host, &own, &known) {
        return Ok(());
    }
    for other in host.sysfs.devices()?.into_iter().filter(|other| !known.contains(other)) {
        let pages = pages_of_other(host, other);
        for resources in &own {
            if let Some(page) = shared_page(resources, &pages) {
                return Err(Error::SharedPage { device: resources.device, other, page });
            }
        }
    }
    Ok(())
}

/// Says what a guest does not get of a device, which goes there all the same.
pub(super) fn note_limits(host: &Host, resources: &DeviceResources) -> Result<(), Error> {
    let device = resources.device;
    let elsewhere = host.sysfs.ranges_elsewhere(device)?;
    if !elsewhere.is_empty() {
        let what = elsewhere.join(", ");
        host.note(&format!("{device}: {what}: in none of its own registers, so the guest does not get that"));
    }
    if resources.gsi.is_none() && host.sysfs.has_pin(device)? {
        host.note(&format!(
            "{device}: its interrupt pin leads to no line that a guest can have (1 to 254), so its driver must use MSI or MSI-X"
        ));
    }
    Ok(())
}
