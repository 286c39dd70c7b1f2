//! `pcidom doctor`: whether this host, its devices and guests are fit for passing devices through, one line a check.
//!
//! | module | looks at |
//! |---|---|
//! | [`host`] | Xen, dom0, what is loaded and what runs |
//! | [`platform`] | how this host was set up: XSM, dom0's kind, its kernel's lockdown, xenstored, `hide=` |
//! | [`device`] | each device of a pool, each parked one, and those that are named |
//! | [`guest`] | guests that are named |

mod check;
mod device;
mod guest;
mod host;
mod platform;

pub(crate) use host::Opened;

use serde::Serialize;

use check::{Check, Outcome};

use crate::error::Error;
use crate::host::Host;
use crate::records::device_spec::ParseSpecError;
use crate::records::device_words::parse_function;

/// Version of the JSON form; grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    version: u32,
    checks: Vec<Check>,
}

/// Checks the host as far as it could be opened, then what is named: devices by address, guests by name or id. Without names, the devices
/// that are for guests.
pub(crate) fn examine(opened: &Opened, backend: &str, names: &[String]) -> Report {
    let mut checks = opened.checks.clone();
    if let Some(host) = &opened.host {
        checks.extend(host::checks(host, backend));
        checks.extend(platform::checks(host));
        checks.extend(subjects(host, names).unwrap_or_else(|error| vec![Check::error("devices", &error)]));
    }
    Report { version: JSON_VERSION, checks }
}

fn subjects(host: &Host, names: &[String]) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    let about = |subject: String, found: Vec<Check>| {
        found.into_iter().map(move |check| Check { subject: Some(subject.clone()), ..check })
    };
    if names.is_empty() {
        for device in device::for_guests(host)? {
            checks.extend(about(device.to_string(), device::checks(host, device)));
        }
    }
    for name in names {
        match parse_function(name) {
            Ok(device) => checks.extend(about(device.to_string(), device::checks(host, device))),
            Err(error @ ParseSpecError::Segment(_)) => {
                checks.extend(about(name.clone(), vec![Check::error("device", &Error::Usage(error.to_string()))]));
            }
            Err(_) => checks.extend(about(name.clone(), guest::checks(host, name))),
        }
    }
    Ok(checks)
}

impl Report {
    /// The failed ones, as an error.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.checks.iter().filter(|check| check.outcome == Outcome::Failed).count() {
            0 => Ok(()),
            count => Err(Error::Unhealthy { count }),
        }
    }

    /// The JSON form.
    pub(crate) fn json(&self) -> String {
        // Strings, numbers and nothing that could fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// One line a check, and one for each hint.
    pub(crate) fn text(&self) -> String {
        let mut lines = Vec::new();
        for Check { subject, name, outcome, text, hint } in &self.checks {
            let outcome = match outcome {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Failed => "failed",
            };
            let subject = subject.as_ref().map(|subject| format!("{subject}: ")).unwrap_or_default();
            lines.push(format!("{outcome:<8} {subject}{name}: {text}"));
            lines.extend(hint.as_ref().map(|hint| format!("         hint: {hint}")));
        }
        lines.join("\n")
    }
}
