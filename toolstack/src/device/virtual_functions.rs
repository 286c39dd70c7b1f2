//! Which functions of an SR-IOV device may be assigned. Virtual ones may while dom0 keeps the physical one, because the
//! owner of that can reset, starve and remove them.

use xen_types::Sbdf;

use crate::error::Error;
use crate::host::Host;
use crate::sysfs::PCIBACK;

/// Refuses a physical function that has virtual ones, and a virtual one whose physical function is for guests.
pub(crate) fn check(host: &Host, device: Sbdf) -> Result<(), Error> {
    let count = host.sysfs.virtual_functions(device);
    if count != 0 {
        return Err(Error::HasVirtualFunctions { device, count });
    }
    match host.sysfs.physical_function(device) {
        Some(physical) if host.sysfs.driver(physical).as_deref() == Some(PCIBACK) => {
            Err(Error::PhysicalFunctionAway { device, physical })
        }
        _ => Ok(()),
    }
}
