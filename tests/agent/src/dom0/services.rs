//! Xen's services in dom0, and the folder shared with the host.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{boot, process};

/// The folder shared with the host: the report, and the consoles of all guests.
pub(crate) const SHARE: &str = "/share";

/// Starting everything takes a fraction of this.
const LIMIT: Duration = Duration::from_mins(1);

/// Loads modules, mounts the shared folder and starts what `xl` needs.
pub(crate) fn start() -> Result<()> {
    for module in boot::all_modules()? {
        boot::load_module(&module)?;
    }
    boot::mount_at("xenfs", "xenfs", "/proc/xen", None)?;
    boot::mount_at("9p", "share", SHARE, Some(c"trans=virtio,version=9p2000.L,msize=131072"))?;
    let deadline = Instant::now() + LIMIT;
    process::check(Command::new("xenstored").args(["--pid-file", "/run/xenstored.pid"]), deadline)?;
    process::check(&mut Command::new("xen-init-dom0"), deadline)?;
    let logs = format!("{SHARE}/console");
    fs::create_dir(&logs)?;
    process::check(Command::new("xenconsoled").args(["--log=guest", &format!("--log-dir={logs}")]), deadline)?;
    Ok(())
}
