//! `pcidom attach`: gives devices to a guest, whether it has none yet or uses some already.
//!
//! All checks come first ([`checks`]). From what was found comes a plan (`plan/attach.rs`), which `executor` carries
//! out, so that a failure at any point leaves things as they were.

mod checks;

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
use crate::ops::connect::{self, Connection, Settled};
use crate::ops::device_model;
use crate::ops::device_status::{DeviceStatus, look_ahead};
use crate::ops::dom0_use;
use crate::ops::executor;
use crate::ops::patience::Patience;
use crate::ops::plan::attach::{AttachInput, AttachedDevice};
use crate::ops::plan::{self, Plan};
use crate::ops::pool;
use crate::ops::versions;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Keep};
use crate::records::export::{Export, ExportMode};
use crate::records::quirks;
use crate::records::reset_note;

/// Devices to attach, and the guest.
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
    let checked = check(host, request)?;
    executor::run(host, |executor| {
        executor.carry_out(&checked.to_pool)?;
        // Only now: a device that xen-pciback did not have may have another interrupt, and be reset.
        executor.carry_out(&checked.plan(host)?)?;
        Ok(executor.connection().unwrap_or(Connection::Waiting))
    })
}

/// What [`attach`] would do. Everything that can be refused is.
pub(crate) fn plan(host: &Host, request: &Request) -> Result<Plan, Error> {
    let checked = check(host, request)?;
    let to_guest = checked.plan(host)?;
    Ok(checked.to_pool.then(to_guest))
}

/// Looks at everything that can be refused. Nothing is changed.
fn check(host: &Host, request: &Request) -> Result<Checked, Error> {
    if !host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Err(Error::NoIommu);
    }
    let names = Names::read(host)?;
    let stub = checks::ready(host, &request.backend, names.find(host, &request.backend)?)?;
    versions::check_stub(host, &stub)?;
    let found = names.find(host, &request.guest)?;
    let checks::Found { frontend: guest, target, has_connection } =
        checks::find_guest(host, &request.guest, found, stub.id)?;
    if let Some(target) = &target {
        device_model::check(host, target)?;
    }
    // QEMU looks for a device at its real address.
    let mode = if target.is_some() { Some(ExportMode::Passthrough) } else { request.export };
    let export = Export::find(host, stub.id, &guest, has_connection, mode)?;
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
    }
    let names = || request.devices.iter().map(|spec| spec.device);
    host.at_one_moment(|| {
        look_ahead(host, Some(stub.id), names())?;
        request
            .devices
            .iter()
            .try_for_each(|spec| checks::check_device(host, spec, target.as_ref().unwrap_or(&guest), &stub))
    })?;
    for spec in request.devices.iter().filter(|spec| spec.msitranslate && target.is_none()) {
        host.note(&format!("{}: msitranslate=1 means nothing for a PV guest and is ignored", spec.device));
    }
    dom0_use::check(host, &request.devices.iter().map(|spec| spec.device).collect::<Vec<_>>())?;
    let others = device_table::others(&device_table::load(host)?, guest.id, &[]);
    checks::check_pages(host, &request.devices, &others)?;
    let request = &Request { devices: quirks::apply(host, &request.devices)?, ..request.clone() };
    for spec in request.devices.iter().filter(|spec| spec.policy.permissive) {
        permitted_writes::check(host, spec.device, &spec.policy)?;
    }
    let keeps = match request.following {
        Following::Yes => {
            let guest = target.as_ref().unwrap_or(&guest);
            let uuid = domain::uuid(host, guest.id)?.ok_or_else(|| Error::NoUuid(guest.clone()))?;
            let mode = export.is_chosen.then(|| export.mode.parse().ok()).flatten();
            let keep = |spec: &DeviceSpec| Keep { guest: uuid.clone(), spec: spec.clone(), export: mode };
            Some(request.devices.iter().map(keep).collect())
        }
        Following::No => Some(Vec::new()),
        Following::Already => None,
    };
    let mut request = request.clone();
    for spec in &mut request.devices {
        spec.policy.interrupt_control = target.is_some();
    }
    let to_pool = host.at_one_moment(|| {
        look_ahead(host, Some(stub.id), names())?;
        let mut to_pool = Vec::new();
        for device in names() {
            if device_table::load_one(host, device)?.is_none() {
                to_pool.push(DeviceStatus::gather(host, device)?);
            }
        }
        Ok::<_, Error>(to_pool)
    })?;
    pool::check_room(host, &stub, to_pool.len())?;
    let (to_pool, intents) = plan::pool::to_attach(&to_pool, &stub);
    Ok(Checked { request, stub, guest, target, export, others, has_connection, keeps, patience, to_pool, intents })
}

/// A request that has passed all checks.
struct Checked {
    /// With what the quirks file has for the devices.
    request: Request,
    stub: DomainName,
    guest: DomainName,
    /// The HVM guest whose stub domain `guest` is.
    target: Option<DomainName>,
    export: Export,
    /// Devices that the guest has already.
    others: Vec<Sbdf>,
    has_connection: bool,
    /// Persistent assignments to record; `None` to leave them as they are.
    keeps: Option<Vec<Keep>>,
    patience: Patience,
    /// Plan that brings devices into the pool that are not there.
    to_pool: Plan,
    /// Devices in its intent log.
    intents: Vec<Sbdf>,
}

impl Checked {
    /// From the pool to the guest, with the devices as they are now, or as they will be when they are in the pool.
    fn plan(&self, host: &Host) -> Result<Plan, Error> {
        let devices = host.at_one_moment(|| self.devices(host))?;
        Ok(plan::attach::attach(&AttachInput {
            stub: self.stub.clone(),
            guest: self.guest.clone(),
            target: self.target.clone(),
            has_connection: self.has_connection,
            export: self.export.clone(),
            devices,
            has: GuestRights::of(&DeviceResources::of_others(host, self.stub.id, &self.others)?),
            keeps: self.keeps.clone(),
            patience: self.patience,
            // Its device model finds nothing before the stub domain does.
            until: if self.target.is_some() { Until::Used } else { self.request.until },
            intents: self.intents.clone(),
        }))
    }

    fn devices(&self, host: &Host) -> Result<Vec<AttachedDevice>, Error> {
        look_ahead(host, Some(self.stub.id), self.request.devices.iter().map(|spec| spec.device))?;
        let mut devices = Vec::new();
        for spec in &self.request.devices {
            let resources = DeviceResources::gather(host, spec.device)?;
            checks::note_limits(host, &resources)?;
            let is_fresh = match device_table::load_one(host, spec.device)? {
                Some(_) => is_fresh(host, spec.device, resources.decode())?,
                None => host.sysfs.can_reset(spec.device),
            };
            let reset = reset_note::load(host, spec.device)?;
            let persistent = if self.keeps.is_some() { Keep::load(host, spec.device)? } else { None };
            devices.push(AttachedDevice { spec: spec.clone(), resources, is_fresh, reset, persistent });
        }
        Ok(devices)
    }
}
