//! `pcidom create`: an ordinary xl.cfg, whose PCI devices come from a driver domain.
//!
//! `xl` makes the guest, paused and without devices; they are attached as `pcidom attach` does it; then the guest runs. Up to there all
//! is undone if something fails, and what a killed command began is found in [`unfinished_guests`]. A guest that runs is its admin's: the
//! command waits for it, and leaves it alone.

pub(crate) mod config;
mod lexer;
mod plan;

use std::process::Child;
use std::time::Duration;

use pcidom_abi::CreationProgress;
use xen_types::Sbdf;
use xenstore::path;

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::terminal;
use crate::ops::assignable;
use crate::ops::attach;
use crate::ops::connect;
use crate::ops::dom0_use;
use crate::ops::named_devices;
use crate::ops::patience::Patience;
use crate::ops::recover::reclaim;
use crate::ops::unfinished_guests;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table;
use crate::records::guard;
use crate::sysfs::PCIBACK;
pub(crate) use plan::{Plan, Request};

/// Creates the guest. Reclaim first: see [`crate::ops::recover`].
///
/// A guest that runs is put into `created`, also where the command fails because it is slow to use its devices.
pub(crate) fn create(
    host: &Host,
    request: &Request,
    mut plan: Plan,
    created: &mut Option<Created>,
) -> Result<(), Error> {
    let devices = named_devices::to_attach(host, &plan.devices)?;
    check(host, &devices)?;
    for setting in &plan.added {
        host.note(&format!("{setting} was added to {}: the guest cannot have devices without it", plan.source));
    }
    if plan.uuid.is_empty() {
        plan.uuid = host.xl.new_uuid()?;
        let uuid = format!("uuid = \"{}\"", plan.uuid);
        plan.add(&uuid);
    } else if let Some(guest) = unfinished_guests::find(host, &plan.uuid)? {
        return Err(Error::GuestExists(guest));
    }
    let Some(creation) = host.take_creation(&plan.uuid)? else {
        return Err(Error::BeingCreated(plan.name));
    };
    unfinished_guests::begin(host, &plan.uuid)?;
    let (mut homes, mut console) = (Vec::new(), None);
    let built = build(host, request, &plan, &devices, &mut homes, &mut console);
    if built.is_err() {
        match host.without_stopping(|| take_down(host, &plan, &homes)) {
            Ok(None) => {}
            Ok(Some(guest)) => host.note(&format!("{guest} runs already, and is left as it is")),
            Err(error) => {
                host.note(&format!("could not take {} down again: {error}", plan.name));
                return built.map(drop); // it stays noted, and the next command tries again
            }
        }
    }
    unfinished_guests::end(host, &plan.uuid)?;
    drop(creation);
    let guest = built?;
    *created = Some(Created { uuid: plan.uuid.clone(), console });
    if request.paused || devices.is_empty() { Ok(()) } else { await_use(host, request, &guest, &devices) }
}

/// Checks that need no guest, made before it is created. `attach` makes the others.
fn check(host: &Host, devices: &[DeviceSpec]) -> Result<(), Error> {
    for spec in devices {
        let device = spec.device;
        assignable::check_endpoint(host, device)?;
        let record = device_table::load_one(host, device)?;
        guard::check(host, device, record.as_ref())?;
        if let Some(owner) = record.and_then(|record| record.frontend) {
            return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
        }
        let driver = host.sysfs.driver(device);
        if driver.as_deref() != Some(PCIBACK) && (!spec.seize || record.is_some()) {
            return Err(Error::NotAssignable { device, driver });
        }
    }
    dom0_use::check(host, &devices.iter().map(|spec| spec.device).collect::<Vec<_>>())
}

/// Makes the guest with its devices, and lets it run if it shall. What fails up to then is to be undone.
fn build(
    host: &Host,
    request: &Request,
    plan: &Plan,
    devices: &[DeviceSpec],
    homes: &mut Vec<(Sbdf, Home)>,
    console: &mut Option<Child>,
) -> Result<DomainName, Error> {
    terminal::begin(|| format!("xl create -p {}", plan.source));
    host.trace(&format!("xl create -p {}", plan.source));
    host.aside(|| host.xl.create_paused(&plan.text, &plan.uuid, &plan.source, &request.for_xl))?;
    let guest = unfinished_guests::find(host, &plan.uuid)?.ok_or_else(|| Error::NoSuchGuest(plan.name.clone()))?;
    host.adopt(domain::stub_domain(host, guest.id)?.map_or(guest.id, |stub_domain| stub_domain.id))?;
    // Only now: others may have moved them meanwhile.
    for spec in devices {
        homes.push((spec.device, Home::of(host, spec.device)?));
    }
    if !devices.is_empty() {
        let request = attach::Request {
            guest: guest.id.to_string(),
            backend: request.backend.clone(),
            devices: devices.to_vec(),
            export: None,
            timeout: request.timeout,
            following: attach::Following::Yes, // as with xl, whose guests have their devices again after a reboot
            until: attach::Until::Used,
        };
        attach::attach(host, &request)?;
    }
    if request.console {
        // Before it runs, so that nothing is missed.
        *console = host.xl.console(guest.id)?;
        terminal::release();
    }
    if !request.paused {
        unfinished_guests::set(host, &plan.uuid, CreationProgress::Running)?;
        host.trace(&format!("unpause {guest}"));
        let unpaused = host.xl.unpause(guest.id);
        // What counts is whether it runs.
        if !unfinished_guests::runs(host, &guest)? {
            unpaused?;
        }
    }
    Ok(guest)
}

/// A guest that runs, or was left paused as its admin wanted.
pub(crate) struct Created {
    uuid: String,
    /// Its console, which has this terminal.
    console: Option<Child>,
}

impl Created {
    /// Waits until its console is left, if it has this terminal, and for its end if that is wanted. Locks are not held meanwhile.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; those of looking for it.
    pub(crate) fn stay(mut self, host: &Host, until_gone: bool) -> Result<(), Error> {
        /// No end: what is waited for may take as long as it likes.
        const EVER: Duration = Duration::from_secs(u32::MAX as u64);
        /// A guest that reboots is destroyed and made anew, which takes this long at most on a host that can make guests at all.
        const REBOOT: Duration = Duration::from_secs(10);
        let watched = [path::INTRODUCE_DOMAIN.to_owned(), path::RELEASE_DOMAIN.to_owned()];
        if let Some(console) = &mut self.console {
            // A console whose end cannot be seen is not waited for.
            host.wait_for(&[], EVER, || Ok((!matches!(console.try_wait(), Ok(None))).then_some(())))?;
        }
        if !until_gone {
            return Ok(());
        }
        let mut gone_since = None;
        host.wait_for(&watched, EVER, || {
            if unfinished_guests::find(host, &self.uuid)?.is_some() {
                gone_since = None;
                return Ok(None);
            }
            let since = *gone_since.get_or_insert(host.elapsed());
            Ok((host.elapsed().saturating_sub(since) >= REBOOT).then_some(()))
        })?;
        Ok(())
    }
}

/// Waits until a guest that runs uses its devices. Whatever comes of that, it stays as it is: it may ask for a passphrase, check its disks
/// or load its driver late, and then finds its devices there.
fn await_use(host: &Host, request: &Request, guest: &DomainName, devices: &[DeviceSpec]) -> Result<(), Error> {
    let devices: Vec<Sbdf> = devices.iter().map(|spec| spec.device).collect();
    let Some(first) = devices.first() else { return Ok(()) };
    let record = device_table::load_one(host, *first)?.ok_or_else(|| Error::GuestWentAway(guest.clone()))?;
    if device_table::target(host, *first)?.is_some() {
        return Ok(()); // its stub domain uses them already
    }
    let stub = domain::named(host, record.stub)?;
    terminal::begin(|| format!("wait until {guest} uses its devices"));
    let patience = Patience::new(request.timeout, devices.len());
    match connect::await_connection(host, &stub, guest, &devices, patience, attach::Until::Used) {
        Ok(_) => Ok(()),
        Err(Error::GuestSilent { after, .. }) => Err(Error::NotYetUsed { guest: guest.clone(), devices, after }),
        Err(error) => {
            host.note(&format!("{guest} runs, and is left as it is"));
            Err(error)
        }
    }
}

/// Where a device was before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    /// In a stub's pool.
    Pool,
    /// With xen-pciback alone.
    Parked,
    /// With this driver, or none.
    Driver(Option<String>),
}

impl Home {
    fn of(host: &Host, device: Sbdf) -> Result<Self, Error> {
        if device_table::load_one(host, device)?.is_some() {
            return Ok(Self::Pool);
        }
        let driver = host.sysfs.driver(device);
        Ok(if driver.as_deref() == Some(PCIBACK) { Self::Parked } else { Self::Driver(driver) })
    }
}

/// Ends the guest and puts its devices where they were. One that somebody has let run meanwhile stays, and is the result.
fn take_down(host: &Host, plan: &Plan, homes: &[(Sbdf, Home)]) -> Result<Option<DomainName>, Error> {
    if let Some(guest) = unfinished_guests::find(host, &plan.uuid)? {
        if unfinished_guests::runs(host, &guest)? {
            return Ok(Some(guest));
        }
        unfinished_guests::set(host, &plan.uuid, CreationProgress::Building)?;
        unfinished_guests::destroy(host, &guest)?;
        reclaim(host)?;
    }
    for (device, home) in homes {
        // Another command may have given it to somebody meanwhile.
        let record = device_table::load_one(host, *device)?.filter(|record| record.frontend.is_none());
        if record.is_some() {
            host.commit(&device_table::forget_keep(*device))?;
        }
        match (home, record) {
            (Home::Pool, _) | (_, None) => {}
            (Home::Parked, Some(_)) => assignable::leave_pool(host, *device)?,
            (Home::Driver(driver), Some(_)) => assignable::remove(host, &[*device], driver.is_some())?,
        }
    }
    Ok(None)
}
