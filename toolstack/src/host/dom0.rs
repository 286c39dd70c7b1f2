//! The real host.

use std::fmt::Arguments;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::host::{Clock, Console, Host};
use crate::store::{Connection, StoreChannel};
use crate::sysfs::{Linux, Sysfs};
use crate::xen::{Libxc, XenVersion};

/// Names a libxenctrl to load instead of the one that is found.
const LIBRARY_VARIABLE: &str = "PCIDOM_LIBXENCTRL";
const SYSFS: &str = "/sys";

struct SinceStart(Instant);

impl Clock for SinceStart {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A line on standard error. A command at work does not stop because nobody listens any more.
pub(crate) fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct StandardError {
    verbose: bool,
}

impl Console for StandardError {
    fn note(&self, text: &str) {
        say(format_args!("pcidom: note: {text}"));
    }

    fn trace(&self, at: Duration, text: &str) {
        if self.verbose {
            say(format_args!("{:>7} ms  {text}", at.as_millis()));
        }
    }
}

/// Opens everything, or says why this host cannot be used. The version is for libraries that only some commands need.
pub(crate) fn open(verbose: bool) -> Result<(Host, XenVersion), Error> {
    let version = version()?;
    check_root()?;
    check_dom0()?;
    Ok((connect(version, verbose)?, version))
}

/// The release of the Xen below us.
pub(crate) fn version() -> Result<XenVersion, Error> {
    XenVersion::detect(Path::new(SYSFS))
        .ok_or_else(|| Error::NoHost("it does not run on Xen, or sysfs is not mounted".to_owned()))
}

/// Whether we may do what commands do.
pub(crate) fn check_root() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::NoHost("this command must be run by root".to_owned()))
}

/// Whether this is the domain that may do it.
pub(crate) fn check_dom0() -> Result<(), Error> {
    if is_dom0() { Ok(()) } else { Err(Error::NoHost("this command must be run in dom0".to_owned())) }
}

/// Opens the ways to Xen and xenstore.
pub(crate) fn connect(version: XenVersion, verbose: bool) -> Result<Host, Error> {
    let clock = SinceStart(Instant::now());
    let library = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from);
    let hypervisor = Libxc::open(version, library).map_err(|error| Error::NoHost(error.to_string()))?;
    let device = StoreChannel::open().map_err(|error| Error::NoHost(format!("no way to xenstore: {error}")))?;
    Ok(Host::new(
        Box::new(hypervisor),
        Sysfs::new(SYSFS, Box::new(Linux)),
        Box::new(Connection::new(device)),
        Box::new(clock),
        Box::new(StandardError { verbose }),
    ))
}

/// xenfs says it; where that is not mounted, dom0 is the domain whose UUID is zero.
fn is_dom0() -> bool {
    match std::fs::read_to_string("/proc/xen/capabilities") {
        Ok(capabilities) => capabilities.contains("control_d"),
        Err(_) => std::fs::read_to_string("/sys/hypervisor/uuid")
            .is_ok_and(|uuid| uuid.trim() == "00000000-0000-0000-0000-000000000000"),
    }
}
