//! Makes the manual page of the `pcidom` command: `manual TEMPLATE` prints the page.
//!
//! Commands, options, keys of devices and exit codes come from the definitions of the command line, so that they are described once.
//! What no definition says (files, signals, examples) stands in the template, which is roff with lines that are filled in:
//!
//! | line | what takes its place |
//! |---|---|
//! | `@command NAME` | the heading of a command's section, with all its arguments, and what the command does |
//! | `@options NAME` | the list of the command's options |
//! | `@global` | the list of the options that every command takes |
//! | `@keys` | the list of what may stand behind a device's address |
//! | `@exit-codes` | the list of exit codes |
//!
//! `@VERSION@` in any other line is the release. A template that leaves a command out is an error.

mod page;
mod roff;

use std::process::ExitCode;

use anyhow::{Context as _, Result};

fn main() -> ExitCode {
    match print() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manual: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: manual TEMPLATE")?;
    let template = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    print!("{}", page::fill(&template).with_context(|| path.display().to_string())?);
    Ok(())
}
