//! The real host.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use ::dom0::SinceStart;
use ::dom0::changes::CountingFile;
use ::dom0::sysfs::{Linux, SYSFS};

use crate::error::{Error, HostError};
use crate::host::Host;
use crate::host::terminal::{OnTerminal, Terminal};
use crate::store::{Connection, StoreChannel};
use crate::sysfs::Sysfs;
use crate::xen::{Libxc, XenVersion};

/// The release of the Xen below us, or why this host cannot be used.
pub(crate) fn check() -> Result<XenVersion, Error> {
    let version = version()?;
    check_root()?;
    check_dom0()?;
    Ok(version)
}

/// The release of the Xen below us.
pub(crate) fn version() -> Result<XenVersion, Error> {
    let none = || HostError::NoHost("it does not run on Xen, or sysfs is not mounted".to_owned());
    Ok(XenVersion::detect(Path::new(SYSFS)).ok_or_else(none)?)
}

/// Whether we may do what commands do.
pub(crate) fn check_root() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(HostError::NoHost("this command must be run by root".to_owned()).into())
}

/// Whether this is the domain that may do it.
pub(crate) fn check_dom0() -> Result<(), Error> {
    if is_dom0() { Ok(()) } else { Err(HostError::NoHost("this command must be run in dom0".to_owned()).into()) }
}

/// Opens the ways to Xen and xenstore.
pub(crate) fn connect(version: XenVersion, terminal: Rc<Terminal>) -> Result<Host, Error> {
    let clock = SinceStart(Instant::now());
    let hypervisor = Libxc::open(version).map_err(|error| HostError::NoHost(error.to_string()))?;
    let store = Connection::new(StoreChannel::open_or_say()?);
    let console = OnTerminal(terminal);
    let sysfs = Sysfs::new(SYSFS, Rc::new(Linux));
    let mut host = Host::new(Rc::new(hypervisor), sysfs, Rc::new(store), Box::new(clock), Box::new(console));
    host.count_changes(Rc::new(CountingFile::new(host.lock_folder.clone())));
    Ok(host)
}

/// xenfs says it; where that is not mounted, dom0 is the domain whose UUID is zero.
fn is_dom0() -> bool {
    match std::fs::read_to_string("/proc/xen/capabilities") {
        Ok(capabilities) => capabilities.contains("control_d"),
        Err(_) => std::fs::read_to_string("/sys/hypervisor/uuid")
            .is_ok_and(|uuid| uuid.trim() == "00000000-0000-0000-0000-000000000000"),
    }
}
