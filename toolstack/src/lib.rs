//! The `pcidom` command: what the toolstack of a PCI driver domain does in dom0.
//!
//! [`main`] reads the command line and opens dom0 (`host::Host`: hypervisor, sysfs, xenstore). Each command works on a
//! `Host` alone, so tests run every command on a simulated machine (`fake`).
#![deny(unsafe_code)]

mod audit;
mod cli;
mod create;
mod device;
mod doctor;
mod error;
mod error_code;
#[cfg(test)]
mod fake;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod host;
mod ops;
mod records;
mod store;
mod sysfs;
#[cfg(test)]
mod tests;
mod xen;

use std::process::ExitCode;

/// The definitions of the command line, of which the manual page is made (`toolstack/manual`).
pub mod manual {
    pub use crate::cli::arguments::{DEVICE_KEYS, EXIT_CODES};
    pub use crate::error_code::ERROR_CODES;

    /// The grammar: commands, options and their help.
    #[must_use]
    pub fn command_line() -> clap::Command {
        <crate::cli::arguments::Cli as clap::CommandFactory>::command()
    }
}

use std::rc::Rc;

use clap::Parser;

use cli::report::Report;
use host::terminal::Terminal;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match cli::arguments::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nobody listens, and the exit code says it
            if let Some(hint) = cli::xl_words::explain(&error) {
                ::dom0::say(format_args!("pcidom: hint: {hint}"));
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(error::ExitCause::Usage as u8));
        }
    };
    let (is_verbose, is_quiet) = match &cli.command {
        cli::arguments::Command::Create(args) => (cli.verbose > 0 || args.debug, args.quiet),
        _ => (cli.verbose > 0, false),
    };
    let terminal = Terminal::standard_error(is_verbose, is_quiet);
    let (words, is_wanted) = cli.command.report().unwrap_or_default();
    let mut report = Report::new(words, is_wanted);
    let done = match &cli.command {
        cli::arguments::Command::Completions { shell } => {
            cli::completions::print(*shell);
            Ok(())
        }
        cli::arguments::Command::Doctor(args) => cli::command::doctor(&doctor::Opened::new(cli.verbose > 0), args),
        _ => run_on_host(&cli, terminal.clone(), &mut report),
    };
    host::terminal::release();
    if let Some(json) = report.finish(&done, terminal.notes()) {
        let _ = cli::print::print(&json); // the exit code tells it too
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ::dom0::say(format_args!("pcidom: {error}"));
            if let Some(hint) = error.hint() {
                ::dom0::say(format_args!("pcidom: hint: {hint}"));
            }
            if let error::Error::Interrupted(signal) = error {
                signal.end_process();
            }
            ExitCode::from(error.cause() as u8)
        }
    }
}

fn run_on_host(cli: &cli::arguments::Cli, terminal: Rc<Terminal>, report: &mut Report) -> Result<(), error::Error> {
    let version = host::open::check()?;
    if let cli::arguments::Command::Serve { reclaim, no_watchdog, .. } = &cli.command {
        let request = matches!(reclaim, cli::arguments::Reclaiming::Trigger).then(host::lock::reclaim_request);
        return pcidom_broker::serve(version, cli.verbose > 0, request, !no_watchdog).map_err(|error| match error {
            error::HostError::BrokerRuns => error::Error::BrokerRuns(host::lock::broker_pid()),
            error => error.into(),
        });
    }
    cli::command::run(&host::open::connect(version, terminal)?, &cli.command, report)
}
