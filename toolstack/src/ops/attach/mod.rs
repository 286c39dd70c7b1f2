//! `pcidom attach`: gives devices to a guest, whether it has none yet or uses some already.
//!
//! Everything that can be refused is looked at first ([`checks`]). Then come the steps of [`perform`], each with its undo, so that
//! a failure at any point leaves things as they were (the order is that of libxl: registers, interrupts, DMA, and then the directories).

mod checks;
mod steps;

pub(crate) use crate::ops::connect::Until;
pub(crate) use checks::find_stub;

use std::time::Duration;

use xen_types::Sbdf;

use crate::device::permitted_writes;
use crate::device::reset::is_fresh;
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::{Doing, DomainName, Error};
use crate::host::Host;
use crate::host::domain::{self, Names};
use crate::host::needs;
use crate::ops::assignable;
use crate::ops::connect::{self, Connection, Settled};
use crate::ops::hot_unplug::phases;
use crate::ops::intent_log::{self, Work};
use crate::ops::patience::Patience;
use crate::ops::pool;
use crate::ops::release;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Keep, Phase};
use crate::records::export::{Export, ExportMode};
use crate::records::quirks;
use crate::records::rollback::RollbackStack;
use crate::sysfs::PCIBACK;

/// What is to be attached to what.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Name or number.
    pub(crate) guest: String,
    /// Name or number of the stub.
    pub(crate) backend: String,
    pub(crate) devices: Vec<DeviceSpec>,
    /// How a guest without devices is to see them; `None` leaves it to the stub.
    pub(crate) export: Option<ExportMode>,
    /// How long the guest may take for one device; more take longer.
    pub(crate) timeout: Duration,
    pub(crate) following: Following,
    pub(crate) until: Until,
}

/// Whether the devices come to the guest again when it, or the stub, has rebooted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Following {
    No,
    Yes,
    /// They are just doing it.
    Already,
}

/// Attaches the devices. Reclaim first: see [`crate::ops::recover`].
pub(crate) fn attach(host: &Host, request: &Request) -> Result<Connection, Error> {
    if !host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Err(Error::NoIommu);
    }
    let names = Names::read(host)?;
    let stub = checks::ready(host, &request.backend, names.find(host, &request.backend)?)?;
    let found = names.find(host, &request.guest)?;
    let (guest, has_connection) = checks::find_guest(host, &request.guest, found, stub.id)?;
    let export = Export::find(host, stub.id, &guest, has_connection, request.export)?;
    if !host.sysfs.has_pciback() {
        return Err(Error::NoPciback);
    }
    let patience = Patience::new(request.timeout, request.devices.len());
    // Before the devices are looked at: other commands may do something with them while this one waits.
    if has_connection && connect::settle(host, &stub, &guest, patience)? == Settled::Closed {
        return Err(Error::FrontendClosed { guest });
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
    let others = release::others(&device_table::load(host)?, guest.id, &[]);
    checks::check_pages(host, &request.devices, &others)?;
    let request = &Request { devices: quirks::apply(host, &request.devices)?, ..request.clone() };
    for spec in request.devices.iter().filter(|spec| spec.policy.permissive) {
        permitted_writes::check(host, spec.device, &spec.policy)?;
    }
    let keeps = match request.following {
        Following::Yes => {
            let uuid = domain::uuid(host, guest.id)?.ok_or_else(|| Error::NoUuid(guest.clone()))?;
            let mode = export.is_chosen.then(|| ExportMode::named(&export.mode)).flatten();
            let keep = |spec: &DeviceSpec| Keep { guest: uuid.clone(), spec: spec.clone(), export: mode };
            Some(request.devices.iter().map(keep).collect())
        }
        Following::No => Some(Vec::new()),
        Following::Already => None,
    };
    let plan = Plan { keeps, stub, guest, export, others, has_connection, patience };
    RollbackStack::run(host, |rollback| perform(rollback, host, request, &plan))
}

/// What was found before anything is done.
struct Plan {
    stub: DomainName,
    guest: DomainName,
    export: Export,
    /// Devices that the guest has already.
    others: Vec<Sbdf>,
    has_connection: bool,
    /// Whom the devices are going to follow; `None` when that stays as it is.
    keeps: Option<Vec<Keep>>,
    patience: Patience,
}

/// The steps.
fn perform<'a>(
    rollback: &mut RollbackStack<'a>,
    host: &'a Host,
    request: &Request,
    plan: &Plan,
) -> Result<Connection, Error> {
    let Plan { stub, guest, export, .. } = plan;
    let mut works = Vec::new();
    for device in request.devices.iter().map(|spec| spec.device) {
        works.extend(Work::to_add(host, device, Some(stub.id))?.map(|work| (device, work)));
    }
    let working: Vec<Sbdf> = works.iter().map(|(device, _)| *device).collect();
    intent_log::begin(rollback, works)?;
    for spec in &request.devices {
        if device_table::load_one(host, spec.device)?.is_none()
            || host.sysfs.driver(spec.device).as_deref() != Some(PCIBACK)
        {
            assignable::park(rollback, host, spec.device)?;
        }
    }
    // Only a parked device has an interrupt for sure: xen-pciback enables it.
    let facts: Vec<DeviceResources> =
        request.devices.iter().map(|spec| DeviceResources::gather(host, spec.device)).collect::<Result<_, _>>()?;
    for facts in &facts {
        checks::note_limits(host, facts)?;
        if device_table::load_one(host, facts.device)?.is_none() {
            pool::hand_over(rollback, stub, facts)?;
        }
    }
    let fresh: Vec<bool> =
        facts.iter().map(|facts| is_fresh(host, facts.device, facts.decode())).collect::<Result<_, _>>()?;
    steps::reserve(rollback, stub, guest, &facts, plan.keeps.as_deref())?;
    for spec in &request.devices {
        pool::set_policy(rollback, stub, spec.device, &spec.policy)?;
    }
    for (facts, fresh) in facts.iter().zip(fresh) {
        steps::prepare(rollback, stub, facts, fresh)?;
    }
    steps::permit_writes(rollback, &request.devices)?;
    let others = DeviceResources::of_others(host, stub.id, &plan.others)?;
    steps::guard(rollback, guest, &facts)?;
    steps::grant(rollback, guest, &GuestRights::of(&facts).without(&GuestRights::of(&others)))?;
    for spec in &request.devices {
        steps::assign(rollback, guest, spec)?;
    }
    if plan.has_connection {
        steps::append(rollback, stub, guest, export, &request.devices, &facts, plan.patience)?;
    } else {
        steps::publish(rollback, stub, guest, export, &request.devices, &facts)?;
    }
    let devices: Vec<Sbdf> = request.devices.iter().map(|spec| spec.device).collect();
    // Once, with its first devices, and while it looks at them.
    if !plan.has_connection && request.following != Following::Already {
        for lack in needs::lacks(host.xl.configuration(guest.id).as_ref()) {
            host.note(&format!("{guest}: {lack}"));
        }
    }
    // From here on: what came before was our own work.
    let connection = connect::await_connection(host, stub, guest, &devices, plan.patience, request.until)?;
    host.commit(&[phases(&devices, Phase::Attached), intent_log::done(&working)].concat())?;
    Ok(connection)
}
