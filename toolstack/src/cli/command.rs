//! Dispatches from the command line to the command.

use ::dom0::xen::Libxencall;
use xen_types::Sbdf;

use crate::cli::arguments::{AddArgs, AssignableCommand, AttachArgs, Command, DetachArgs, DoctorArgs, WaitCommand};
use crate::cli::list::{self, DeviceEntry};
use crate::cli::logs;
use crate::cli::print::print;
use crate::cli::report::Report;
use crate::cli::resident;
use crate::cli::show;
use crate::cli::status;
use crate::cli::turn::changing;
use crate::create;
use crate::doctor::{self, Opened};
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::host::open;
use crate::host::settings::Settings;
use crate::ops::assignable;
use crate::ops::attach::{self, Following, Until};
use crate::ops::connect::Connection;
use crate::ops::detach;
use crate::ops::maintenance::{self, SavedPlan};
use crate::ops::named_devices;
use crate::ops::plan::Plan;
use crate::ops::recover;
use crate::ops::repair;
use crate::ops::replace;
use crate::ops::versions;
use crate::ops::wait::{self, Awaited};

/// Runs one command; its result goes to standard output, or into the report.
pub(crate) fn run(host: &Host, command: &Command, report: &mut Report) -> Result<(), Error> {
    match command {
        Command::Attach(args) => {
            host.seize_in_use.set(args.seize_in_use);
            if let Some(plan) = &args.plan {
                return restore(host, args, &SavedPlan::read(plan)?, report);
            }
            let request = attach::Request {
                guest: args.domain.clone().unwrap_or_default(),
                backend: args.backend.clone(),
                devices: named_devices::to_attach(host, &args.devices)?,
                export: args.export,
                timeout: args.timeout,
                following: if args.persistent { Following::Yes } else { Following::No },
                until: Until::Used,
            };
            give(host, &request, args.dry_run, report)
        }
        Command::Create(args) => {
            host.seize_in_use.set(args.seize_in_use);
            let (config, overrides) = args.sources()?;
            let request = create::Request {
                config,
                overrides,
                backend: args.backend.clone(),
                timeout: args.timeout,
                paused: args.paused,
                for_xl: args.for_xl(),
                console: args.console,
            };
            let plan = create::Plan::read(&request)?;
            if args.dry_run {
                let text = plan.describe(host)?;
                return report.lines(text.lines().map(str::to_owned).collect(), || text.clone());
            }
            let mut created = None;
            let done = changing(host, None, |_| create::create(host, &request, plan, &mut created));
            host.unlock_commands();
            let stayed = created.map_or(Ok(()), |guest| guest.stay(host, args.foreground));
            done.and(stayed)
        }
        Command::Detach(args) if args.all => take_all(host, args, report),
        Command::Detach(args) => {
            let guest = args.domain.clone().unwrap_or_default();
            let devices = named_devices::to_detach(host, &args.devices, &guest)?;
            take(host, args, guest, devices, report)
        }
        Command::List(args) => {
            let devices = list::devices(host, args.domain.as_deref())?;
            print_devices(&devices, args.json)
        }
        Command::Show(args) => {
            let shown = show::show(host, args.device)?;
            print(&if args.json { shown.json() } else { shown.text() })
        }
        Command::Status { backend, json, prometheus } => {
            let status = match status::status(host, backend) {
                Err(error @ (Error::StubNotRunning(_) | Error::StubNotReady(_))) if *prometheus => {
                    print(&status::prometheus_down(backend))?;
                    return Err(error);
                }
                status => status?,
            };
            print(&match (json, prometheus) {
                (true, _) => status.json(),
                (false, true) => status.prometheus(),
                (false, false) => status.text(),
            })?;
            status.check()
        }
        Command::Restart { backend, .. } => {
            host.lock_commands(None)?;
            report.started(&replace::restart(host, backend)?)
        }
        Command::Upgrade { backend, image, .. } => {
            host.lock_commands(None)?;
            let installed = || replace::installed(&host.root);
            let image = image.clone().map_or_else(installed, Ok)?;
            report.started(&replace::upgrade(host, backend, &image)?)
        }
        Command::Logs { backend, lines } => print(&logs::logs(host, backend, *lines)?),
        Command::Wait(command) => {
            let (awaited, timeout) = match command {
                WaitCommand::Ready { backend, timeout, .. } => (Awaited::Ready { backend: backend.clone() }, timeout),
                WaitCommand::Free { devices, timeout, .. } => (Awaited::Free { devices: devices.clone() }, timeout),
                WaitCommand::Attached { domain, devices, timeout, .. } => {
                    (Awaited::Attached { guest: domain.clone(), devices: devices.clone() }, timeout)
                }
            };
            wait::wait(host, &awaited, *timeout)
        }
        Command::Assignable(command) => run_assignable(host, command, report),
        Command::Reclaim { dry_run: true, .. } => {
            host.lock_commands(None)?;
            let outstanding = recover::outstanding(host)?;
            let text = outstanding.join("\n");
            report.lines(outstanding, || if text.is_empty() { "nothing is to be put right".to_owned() } else { text })
        }
        Command::Reclaim { .. } => changing(host, None, |_| Ok(())),
        Command::Repair { devices } => {
            let physdev = Libxencall::open(open::version()?).map_err(|error| HostError::NoHost(error.to_string()))?;
            print(&repair::repair_all(host, &physdev, devices)?.join("\n"))
        }
        Command::Backend(args) => resident::backend(host, args),
        Command::Autostart { backend, folder } => resident::autostart(host, backend, folder),
        Command::Identify { devices } => {
            let lines = devices.iter().map(|device| Ok(format!("device = {device},{}", host.sysfs.identity(*device)?)));
            print(&lines.collect::<Result<Vec<_>, Error>>()?.join("\n"))
        }
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

/// Attaches devices to a guest.
fn give(host: &Host, request: &attach::Request, dry_run: bool, report: &mut Report) -> Result<(), Error> {
    let guest = &request.guest;
    if dry_run {
        return planning(host, Some(guest), report, || attach::plan(host, request));
    }
    changing(host, Some(guest), |_| match attach::attach(host, request)? {
        Connection::Connected => Ok(()),
        Connection::Waiting => {
            host.note(&format!("{guest} is paused and will see the devices when it runs"));
            Ok(())
        }
    })
}

/// Gives guests what a saved plan has for them. One that cannot have it does not keep the others from theirs.
fn restore(host: &Host, args: &AttachArgs, plan: &SavedPlan, report: &mut Report) -> Result<(), Error> {
    one_by_one(host, &plan.guests, |saved| {
        let guest = saved.find(host)?;
        let devices = saved.missing(host, guest.id)?;
        if devices.is_empty() {
            host.note(&format!("{guest} has all of its devices"));
            return Ok(());
        }
        let request = attach::Request {
            guest: guest.id.to_string(),
            backend: saved.backend.clone(),
            devices,
            export: saved.mode().map_err(Error::Usage)?,
            timeout: args.timeout,
            following: if saved.persistent { Following::Yes } else { Following::No },
            until: Until::Used,
        };
        give(host, &request, args.dry_run, report)
    })
}

/// Takes devices from a guest.
fn take(host: &Host, args: &DetachArgs, guest: String, devices: Vec<Sbdf>, report: &mut Report) -> Result<(), Error> {
    let (backend, timeout, force) = (args.backend.clone(), args.timeout(), args.force);
    let request = detach::Request { guest, backend, devices, timeout, force };
    let set_audit = || {
        if let Some(audit) = args.audit {
            host.settings.set(Settings { audit });
        }
    };
    if args.dry_run {
        return planning(host, Some(&request.guest), report, || {
            set_audit();
            detach::plan(host, &request)
        });
    }
    changing(host, Some(&request.guest), |reclaimed| {
        set_audit();
        detach::detach(host, &request, reclaimed)
    })
}

/// Takes all devices from a guest, or from all guests. One that does not let go does not keep the others from doing so.
fn take_all(host: &Host, args: &DetachArgs, report: &mut Report) -> Result<(), Error> {
    let guest = args.domain.as_deref();
    if let (Some(file), false) = (&args.plan, args.dry_run) {
        SavedPlan::of(host, guest)?.write(file)?;
    }
    one_by_one(host, &maintenance::holders(host, guest)?, |holder| {
        take(host, args, holder.guest.to_string(), holder.devices.clone(), report)
    })
}

/// Does something for each guest, in a turn of its own; what fails is noted, and the first failure is the command's.
fn one_by_one<T>(host: &Host, guests: &[T], mut act: impl FnMut(&T) -> Result<(), Error>) -> Result<(), Error> {
    let mut failed = None;
    for guest in guests {
        host.unlock_commands();
        match act(guest) {
            Err(error @ Error::Interrupted(_)) => return Err(error),
            Err(error) if failed.is_some() => host.note(&error.to_string()),
            Err(error) => failed = Some(error),
            Ok(()) => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

fn run_assignable(host: &Host, command: &AssignableCommand, report: &mut Report) -> Result<(), Error> {
    match command {
        AssignableCommand::List { json: false, names: true } => {
            print(&list::table_with_names(&list::assignable(host)?))
        }
        AssignableCommand::List { json, .. } => print_devices(&list::assignable(host)?, *json),
        AssignableCommand::Add(AddArgs { dry_run, backend, name, devices, seize_in_use, .. }) => {
            host.seize_in_use.set(*seize_in_use);
            let (devices, name) = (named_devices::to_add(host, devices)?, name.as_deref());
            if *dry_run {
                return planning(host, None, report, || Ok(assignable::plan_add(host, &devices, backend, name)?.0));
            }
            changing(host, None, |_| assignable::add_named(host, &devices, backend, name))
        }
        AssignableCommand::Remove { dry_run, rebind, devices, .. } => {
            let devices = named_devices::to_remove(host, devices)?;
            if *dry_run {
                return planning(host, None, report, || assignable::plan_remove(host, &devices, *rebind));
            }
            changing(host, None, |_| assignable::remove(host, &devices, *rebind))
        }
    }
}

fn print_devices(devices: &[DeviceEntry], json: bool) -> Result<(), Error> {
    print(&if json { list::json(devices) } else { list::table(devices) })
}

/// Prints what a command would do. It has its turn like one that does it, so that nobody changes meanwhile what is looked at; but nothing is put
/// right before, and nothing noted.
fn planning(
    host: &Host,
    guest: Option<&str>,
    report: &mut Report,
    plan: impl FnOnce() -> Result<Plan, Error>,
) -> Result<(), Error> {
    host.load_settings()?;
    host.lock_commands(guest)?;
    versions::check_broker(host)?;
    if recover::is_due(host)? {
        host.note("what others have left is put right first, which is not shown here and may change the rest");
    }
    report.plan(&plan()?)
}
