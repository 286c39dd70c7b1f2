//! The guard: libxl's note of the domain that has a device (`/libxl/pci/BDF/domid`). xl gives nobody a device that has the note, whatever it
//! says, so each device of the table carries one: the stub's id while it is in the pool, the guest's while a guest has it.
//!
//! xl does not look whose the note is before it removes it: each `xl pci-attach` that fails and each `xl pci-detach -f` does
//! (libxl 4.17 to 4.20, `device_pci_add_done` and `device_pci_remove_common_next`). The broker mends it at once, and without a broker the
//! next command does.

use dom0::store::Change;
use dom0::sysfs::PCIBACK;
use dom0::{Dom0, Error, domain};
use pcidom_abi::{DeviceNode, paths};
use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::records::{self, Phase, Record};

/// State of a device's guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It names whom the table names.
    Sound,
    /// There is none: xl would give the device to anybody.
    Missing,
    /// xl has the device for this domain, or is about to.
    Names(DomId),
}

/// The domain that the guard of a device must name.
#[must_use]
pub fn expected(record: &Record) -> DomId {
    record.frontend.unwrap_or(record.stub)
}

/// Where it stands.
#[must_use]
pub fn node(device: Sbdf) -> String {
    path::child(&path::libxl_pci_dir(device), "domid")
}

/// Node with the number of repairs of the guard since the device last changed hands.
#[must_use]
pub fn mended_node(device: Sbdf) -> String {
    DeviceNode::Mended.of(device)
}

/// Whom the guard names of a device that no stub has and that xl shall give to nobody (`/tool/pcidom/held`): xl itself never writes dom0 there.
pub const NOBODY: DomId = DomId::DOM0;

/// The guest that xl (or this tool) says has the device; none for one that is held.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn libxl_owner(host: &Dom0, device: Sbdf) -> Result<Option<DomId>, Error> {
    let node = node(device);
    let owner = host.read(&node)?.map(|value| records::parse_id(&node, value)).transpose()?;
    Ok(owner.filter(|owner| *owner != NOBODY))
}

/// Puts back what keeps xl off a held device, where xl has removed it.
///
/// # Errors
/// Xenstore's.
pub fn hold_again(host: &Dom0, device: Sbdf) -> Result<(), Error> {
    let held = paths::held_node(device);
    let Some(why) = host.read(&held)? else { return Ok(()) };
    let changes =
        [Change::expect(held, &why), Change::expect_no_other(node(device), None), Change::write(node(device), NOBODY)];
    if host.commit_if(&changes)? {
        host.note(&format!("{device} is kept from xl again: {why}"));
    }
    Ok(())
}

/// Looks at the guards of these devices.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn look(host: &Dom0, records: &[Record]) -> Result<Vec<Guard>, Error> {
    let nodes: Vec<String> = records.iter().map(|record| node(record.device)).collect();
    let values = host.read_all(&nodes)?;
    let guard = |(record, value): (&Record, Option<String>)| match value {
        None => Ok(Guard::Missing),
        Some(value) => match records::parse_id(&node(record.device), value)? {
            owner if owner == expected(record) => Ok(Guard::Sound),
            owner => Ok(Guard::Names(owner)),
        },
    };
    records.iter().zip(values).map(guard).collect()
}

/// Number of repairs of the guard since the device last changed hands.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn mended(host: &Dom0, device: Sbdf) -> Result<u32, Error> {
    Ok(host.read(&mended_node(device))?.and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// Whether xl has the device for good: a free one that it has given to a domain which is there.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn is_taken(host: &Dom0, record: &Record, guard: Guard) -> Result<bool, Error> {
    match guard {
        // Of a device that a guest has, Xen gives xl nothing.
        Guard::Names(owner) => Ok(record.frontend.is_none() && domain::is_alive(host, owner)?),
        Guard::Sound | Guard::Missing => Ok(false),
    }
}

/// Whether xen-pciback has a device, or it was pulled out: nobody else of dom0 is at it.
#[must_use]
pub fn is_parked(host: &Dom0, device: Sbdf) -> bool {
    !host.sysfs.exists(device) || host.sysfs.driver(device).as_deref() == Some(PCIBACK)
}

/// A device of the table that is not with xen-pciback: a driver of dom0 may have used it since its reset.
fn note_stray(host: &Dom0, record: &Record) -> Result<(), Error> {
    let device = record.device;
    let reset = DeviceNode::Reset.of(device);
    let [stub, ..] = records::record_nodes(device);
    if host.exists(&reset)? && host.commit_if(&[Change::expect(stub, record.stub), Change::remove(reset)])? {
        host.note(&format!(
            "{device} is in the pool and not with xen-pciback any more: `pcidom assignable add {device}` parks it again, \
             `pcidom assignable remove {device}` lets it go"
        ));
    }
    Ok(())
}

/// Puts the guards right that do not name whom they should, and says so, and tells of devices that somebody has taken from xen-pciback. Those stay that name a domain which xl has given a free device.
/// The devices whose records changed just then: of these it is not known.
///
/// # Errors
/// Xen's, xenstore's and the kernel's, and what makes no sense.
pub fn mend(host: &Dom0, records: &[Record]) -> Result<Vec<Sbdf>, Error> {
    for record in records.iter().filter(|record| !is_parked(host, record.device)) {
        note_stray(host, record)?;
    }
    let mut unknown = Vec::new();
    for (record, guard) in records.iter().zip(look(host, records)?) {
        let is_ours = || domain::is_alive(host, expected(record));
        if guard == Guard::Sound || is_taken(host, record, guard)? || !is_ours()? {
            continue;
        }
        let device = record.device;
        let count = mended(host, device)? + 1;
        let [stub, frontend, _] = records::record_nodes(device);
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
            changes.push(Change::remove(DeviceNode::Reset.of(device)));
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
