//! Actions on a device between dom0's drivers, xen-pciback and quarantine, with the same bookkeeping as `xl pci-assignable-*`.

use xen_types::{DomId, Errno, Sbdf};
use xenstore::path;

use crate::error::{Doing, Error};
use crate::host::Host;
use crate::ops::intent_log;
use crate::store::Change;
use crate::sysfs::PCIBACK;

/// xl's node with the driver to which the device goes back.
pub(super) fn driver_path_node(device: Sbdf) -> String {
    path::child(&path::libxl_pci_dir(device), "driver_path")
}

/// xl's node with the name under which a device was made assignable.
pub(crate) fn name_node(device: Sbdf) -> String {
    path::child(&path::libxl_pci_dir(device), "name")
}

/// Forgets the name, as xl does when a device is assignable no more.
pub(crate) fn forget_name(device: Sbdf) -> [Change; 3] {
    [
        Change::remove(name_node(device)),
        Change::remove_if_empty(path::libxl_pci_dir(device)),
        Change::remove_if_empty(path::LIBXL_PCI),
    ]
}

/// The driver to which the device goes back, by its folder in sysfs.
pub(crate) fn noted_driver(host: &Host, device: Sbdf) -> Result<Option<String>, Error> {
    host.read(&driver_path_node(device))
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

/// Has `driver_override` name a driver instead of what an admin wrote there, which the intent log keeps for the next command if this one is
/// killed.
pub(crate) fn override_driver(host: &Host, device: Sbdf, admins: &str, driver: &str) -> Result<(), Error> {
    host.commit(&[intent_log::note_override(device, admins)])?;
    host.sysfs.set_driver_override(device, driver)
}

/// Binds a device to a driver. Linux binds none but the one that `driver_override` names where that is set: it is out of the way meanwhile, and
/// afterwards what the admin wrote there.
pub(crate) fn bind(host: &Host, device: Sbdf, driver: &str) -> Result<(), Error> {
    let Some(admins) = host.sysfs.driver_override(device).filter(|wanted| wanted != driver) else {
        return host.sysfs.bind(device, driver);
    };
    override_driver(host, device, &admins, driver)?;
    let bound = host.sysfs.bind(device, driver);
    host.sysfs.set_driver_override(device, &admins)?;
    bound
}

/// Gives the device's DMA to nobody. The strict rule about memory that firmware reserved is for guests, which would have to map it:
/// nobody does anything in quarantine.
pub(crate) fn quarantine(host: &Host, device: Sbdf) -> Result<(), Error> {
    match host.hypervisor.assign(DomId::IO, device, true) {
        Err(error) if matches!(error.errno, Errno::EOPNOTSUPP | Errno::ENOSYS) => Err(Error::NoIommu),
        outcome => outcome.doing(|| format!("quarantine {device}")),
    }
}

/// Gives the device's DMA back to dom0. False where it was not in quarantine: it is parked since boot (`xen-pciback.hide=`), or that has
/// ended already.
pub(crate) fn end_quarantine(host: &Host, device: Sbdf) -> Result<bool, Error> {
    match host.hypervisor.deassign(DomId::IO, device) {
        Err(error) if matches!(error.errno, Errno::ENODEV | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        outcome => outcome.doing(|| format!("end the quarantine of {device}")).map(|()| true),
    }
}

/// Undoes what parking a device did, or part of it, for a command that was killed.
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
