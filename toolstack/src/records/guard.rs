//! The guard: libxl's note of the domain that has a device (`/libxl/pci/BDF/domid`). xl gives nobody a device that has the note, whatever it
//! says, so each device of the table carries one: the stub's id while it is in the pool, the guest's while a guest has it.
//!
//! xl does not look whose the note is before it removes it: each `xl pci-attach` that fails and each `xl pci-detach -f` does
//! (libxl 4.17 to 4.20, `device_pci_add_done` and `device_pci_remove_common_next`). The broker mends it at once, and without a broker the
//! next command does.

use xen_types::{DomId, Sbdf};
use xenstore::path;

pub(crate) use pcidom_broker::guard::{expected, mended, node};

use pcidom_broker::guard::{self as of_broker, libxl_owner, mended_node};
use pcidom_broker::records::{Record, load_one, record_nodes};

use crate::error::{Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::records::reset_note::{forget_reset, was_reset};
use crate::store::Change;
use crate::sysfs::PCIBACK;

/// Nothing of this transaction happens when xl has the device, or is about to. Whose it is by our own word, `ours` says.
pub(crate) fn expect(device: Sbdf, ours: Option<DomId>) -> Change {
    Change::expect_no_other(node(device), ours.map(|ours| ours.to_string()))
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

/// Puts the guards right that do not name whom they should ([`of_broker::mend`]), and tells of devices that somebody has taken from
/// xen-pciback.
pub(crate) fn mend(host: &Host, records: &[Record]) -> Result<(), Error> {
    for record in records.iter().filter(|record| !is_parked(host, record.device)) {
        note_stray(host, record)?;
    }
    of_broker::mend(host, records)?;
    Ok(())
}

/// Whether xen-pciback has a device, or it was pulled out: nobody else of dom0 is at it.
pub(crate) fn is_parked(host: &Host, device: Sbdf) -> bool {
    !host.sysfs.exists(device) || host.sysfs.driver(device).as_deref() == Some(PCIBACK)
}

/// A device of the table that is not with xen-pciback: a driver of dom0 may have used it since its reset.
fn note_stray(host: &Host, record: &Record) -> Result<(), Error> {
    let device = record.device;
    let [stub, ..] = record_nodes(device);
    if was_reset(host, device)? && host.commit_if(&[Change::expect(stub, record.stub), forget_reset(device)])? {
        host.note(&format!(
            "{device} is in the pool and not with xen-pciback any more: `pcidom assignable add {device}` parks it again, \
             `pcidom assignable remove {device}` lets it go"
        ));
    }
    Ok(())
}
