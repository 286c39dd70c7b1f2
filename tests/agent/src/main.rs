//! `/init` on the bench: drives the test cases in dom0, and does what dom0 says in guests.

mod boot;
mod disk;
mod dom0;
mod frontend;
mod guest;
mod hold;
mod latency;
mod pattern;
mod process;
mod store;
mod transfer;
mod uevents;

use std::{fs, path::Path};

use anyhow::Result;

fn main() {
    // On the host, to know whether a boot is worth it: `agent cases SUITE FILTER`.
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, suite, filter] = &arguments[..]
        && word == "cases"
    {
        return dom0::list_cases(suite, filter);
    }
    // In a unit of a host that systemd has brought up.
    if let [_, word] = &arguments[..]
        && word == "installed"
    {
        if let Err(error) = dom0::installed::run() {
            println!("agent: {error:#}");
            boot::restart();
        }
        return;
    }
    if let Err(error) = run() {
        println!("agent: {error:#}");
    }
    // The first program must not end; the host side notices that the last line is missing.
    boot::restart();
}

fn run() -> Result<()> {
    boot::mount_system()?;
    if fs::read_to_string("/bench/role")?.trim() == "dom0" { dom0::run(Path::new("/bench/plan")) } else { guest::run() }
}
