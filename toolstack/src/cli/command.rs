//! Dispatches from the command line to the command.

use std::io::{ErrorKind, Write as _};

use crate::cli::arguments::{AssignableCommand, Command, DoctorArgs};
use crate::cli::list::{self, DeviceEntry};
use crate::cli::show;
use crate::cli::status;
use crate::create;
use crate::doctor::{self, Opened};
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::host::settings::Settings;
use crate::ops::assignable;
use crate::ops::attach::{self, Following, Until};
use crate::ops::connect::Connection;
use crate::ops::detach;
use crate::ops::named_devices;
use crate::ops::plan::Plan;
use crate::ops::recover::{self, Reclaimed, reclaim};
use crate::ops::unfinished_guests;
use crate::records::running_commands;

/// Runs one command; its result goes to standard output.
pub(crate) fn run(host: &Host, command: &Command) -> Result<(), Error> {
    match command {
        Command::Attach(args) => {
            let request = attach::Request {
                guest: args.domain.clone(),
                backend: args.backend.clone(),
                devices: named_devices::to_attach(host, &args.devices)?,
                export: args.export,
                timeout: args.timeout,
                following: if args.persistent { Following::Yes } else { Following::No },
                until: Until::Used,
            };
            if args.dry_run {
                return planning(host, Some(&args.domain), || attach::plan(host, &request));
            }
            changing(host, Some(&args.domain), |_| match attach::attach(host, &request)? {
                Connection::Connected => Ok(()),
                Connection::Waiting => {
                    host.note(&format!("{} is paused and will see the devices when it runs", args.domain));
                    Ok(())
                }
            })
        }
        Command::Create(args) => {
            let request = create::Request {
                config: args.config.clone(),
                overrides: args.overrides.clone(),
                backend: args.backend.clone(),
                timeout: args.timeout,
                paused: args.paused,
            };
            let plan = create::Plan::read(&request)?;
            if args.dryrun {
                return print(&plan.describe(host)?);
            }
            changing(host, None, |_| create::create(host, &request, plan))
        }
        Command::Detach(args) => {
            let request = detach::Request {
                guest: args.domain.clone(),
                backend: args.backend.clone(),
                devices: named_devices::to_detach(host, &args.devices, &args.domain)?,
                timeout: args.timeout,
                force: args.force,
            };
            let set_audit = || {
                if let Some(audit) = args.audit {
                    host.settings.set(Settings { audit });
                }
            };
            if args.dry_run {
                return planning(host, Some(&args.domain), || {
                    set_audit();
                    detach::plan(host, &request)
                });
            }
            changing(host, Some(&args.domain), |reclaimed| {
                set_audit();
                detach::detach(host, &request, reclaimed)
            })
        }
        Command::List(args) => {
            let devices = list::devices(host, args.domain.as_deref())?;
            print_devices(&devices, args.json)
        }
        Command::Show(args) => {
            let shown = show::show(host, args.device)?;
            print(&if args.json { shown.json() } else { shown.text() })
        }
        Command::Status { backend, json } => {
            let status = status::status(host, backend)?;
            print(&if *json { status.json() } else { status.text() })?;
            status.check()
        }
        Command::Assignable(command) => run_assignable(host, command),
        Command::Reclaim => changing(host, None, |_| Ok(())),
        Command::Doctor(_) | Command::Serve { .. } | Command::Completions { .. } => {
            Err(Error::Usage("this command does not work on an open host".to_owned()))
        }
    }
}

/// Prints what `doctor` found.
pub(crate) fn doctor(opened: &Opened, args: &DoctorArgs) -> Result<(), Error> {
    let report = doctor::examine(opened, &args.backend, &args.names);
    print(&if args.json { report.json() } else { report.text() })?;
    report.check()
}

fn run_assignable(host: &Host, command: &AssignableCommand) -> Result<(), Error> {
    match command {
        AssignableCommand::List { json } => {
            let devices = list::assignable(host)?;
            print_devices(&devices, *json)
        }
        AssignableCommand::Add { dry_run: true, backend, devices } => {
            planning(host, None, || Ok(assignable::plan_add(host, devices, backend)?.0))
        }
        AssignableCommand::Add { dry_run: false, backend, devices } => {
            changing(host, None, |_| assignable::add(host, devices, backend))
        }
        AssignableCommand::Remove { dry_run: true, rebind, devices } => {
            planning(host, None, || assignable::plan_remove(host, devices, *rebind))
        }
        AssignableCommand::Remove { dry_run: false, rebind, devices } => {
            changing(host, None, |_| assignable::remove(host, devices, *rebind))
        }
    }
}

fn print_devices(devices: &[DeviceEntry], json: bool) -> Result<(), Error> {
    print(&if json { list::json(devices) } else { list::table(devices) })
}

/// Prints a result. That nobody reads it to its end (`pcidom list | head -1`) is no error.
fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(HostError::File { path: "standard output".into(), source: error }.into())
        }
        _ => Ok(()),
    }
}

/// A command that changes something, about a guest perhaps: in its turn, and after what others left was put right.
fn changing(
    host: &Host,
    guest: Option<&str>,
    act: impl FnOnce(&[Reclaimed]) -> Result<(), Error>,
) -> Result<(), Error> {
    host.load_settings()?;
    host.lock_commands(guest)?;
    running_commands::run(host, || {
        unfinished_guests::settle(host)?;
        let reclaimed = reclaim(host)?;
        running_commands::forget_dead(host)?;
        act(&reclaimed)
    })
}

/// Prints what a command would do. It has its turn like one that does it, so that nobody changes meanwhile what is looked at; but nothing is put
/// right before, and nothing noted.
fn planning(host: &Host, guest: Option<&str>, plan: impl FnOnce() -> Result<Plan, Error>) -> Result<(), Error> {
    host.load_settings()?;
    host.lock_commands(guest)?;
    if recover::is_due(host)? {
        host.note("what others have left is put right first, which is not shown here and may change the rest");
    }
    print(&plan()?.to_string())
}
