//! The host that a benchmark ran on.

use std::{fs, process::Command, thread};

use anyhow::Result;

use super::file::Host;
use crate::{command, release::Release};

/// This machine.
pub(crate) fn describe(release: &Release) -> Result<Host> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let qemu = command::text(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(Host {
        cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
        cpus: thread::available_parallelism()?.get(),
        qemu: qemu.lines().next().unwrap_or_default().to_owned(),
        debian: release.number,
        xen: release.xen.to_owned(),
        pcidom: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
