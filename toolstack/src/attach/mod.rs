//! `pcidom attach`: gives devices to a guest that has none yet.
//!
//! Everything that can be refused is looked at first ([`checks`]). Then come the steps of [`perform`], each with its undo, so that
//! a failure at any point leaves things as they were (the order is that of libxl: registers, interrupts, DMA, and then the directories).

mod checks;
mod steps;

use std::time::Duration;

use xenstore::path;

use crate::assignable;
use crate::connect::{self, Connection};
use crate::device_spec::DeviceSpec;
use crate::error::{Doing, DomainName, Error};
use crate::facts::{Facts, GuestRights};
use crate::host::Host;
use crate::journal::Journal;
use crate::pool;
use crate::sysfs::PCIBACK;
use crate::table::{self, Phase};

/// What is to be attached to what.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Name or number.
    pub(crate) guest: String,
    /// Name or number of the stub.
    pub(crate) backend: String,
    pub(crate) devices: Vec<DeviceSpec>,
    /// How long the guest may take.
    pub(crate) timeout: Duration,
}

/// Attaches the devices. Reclaim first: see [`crate::reclaim`].
pub(crate) fn attach(host: &Host, request: &Request) -> Result<Connection, Error> {
    if !host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Err(Error::NoIommu);
    }
    let stub = checks::find_stub(host, &request.backend)?;
    let guest = checks::find_guest(host, &request.guest, stub.id)?;
    let export = host.read(&path::export_node(stub.id))?.unwrap_or_default();
    if !host.sysfs.has_pciback() {
        return Err(Error::NoPciback);
    }
    for (index, spec) in request.devices.iter().enumerate() {
        if request.devices.iter().take(index).any(|other| other.device == spec.device) {
            return Err(Error::Usage(format!("{} is named twice", spec.device)));
        }
        checks::check_device(host, spec, &guest, &stub)?;
        if spec.msitranslate {
            host.note(&format!("{}: msitranslate=1 means nothing for a PV guest and is ignored", spec.device));
        }
    }
    checks::check_pages(host, &request.devices)?;
    Journal::run(host, |journal| perform(journal, host, request, &stub, &guest, &export))
}

/// The steps.
fn perform<'a>(
    journal: &mut Journal<'a>,
    host: &'a Host,
    request: &Request,
    stub: &DomainName,
    guest: &DomainName,
    export: &str,
) -> Result<Connection, Error> {
    for spec in &request.devices {
        if host.sysfs.driver(spec.device).as_deref() != Some(PCIBACK) {
            assignable::park(journal, host, spec.device)?;
        }
    }
    // Only a parked device has an interrupt for sure: xen-pciback enables it.
    let facts: Vec<Facts> =
        request.devices.iter().map(|spec| Facts::gather(host, spec.device)).collect::<Result<_, _>>()?;
    for facts in &facts {
        if table::load_one(host, facts.device)?.is_none() {
            pool::hand_over(journal, stub, facts)?;
        }
    }
    steps::reserve(journal, guest, &facts)?;
    for facts in &facts {
        steps::prepare(journal, stub, facts)?;
    }
    steps::grant(journal, guest, &GuestRights::of(&facts))?;
    for spec in &request.devices {
        steps::assign(journal, guest, spec)?;
    }
    steps::publish(journal, stub, guest, export, &request.devices, &facts)?;
    let connection = connect::await_connection(host, stub, guest, &request.devices, request.timeout)?;
    let attached: Vec<_> = facts.iter().map(|facts| table::set_phase(facts.device, Phase::Attached)).collect();
    host.commit(&attached)?;
    Ok(connection)
}
