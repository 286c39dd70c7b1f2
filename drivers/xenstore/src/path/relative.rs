//! A backend's paths as its domain itself says them: relative to its own `/local/domain/B`, whose number it need not know.

use alloc::format;
use alloc::string::String;

use xen_types::DomId;

use crate::number;

/// Where all backends are.
pub const BACKEND_ROOT: &str = "backend/pci";

/// The directory above all error nodes of the stub ([`error_node`]).
pub const ERROR_ROOT: &str = "error/backend/pci";
/// The domain's own number (libxl writes it).
pub const DOMID: &str = "domid";
/// How a domain is asked to shut down (Xen's `docs/misc/xenstore-paths.pandoc`, `control/shutdown`).
pub const CONTROL_SHUTDOWN: &str = "control/shutdown";

/// The backend's directory for one frontend: `backend/pci/F/0`.
#[must_use]
pub fn backend_dir(frontend: DomId) -> String {
    format!("{BACKEND_ROOT}/{frontend}/0")
}

/// Where the backend reports what went wrong with one frontend: `error/backend/pci/F/0/error`.
#[must_use]
pub fn error_node(frontend: DomId) -> String {
    format!("{ERROR_ROOT}/{frontend}/0/error")
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

/// A path's first component, and what follows without the slash between (empty where nothing does).
#[must_use]
pub fn component(path: &str) -> (&str, &str) {
    let end = path.bytes().position(|byte| byte == b'/').unwrap_or(path.len());
    let (component, rest) = path.split_at_checked(end).unwrap_or_default();
    (component, rest.get(1..).unwrap_or_default())
}
