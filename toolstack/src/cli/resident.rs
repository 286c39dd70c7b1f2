//! `pcidom backend` and `pcidom autostart`: what the units of a host run at boot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pcidom_broker::Manager;

use crate::cli::arguments::BackendArgs;
use crate::cli::turn;
use crate::create::config::Config;
use crate::create::{self, Plan, Request};
use crate::error::{DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::driver_domain::{self, DriverDomain, UNTIL_READY, guests_to_start};
use crate::ops::named_devices;
use crate::records::configured_devices::{self, ConfiguredDevice};
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table;

/// Runs the driver domain until it has ended, or SIGTERM.
pub(super) fn backend(host: &Host, args: &BackendArgs) -> Result<(), Error> {
    load_settings(host);
    if args.release {
        return in_turn(host, || driver_domain::release(host));
    }
    let domain = DriverDomain { config: args.config.clone(), name: name_in(&args.config)? };
    let manager = Manager::from_environment();
    let stub = bring_up(host, &domain, &manager)?;
    // What has ended the service manager starts again, but not while the host goes down: xendomains shuts down all domains then.
    domain.watch(host, &stub)?;
    manager.stopping();
    host.lock_commands(None)?;
    let is_ended = host.without_stopping(|| domain.stop(host))?;
    host.note(if is_ended { "the driver domain was ended" } else { "stopped" });
    Ok(())
}

/// Creates the domain, or adopts it, gives it its devices and says so.
fn bring_up(host: &Host, domain: &DriverDomain, manager: &Manager) -> Result<DomainName, Error> {
    in_turn(host, || domain.create(host))?;
    let stub = domain.await_ready(host)?;
    // The driver domain is of use without those that the file does not name well, and an admin who mends it starts this again.
    let (configured, wrong) = configured_devices::load(&host.settings_file);
    wrong.iter().for_each(|error| host.note(&error.to_string()));
    in_turn(host, || driver_domain::let_unnamed_go(host, &configured))?;
    let mut refused = wrong.len();
    let named = configured.len() + wrong.len();
    for device in &configured {
        if let Err(error) = in_turn(host, || domain.add(host, device)) {
            host.note(&format!("{} is not in the pool: {error}", device.device));
            refused += 1;
        }
    }
    let status = match refused {
        0 => format!("{stub} serves"),
        refused => format!("{stub} serves; {refused} of {named} devices are not in the pool"),
    };
    manager.ready(&status);
    host.note(&status);
    Ok(stub)
}

/// Creates the guests of a folder that are ours: PV, with a device that is in a pool or that the settings name. One that fails does not stop the others.
///
/// # Errors
/// That of the first that failed.
pub(crate) fn autostart(host: &Host, backend: &str, folder: &Path) -> Result<(), Error> {
    load_settings(host);
    let (configured, wrong) = configured_devices::load(&host.settings_file);
    wrong.iter().for_each(|error| host.note(&error.to_string()));
    // The driver domain may be starting again, which the first guest of it waits for. All others of the host wait for us.
    let mut patience = UNTIL_READY;
    let mut first = Ok(());
    for file in guests_to_start(folder)? {
        let request = Request {
            config: Some(file.clone()),
            overrides: Vec::new(),
            backend: backend.to_owned(),
            // Others start meanwhile.
            timeout: Duration::ZERO,
            paused: false,
            for_xl: Vec::new(),
            console: false,
        };
        match start(host, &request, &configured, &mut patience) {
            Ok(Started::Ours) => host.note(&format!("{} was created", file.display())),
            Ok(Started::NotOurs) => {}
            Err(error) => {
                host.note(&format!("{}: {error}", file.display()));
                first = first.and(Err(error));
            }
        }
    }
    first
}

enum Started {
    Ours,
    NotOurs,
}

/// `patience` is for the driver domain, and spent when that did not come.
fn start(
    host: &Host,
    request: &Request,
    configured: &[ConfiguredDevice],
    patience: &mut Duration,
) -> Result<Started, Error> {
    // What is wrong with a guest that is not ours is for xl to say.
    let Ok(plan) = Plan::read(request) else { return Ok(Started::NotOurs) };
    if plan.devices().is_empty() || domain::find(host, plan.name())?.is_some() {
        return Ok(Started::NotOurs);
    }
    let devices = named_devices::to_attach(host, plan.devices())?;
    let started = start_ours(host, request, plan, &devices, configured, patience);
    if let Err(error) = &started {
        in_turn(host, || driver_domain::keep_from_xl(host, &devices, configured, error))?;
    }
    started
}

fn start_ours(
    host: &Host,
    request: &Request,
    plan: Plan,
    devices: &[DeviceSpec],
    configured: &[ConfiguredDevice],
    patience: &mut Duration,
) -> Result<Started, Error> {
    if !is_ours(host, devices, configured)? {
        return Ok(Started::NotOurs);
    }
    driver_domain::await_backend(host, &request.backend, *patience).inspect_err(|_| *patience = Duration::ZERO)?;
    match in_turn(host, || create::create(host, request, plan, &mut None)) {
        Ok(()) | Err(Error::NotYetUsed { .. }) => Ok(Started::Ours),
        Err(error) => Err(error),
    }
}

/// Whether it has a device that is in a pool, or that the settings name. Of the latter another device at the same address is refused, as
/// it is for the pool.
fn is_ours(host: &Host, devices: &[DeviceSpec], configured: &[ConfiguredDevice]) -> Result<bool, Error> {
    let mut is_ours = false;
    for spec in devices {
        let is_in_pool = device_table::load_one(host, spec.device)?.is_some();
        let named = configured.iter().find(|other| other.device == spec.device);
        if let (Some(named), false) = (named, is_in_pool) {
            named.check_identity(host)?;
        }
        is_ours |= is_in_pool || named.is_some();
    }
    Ok(is_ours)
}

/// A mistake in the settings stops no host from coming up: it is told, and the defaults hold.
fn load_settings(host: &Host) {
    if let Err(error) = host.load_settings() {
        host.note(&format!("{error}; the defaults hold"));
    }
}

/// A change in a turn of its own: other commands have theirs in between.
fn in_turn(host: &Host, act: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let done = turn::in_turn(host, None, |_| act());
    host.unlock_commands();
    done
}

/// The name of the domain that a configuration describes.
fn name_in(config: &PathBuf) -> Result<String, Error> {
    let text = std::fs::read(config).map_err(|source| HostError::File { path: config.clone(), source })?;
    let place = || config.display().to_string();
    let name = Config::parse(text).and_then(|config| config.text("name"));
    let name =
        name.map_err(|error| Error::Config { place: format!("{}:{}", place(), error.line), what: error.what })?;
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| Error::Config { place: place(), what: "it has no name =".to_owned() })
}
