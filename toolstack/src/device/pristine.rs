//! The configuration that a device has before any guest gets it: saved when it comes into a pool, written back after every reset and every guest.

use pci_config::{id, save_pristine};
use pcidom_abi::{Payload, Pristine};
use xen_types::{Resource, Sbdf};

use crate::device::state;
use crate::error::Error;
use crate::host::Host;
use crate::records::device_table;
use crate::sysfs::ConfigWalk as _;
use ::dom0::sysfs::Config;

/// Saves a device that comes into a pool; of one that `is_known`, for guests before, what was saved then counts.
pub(crate) fn save(host: &Host, device: Sbdf, is_known: bool) -> Result<(), Error> {
    if !is_known {
        host.sysfs.forget_pristine(device)?;
    }
    save_missing(host, device)
}

/// Saves a device of which nothing is saved, or what is is another one's: it was given to a backend by an older release, or a card was changed.
fn save_missing(host: &Host, device: Sbdf) -> Result<(), Error> {
    if !host.sysfs.exists(device) {
        return Ok(());
    }
    let saved = host.sysfs.pristine(device);
    let config = host.sysfs.config(device)?;
    let identity = config.identity()?;
    if state::is_gone(&config)? || saved.is_some_and(|saved| !saved.identity.is_other(identity)) {
        return Ok(());
    }
    let pristine = Pristine { payload: payload(host, device, &config)?, ..config.look(|space| save_pristine(space))? };
    host.sysfs.save_pristine(device, &pristine)
}

/// As [`save_missing`] for devices that are in pools or with guests; what cannot be saved is told and keeps no command from its work.
pub(crate) fn save_all_missing(host: &Host, devices: impl Iterator<Item = Sbdf>) {
    let saved = host.sysfs.saved();
    for device in devices.filter(|device| !saved.contains(device)) {
        if let Err(error) = save_missing(host, device) {
            host.note(&format!("the configuration of {device} is not saved: {error}"));
        }
    }
}

/// Writes back what was saved of a device. What only a policy opens is written where the device was not reset.
pub(crate) fn restore(host: &Host, device: Sbdf, config: &Config, is_reset: bool) -> Result<(), Error> {
    let Some(pristine) = host.sysfs.pristine(device) else { return Ok(()) };
    // What its guest could open counts only where no reset has closed it.
    let policy = if is_reset { None } else { device_table::policy(host, device)? };
    let is_open = policy.is_some_and(|policy| policy.permissive || policy.quirks().next().is_some());
    host.sysfs.restore(config, &addresses(host, device)?, &pristine, is_open)?;
    Ok(())
}

/// Forgets a device that no backend has any more.
pub(crate) fn forget(host: &Host, device: Sbdf) -> Result<(), Error> {
    let is_known = device_table::load_one(host, device)?.is_some() || device_table::backend(host, device)?.is_some();
    if is_known { Ok(()) } else { host.sysfs.forget_pristine(device) }
}

/// A virtual function has no address registers.
fn addresses(host: &Host, device: Sbdf) -> Result<Vec<(u8, Resource)>, Error> {
    Ok(if host.sysfs.physical_function(device).is_some() { Vec::new() } else { host.sysfs.resources(device)? })
}

/// Whose payload size the device's has to be. A virtual function's is its physical one's (PCIe 5.0 §9.3.5.4).
fn payload(host: &Host, device: Sbdf, config: &Config) -> Result<Option<Payload>, Error> {
    let (Some(port), None) = (host.sysfs.parent(device), host.sysfs.physical_function(device)) else { return Ok(None) };
    let above = host.sysfs.config(port)?.find_capability(id::PCI_EXPRESS)?;
    let (Some(at), Some(port_at)) = (config.find_capability(id::PCI_EXPRESS)?, above) else { return Ok(None) };
    Ok(Some(Payload { at, port, port_at }))
}
