//! The guard: libxl's note of the domain that has a device (`/libxl/pci/BDF/domid`). xl gives nobody a device that has the note, whatever it
//! says, so each device of the table carries one: the stub's id while it is in the pool, the guest's while a guest has it.
//!
//! xl does not look whose the note is before it removes it: each `xl pci-attach` that fails and each `xl pci-detach -f` does
//! (libxl 4.17 to 4.20, `device_pci_add_done` and `device_pci_remove_common_next`). The broker mends it at once, and without a broker the
//! next command does.

use xen_types::{DomId, Sbdf};
use xenstore::{Permission, path};

pub(crate) use pcidom_broker::guard::{expected, is_parked, mend, mended, mended_node, node};

use pcidom_abi::paths;
use pcidom_broker::guard::{NOBODY, libxl_owner};
use pcidom_broker::records::{Record, load_one};

use crate::error::{Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::store::Change;

/// Nothing of this transaction happens when xl has the device, or is about to. Whose it is by our own word, `ours` says.
pub(crate) fn expect(device: Sbdf, ours: Option<DomId>) -> Change {
    Change::expect_no_other(node(device), ours.map(|ours| ours.to_string()))
}

/// Keeps xl from giving a device to anybody that no stub has. One that xl has given away already stays where it is.
pub(crate) fn hold(host: &Host, device: Sbdf, why: &str) -> Result<(), Error> {
    let private = [Permission::none(DomId::DOM0)];
    let mut changes: Vec<Change> =
        [paths::TOOL, paths::HELD].into_iter().flat_map(|dir| Change::directory(dir, &private)).collect();
    changes.push(Change::write(paths::held_node(device), why));
    changes.push(Change::replace(node(device), NOBODY, Some(NOBODY.to_string())));
    host.commit(&changes)
}

/// Devices that are held.
pub(crate) fn held(host: &Host) -> Result<Vec<Sbdf>, Error> {
    let names = host.list(paths::HELD)?;
    Ok(names.iter().filter_map(|name| Sbdf::parse_path_component(name).ok()).collect())
}

/// A device that may be held goes into a pool, or is left to whoever wants it.
pub(crate) fn let_go(device: Sbdf) -> [Change; 3] {
    [
        Change::remove(paths::held_node(device)),
        Change::remove_if_empty(paths::HELD),
        Change::replace(node(device), NOBODY, None),
    ]
}

/// The guard goes from one domain to another with the device, and the count begins anew.
pub(crate) fn pass(device: Sbdf, from: DomId, to: DomId) -> Vec<Change> {
    vec![Change::replace(node(device), from, Some(to.to_string())), Change::remove(mended_node(device))]
}

/// The device is no longer ours. What xl may have noted meanwhile stays.
pub(crate) fn lift(record: &Record) -> Vec<Change> {
    vec![
        Change::replace(node(record.device), expected(record), None),
        Change::remove_if_empty(path::libxl_pci_dir(record.device)),
        Change::remove_if_empty(path::LIBXL_PCI),
    ]
}

/// The domain that xl says has the device, where that is not whom the table names.
pub(crate) fn stranger(host: &Host, device: Sbdf, record: Option<&Record>) -> Result<Option<DomId>, Error> {
    let owner = libxl_owner(host, device)?;
    Ok(owner.filter(|owner| record.is_none_or(|record| expected(record) != *owner)))
}

/// Refuses a device that xl has.
pub(crate) fn check(host: &Host, device: Sbdf, record: Option<&Record>) -> Result<(), Error> {
    match stranger(host, device, record)? {
        Some(owner) => Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? }),
        None => Ok(()),
    }
}

/// Makes changes that [`expect`] something of the devices' guards.
///
/// # Errors
/// [`Error::AlreadyAssigned`] when xl came first.
pub(crate) fn commit(host: &Host, devices: &[Sbdf], changes: &[Change]) -> Result<(), Error> {
    if host.commit_if(changes)? {
        return Ok(());
    }
    for device in devices.iter().copied() {
        check(host, device, load_one(host, device)?.as_ref())?;
    }
    Err(HostError::ChangedMeanwhile.into())
}
