//! The guard: libxl's note of the domain that has a device (`/libxl/pci/BDF/domid`). xl gives nobody a device that has the note, whatever it
//! says, so each device of the table carries one: the stub's id while it is in the pool, the guest's while a guest has it.
//!
//! xl does not look whose the note is before it removes it: each `xl pci-attach` that fails and each `xl pci-detach -f` does
//! (libxl 4.17 to 4.20, `device_pci_add_done` and `device_pci_remove_common_next`). The broker mends it at once, and without a broker the
//! next command does.

use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::records::device_table::{self, Phase, Record};
use crate::store::Change;
use crate::sysfs::PCIBACK;

/// State of a device's guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// It names whom the table names.
    Sound,
    /// There is none: xl would give the device to anybody.
    Missing,
    /// xl has the device for this domain, or is about to.
    Names(DomId),
}

/// The domain that the guard of a device must name.
pub(crate) fn expected(record: &Record) -> DomId {
    record.frontend.unwrap_or(record.stub)
}

pub(crate) fn node(device: Sbdf) -> String {
    path::child(&path::libxl_pci_dir(device), "domid")
}

/// Node with the number of repairs of the guard since the device last changed hands.
fn mended_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "mended")
}

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
    let owner = device_table::libxl_owner(host, device)?;
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
        check(host, device, device_table::load_one(host, device)?.as_ref())?;
    }
    Err(Error::ChangedMeanwhile)
}

/// Looks at the guards of these devices.
pub(crate) fn look(host: &Host, records: &[Record]) -> Result<Vec<Guard>, Error> {
    let nodes: Vec<String> = records.iter().map(|record| node(record.device)).collect();
    let values = host.read_all(&nodes)?;
    let guard = |(record, value): (&Record, Option<String>)| match value {
        None => Ok(Guard::Missing),
        Some(value) => match device_table::parse_id(&node(record.device), value)? {
            owner if owner == expected(record) => Ok(Guard::Sound),
            owner => Ok(Guard::Names(owner)),
        },
    };
    records.iter().zip(values).map(guard).collect()
}

/// Number of repairs of the guard since the device last changed hands.
pub(crate) fn mended(host: &Host, device: Sbdf) -> Result<u32, Error> {
    Ok(host.read(&mended_node(device))?.and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// Whether xl has the device for good: a free one that it has given to a domain which is there.
pub(crate) fn is_taken(host: &Host, record: &Record, guard: Guard) -> Result<bool, Error> {
    match guard {
        // Of a device that a guest has, Xen gives xl nothing.
        Guard::Names(owner) => Ok(record.frontend.is_none() && domain::is_alive(host, owner)?),
        Guard::Sound | Guard::Missing => Ok(false),
    }
}

/// Puts the guards right that do not name whom they should, and says so. Those stay that name a domain which xl has given a free device.
/// The devices whose records changed just then: of these it is not known.
pub(crate) fn mend(host: &Host, records: &[Record]) -> Result<Vec<Sbdf>, Error> {
    let mut unknown = Vec::new();
    for (record, guard) in records.iter().zip(look(host, records)?) {
        if !is_parked(host, record.device) {
            note_stray(host, record)?;
        }
        let is_ours = || domain::is_alive(host, expected(record));
        if guard == Guard::Sound || is_taken(host, record, guard)? || !is_ours()? {
            continue;
        }
        let device = record.device;
        let count = mended(host, device)? + 1;
        let [stub, frontend, _] = device_table::record_nodes(device);
        let mut changes = vec![
            Change::expect(stub, record.stub),
            Change::expect_no_other(frontend, record.frontend.map(|guest| guest.to_string())),
            // xl may have written its own meanwhile.
            match guard {
                Guard::Names(owner) => Change::expect(node(device), owner),
                Guard::Sound | Guard::Missing => Change::expect_no_other(node(device), None),
            },
            Change::write(node(device), expected(record)),
            Change::write(mended_node(device), count),
        ];
        if record.frontend.is_none() {
            // Somebody may have had it meanwhile.
            changes.push(device_table::forget_reset(device));
        }
        if host.commit_if(&changes)? {
            host.note(&format!("{device}: {}, and it is mended: {}", what(guard), why(guard)));
            if let (Phase::Attached, Some(guest)) = (record.phase, record.frontend)
                && host.hypervisor.test_assign(guest, device).is_ok()
            {
                // Xen would give it to somebody, so it is not the guest's.
                host.note(&format!(
                    "{device}: `xl pci-detach -f` has reset it and taken its DMA from domain {guest}: detach it and attach it again"
                ));
            }
        } else {
            unknown.push(device);
        }
    }
    Ok(unknown)
}

/// Whether xen-pciback has a device, or it was pulled out: nobody else of dom0 is at it.
pub(crate) fn is_parked(host: &Host, device: Sbdf) -> bool {
    !host.sysfs.exists(device) || host.sysfs.driver(device).as_deref() == Some(PCIBACK)
}

/// A device of the table that is not with xen-pciback: a driver of dom0 may have used it since its reset.
fn note_stray(host: &Host, record: &Record) -> Result<(), Error> {
    let device = record.device;
    let [stub, ..] = device_table::record_nodes(device);
    if device_table::was_reset(host, device)?
        && host.commit_if(&[Change::expect(stub, record.stub), device_table::forget_reset(device)])?
    {
        host.note(&format!(
            "{device} is in the pool and not with xen-pciback any more: `pcidom assignable add {device}` parks it again, \
             `pcidom assignable remove {device}` lets it go"
        ));
    }
    Ok(())
}

fn what(guard: Guard) -> String {
    match guard {
        Guard::Names(owner) => format!("its guard against xl named domain {owner}"),
        Guard::Sound | Guard::Missing => "its guard against xl was gone".to_owned(),
    }
}

const fn why(guard: Guard) -> &'static str {
    match guard {
        Guard::Names(_) => "that is what `xl pci-attach` writes",
        Guard::Sound | Guard::Missing => "a failed `xl pci-attach` or `xl pci-detach -f` removes it",
    }
}
