//! `pcidom backend`: the host's driver domain from boot on. It is created from its xl configuration, gets the devices that the settings file names, and
//! is watched: when it has ended, the command ends, and the service manager starts it again.
//!
//! The domain is adopted where it runs already, so this process can end and start again without it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pcidom_abi::paths;
use pcidom_broker::due::ready_stub;
use xen_types::Sbdf;
use xenstore::path;

use crate::error::{DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::assignable;
use crate::ops::versions;
use crate::ops::wait::{Awaited, wait};
use crate::records::configured_devices::ConfiguredDevice;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table;
use crate::records::guard;
use crate::store::Change;

/// Time from the domain's creation to its word that it is ready. It takes milliseconds; a host that boots is busy.
pub(crate) const UNTIL_READY: Duration = Duration::from_mins(2);
/// Time after which a signal is seen that came just before the wait began.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The driver domain that a host has from boot on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriverDomain {
    /// Its xl configuration.
    pub(crate) config: PathBuf,
    /// The name in it.
    pub(crate) name: String,
}

impl DriverDomain {
    /// Makes sure that the domain is there. One that has shut down or crashed is replaced, and so is one that this command does not understand,
    /// unless guests have devices of it.
    pub(crate) fn create(&self, host: &Host) -> Result<(), Error> {
        match domain::find(host, &self.name)? {
            Some((domain, info)) if info.shutdown && !info.dying => {
                host.note(&format!("{domain} has shut down or crashed, and is replaced"));
                host.xl.destroy(domain.id)?;
            }
            Some((domain, info)) if !info.dying => match versions::check_stub(host, &domain) {
                Ok(()) => {
                    host.note(&format!("{domain} runs already"));
                    return Ok(());
                }
                Err(error @ Error::OtherVersion { .. }) => {
                    if let Err(in_use) = self.check_unused(host) {
                        host.note(&in_use.to_string());
                        return Err(error);
                    }
                    host.note(&format!("{error}; nobody uses it, and it is replaced"));
                    host.xl.destroy(domain.id)?;
                }
                Err(error) => return Err(error),
            },
            Some(_) | None => {}
        }
        host.xl.create_from(&self.config)
    }

    /// Waits until it says that it is ready.
    pub(crate) fn await_ready(&self, host: &Host) -> Result<DomainName, Error> {
        let Some((stub, _)) = domain::find(host, &self.name)? else {
            return Err(Error::StubNotRunning(self.name.clone()));
        };
        let paths = [paths::version_node(stub.id), path::RELEASE_DOMAIN.to_owned()];
        let found = host.wait_for(&paths, UNTIL_READY, || {
            versions::check_stub(host, &stub)?;
            if self.has_ended(host, &stub)? { Ok(Some(None)) } else { Ok(ready_stub(host, &self.name)?.map(Some)) }
        })?;
        match found {
            Some(Some(stub)) => Ok(stub),
            Some(None) => Err(Error::StubWentAway(stub)),
            None => Err(Error::StubNotReady(stub)),
        }
    }

    /// Gives it a device of the settings file, unless another device is there. Its name goes where xl has it.
    pub(crate) fn add(&self, host: &Host, configured: &ConfiguredDevice) -> Result<(), Error> {
        let device = configured.device;
        let record = device_table::load_one(host, device)?;
        if record.as_ref().is_none_or(|record| record.frontend.is_none()) {
            assignable::check_endpoint(host, device)?;
            if let Err(error) = configured.check_identity(host) {
                // One that the pool took again by its address, after the domain had ended.
                if record.is_some() {
                    assignable::remove(host, &[device], false)?;
                }
                // Guests' configurations name it by its address, too, and xl would give them this one.
                guard::hold(host, device, &error.to_string())?;
                return Err(error);
            }
            host.seize_in_use.set(configured.seize_in_use);
            let added = assignable::add_named(host, &[device], &self.name, configured.name.as_deref());
            host.seize_in_use.set(false);
            added?;
        }
        Ok(())
    }

    /// Waits until the domain has ended, which is an error, or until this process is told to stop. A domain that has shut down or crashed is taken away:
    /// nobody else does it, and xendomains waits for that when the host goes down.
    pub(crate) fn watch(&self, host: &Host, stub: &DomainName) -> Result<(), Error> {
        let paths = [path::RELEASE_DOMAIN.to_owned()];
        host.watch_while(&paths, LOOK_AGAIN, || {
            if !self.has_ended(host, stub)? {
                return Ok(());
            }
            if domain::info(host, stub.id)?.is_some_and(|info| !info.dying) {
                host.xl.destroy(stub.id)?;
            }
            Err(Error::StubWentAway(stub.clone()))
        })
    }

    fn has_ended(&self, host: &Host, stub: &DomainName) -> Result<bool, Error> {
        Ok(domain::info(host, stub.id)?.is_none_or(|info| info.dying || info.shutdown))
    }

    /// Ends the domain, unless guests have devices of it. Whether it has ended.
    pub(crate) fn stop(&self, host: &Host) -> Result<bool, Error> {
        let Some((stub, _)) = domain::find(host, &self.name)? else { return Ok(true) };
        match self.check_unused(host) {
            Ok(()) => host.xl.destroy(stub.id).map(|()| true),
            Err(error @ Error::StubInUse { .. }) => {
                host.note(&format!("{error}; it is left running"));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn check_unused(&self, host: &Host) -> Result<(), Error> {
        let Some((stub, _)) = domain::find(host, &self.name)? else { return Ok(()) };
        let assigned =
            |record: device_table::Record| Some((record.device, record.frontend.filter(|_| record.stub == stub.id)?));
        match device_table::load(host)?.into_iter().find_map(assigned) {
            Some((device, guest)) => Err(Error::StubInUse { stub, device, guest: domain::named(host, guest)? }),
            None => Ok(()),
        }
    }
}

/// Lets those devices go that were kept from xl and that the settings name no longer.
pub(crate) fn let_unnamed_go(host: &Host, configured: &[ConfiguredDevice]) -> Result<(), Error> {
    for device in guard::held(host)? {
        if !configured.iter().any(|named| named.device == device) {
            let mut changes = guard::let_go(device).to_vec();
            let emptied = [path::libxl_pci_dir(device), path::LIBXL_PCI.to_owned(), paths::TOOL.to_owned()];
            changes.extend(emptied.map(Change::remove_if_empty));
            host.commit(&changes)?;
        }
    }
    Ok(())
}

/// Keeps a guest's devices from xl that the settings name and no pool has, because the guest could not be created: xl, which is asked next, would give
/// it whatever is at their addresses, by dom0's xen-pciback.
pub(crate) fn keep_from_xl(
    host: &Host,
    devices: &[DeviceSpec],
    configured: &[ConfiguredDevice],
    why: &Error,
) -> Result<(), Error> {
    for spec in devices {
        let is_named = configured.iter().any(|named| named.device == spec.device);
        if is_named && device_table::load_one(host, spec.device)?.is_none() {
            guard::hold(host, spec.device, &why.to_string())?;
        }
    }
    Ok(())
}

/// Gives the devices of all pools back to dom0's drivers; none if a guest has one of them, whether or not its driver domain still runs.
pub(crate) fn release(host: &Host) -> Result<(), Error> {
    let (records, unassigned) = device_table::load_all(host)?;
    for record in &records {
        if let Some(guest) = record.frontend {
            return Err(Error::AlreadyAssigned { device: record.device, owner: domain::named(host, guest)? });
        }
    }
    let pooled = records.into_iter().map(|record| record.device);
    let devices: Vec<Sbdf> = pooled.chain(unassigned.into_iter().map(|(device, _)| device)).collect();
    assignable::remove(host, &devices, true)
}

/// Waits until a backend of this name serves; [`UNTIL_READY`] is enough for one that is created anew.
pub(crate) fn await_backend(host: &Host, name: &str, patience: Duration) -> Result<(), Error> {
    wait(host, &Awaited::Ready { backend: name.to_owned() }, patience)
}

/// Files of guests to start with the host, in the order of their names. What editors and packages leave is none of them.
pub(crate) fn guests_to_start(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| HostError::File { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_left_over = name.starts_with('.') || name.ends_with('~') || name.contains(".dpkg-");
        if !is_left_over && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
