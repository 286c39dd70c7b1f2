//! Xen's services in dom0, and the folder shared with the host.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{boot, process};

/// The folder shared with the host: the report, and the consoles of all guests.
pub(crate) const SHARE: &str = "/share";

const XENSTORED_PID: &str = "/run/xenstored.pid";

/// Starting everything takes a fraction of this.
const LIMIT: Duration = Duration::from_mins(1);

/// The suite whose host has the other xenstored, which Debian prefers: the one in OCaml. It writes no trace, so this is a suite without cases that need it.
const OXENSTORED_SUITE: &str = "neighbours";

/// Loads modules, mounts the shared folder and starts what `xl` needs, as the host of a suite has it.
pub(crate) fn start(suite: &str) -> Result<()> {
    for module in boot::all_modules()? {
        boot::load_module(&module)?;
    }
    boot::mount_at("xenfs", "xenfs", "/proc/xen", None)?;
    boot::mount_at("9p", "share", SHARE, Some(c"trans=virtio,version=9p2000.L,msize=131072"))?;
    let deadline = Instant::now() + LIMIT;
    let xenstored = if suite == OXENSTORED_SUITE { "oxenstored" } else { "xenstored" };
    process::check(Command::new(xenstored).args(["--pid-file", XENSTORED_PID]), deadline)?;
    process::check(&mut Command::new("xen-init-dom0"), deadline)?;
    let logs = format!("{SHARE}/console");
    fs::create_dir(&logs)?;
    process::check(Command::new("xenconsoled").args(["--log=guest", &format!("--log-dir={logs}")]), deadline)?;
    Ok(())
}

/// Sends xenstored a signal.
pub(crate) fn signal_xenstored(signal: Signal) -> Result<()> {
    let number = fs::read_to_string(XENSTORED_PID)?.trim().parse()?;
    Ok(kill_process(Pid::from_raw(number).context("no process")?, signal)?)
}
