//! The stub's paths as the stub itself says them: relative to its own `/local/domain/S`, whose number it need not know.

use alloc::format;
use alloc::string::String;

use xen_types::{DomId, Sbdf};

use crate::number;

/// Where all backends are.
pub const BACKEND_ROOT: &str = "backend/pci";
/// Where the tool describes the devices.
pub const POOL: &str = "pool";
/// The domain's own number (libxl writes it).
pub const DOMID: &str = "domid";
/// The stub's version, there when it is ready to serve.
pub const VERSION: &str = "data/pcidom/version";
/// How the stub arranges virtual buses.
pub const EXPORT: &str = "data/pcidom/export";
/// Where the stub announces itself.
pub const ANNOUNCEMENTS: &str = "data/pcidom";
/// The grant of the page that the stub shares with the broker (`docs/broker.md`).
pub const RING_REF: &str = "data/pcidom/ring-ref";
/// The port that the stub offers to the broker.
pub const RING_PORT: &str = "data/pcidom/event-channel";
/// Where dom0 asks the stub for its statistics.
pub const QUERY: &str = "data/pcidom/query";
/// Where the stub answers.
pub const STATISTICS: &str = "data/pcidom/statistics";
/// How a domain is asked to shut down (Xen's `docs/misc/xenstore-paths.pandoc`, `control/shutdown`).
pub const CONTROL_SHUTDOWN: &str = "control/shutdown";

/// The backend's directory for one frontend: `backend/pci/F/0`.
#[must_use]
pub fn backend_dir(frontend: DomId) -> String {
    format!("{BACKEND_ROOT}/{frontend}/0")
}

/// Where the stub reports what went wrong with one frontend: `error/backend/pci/F/0/error`.
#[must_use]
pub fn error_node(frontend: DomId) -> String {
    format!("error/{BACKEND_ROOT}/{frontend}/0/error")
}

/// The description of one device: `pool/BDF`.
#[must_use]
pub fn pool_dir(device: Sbdf) -> String {
    format!("{POOL}/{}", device.path_component())
}

/// Takes apart the path of a watch event under [`BACKEND_ROOT`]: whose backend directory it is in and what follows
/// (`state`, `dev-0`; empty for the directory itself). `None` where it is no path below some `backend/pci/F/0`.
#[must_use]
pub fn split_backend(path: &str) -> Option<(DomId, &str)> {
    let (domid, rest) = component(path.strip_prefix(BACKEND_ROOT)?.strip_prefix('/')?);
    let (device, rest) = component(rest);
    let domid = domid.starts_with(|first: char| first.is_ascii_digit()).then(|| number::decimal(domid).ok())??;
    (device == "0").then_some((DomId(u16::try_from(domid).ok()?), rest))
}

/// Takes apart the path of a watch event under [`POOL`]: the device and what follows (`online`; empty for the directory).
#[must_use]
pub fn split_pool(path: &str) -> Option<(Sbdf, &str)> {
    let (device, rest) = component(path.strip_prefix(POOL)?.strip_prefix('/')?);
    Some((Sbdf::parse_path_component(device).ok()?, rest))
}

/// A path's first component, and what follows without the slash between (empty where nothing does).
#[must_use]
pub fn component(path: &str) -> (&str, &str) {
    let end = path.bytes().position(|byte| byte == b'/').unwrap_or(path.len());
    let (component, rest) = path.split_at_checked(end).unwrap_or_default();
    (component, rest.get(1..).unwrap_or_default())
}
