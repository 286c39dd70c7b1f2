//! `pcidom backend` and `pcidom autostart`: what the units of a host run at boot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pcidom_broker::Manager;

use crate::cli::arguments::BackendArgs;
use crate::cli::turn::changing;
use crate::create::config::Config;
use crate::create::{self, Plan, Request};
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::driver_domain::{DriverDomain, guests_to_start};
use crate::ops::named_devices;
use crate::records::configured_devices;
use crate::records::device_table;

/// Runs the driver domain until it has ended, or SIGTERM.
pub(super) fn backend(host: &Host, args: &BackendArgs) -> Result<(), Error> {
    let domain = DriverDomain { config: args.config.clone(), name: name_in(&args.config)? };
    if args.release {
        return in_turn(host, || domain.release(host));
    }
    let manager = Manager::from_environment();
    in_turn(host, || domain.create(host))?;
    let stub = domain.await_ready(host)?;
    let configured = match configured_devices::load(&host.settings_file) {
        Ok(configured) => configured,
        // The driver domain is of use without them, and an admin who mends the file starts this again.
        Err(error) => {
            host.note(&error.to_string());
            Vec::new()
        }
    };
    let mut refused = 0;
    for device in &configured {
        if let Err(error) = in_turn(host, || domain.add(host, device)) {
            host.note(&format!("{} is not in the pool: {error}", device.device));
            refused += 1;
        }
    }
    let status = match refused {
        0 => format!("{stub} serves"),
        refused => format!("{stub} serves; {refused} of {} devices are not in the pool", configured.len()),
    };
    manager.ready(&status);
    host.note(&status);
    domain.watch(host, &stub)?;
    manager.stopping();
    host.lock_commands(None)?;
    let is_ended = host.without_stopping(|| domain.stop(host))?;
    host.note(if is_ended { "the driver domain was ended" } else { "stopped" });
    Ok(())
}

/// Creates the guests of a folder that are ours: PV, with a device that is in a pool or that the settings name. One that fails does not stop the others.
///
/// # Errors
/// That of the first that failed.
pub(super) fn autostart(host: &Host, backend: &str, folder: &Path) -> Result<(), Error> {
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
        match start(host, &request) {
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

fn start(host: &Host, request: &Request) -> Result<Started, Error> {
    // What is wrong with a guest that is not ours is for xl to say.
    let Ok(plan) = Plan::read(request) else { return Ok(Started::NotOurs) };
    if !is_ours(host, &plan)? || domain::find(host, plan.name())?.is_some() {
        return Ok(Started::NotOurs);
    }
    match in_turn(host, || create::create(host, request, plan, &mut None)) {
        Ok(()) | Err(Error::NotYetUsed { .. }) => Ok(Started::Ours),
        Err(error) => Err(error),
    }
}

fn is_ours(host: &Host, plan: &Plan) -> Result<bool, Error> {
    if plan.devices().is_empty() {
        return Ok(false);
    }
    let configured = configured_devices::load(&host.settings_file).unwrap_or_default();
    for spec in named_devices::to_attach(host, plan.devices())? {
        let is_configured = configured.iter().any(|other| other.device == spec.device);
        if is_configured || device_table::load_one(host, spec.device)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A change in a turn of its own: other commands have theirs in between.
fn in_turn(host: &Host, act: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let done = changing(host, None, |_| act());
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
