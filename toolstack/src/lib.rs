//! The `pcidom` command: what the toolstack of a PCI driver domain does in dom0.
//!
//! [`main`] reads the command line and opens dom0 (`host::Host`: hypervisor, sysfs, xenstore). Each command is a module of
//! its own that works on a `Host` and on nothing else, so the tests run every command on a simulated machine (`fake`).
#![deny(unsafe_code)]

mod assignable;
mod attach;
mod audit;
mod broker;
mod child;
mod cli;
mod close;
mod columns;
mod command;
mod completions;
mod connect;
mod create;
mod detach;
mod device_request;
mod device_spec;
mod directories;
mod doctor;
mod dom0;
mod domain;
mod ecam;
mod entries;
mod error;
mod export;
mod facts;
#[cfg(test)]
mod fake;
mod follow;
mod guard;
mod holds;
mod host;
mod journal;
mod list;
mod lock;
mod needs;
mod patience;
mod pool;
mod process;
mod question;
mod quirks;
mod reclaim;
mod release;
mod reset;
mod settings;
mod show;
mod status;
mod store;
mod sysfs;
mod table;
#[cfg(test)]
mod tests;
mod turn;
mod under_way;
mod virtual_functions;
mod withdraw;
mod work;
mod xen;
mod xl;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = match &cli.command {
        cli::Command::Completions { shell } => {
            completions::print(*shell);
            Ok(())
        }
        cli::Command::Doctor(args) => command::doctor(&doctor::Opened::new(cli.verbose), args),
        _ => run_on_host(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dom0::say(format_args!("pcidom: {error}"));
            if let Some(hint) = error.hint() {
                dom0::say(format_args!("pcidom: hint: {hint}"));
            }
            if let error::Error::Interrupted(signal) = error {
                signal.end_process();
            }
            ExitCode::from(error.cause() as u8)
        }
    }
}

fn run_on_host(cli: &cli::Cli) -> Result<(), error::Error> {
    let (host, version) = dom0::open(cli.verbose)?;
    match &cli.command {
        cli::Command::Serve { reclaim, .. } => broker::serve(&host, version, *reclaim),
        command => command::run(&host, command),
    }
}
