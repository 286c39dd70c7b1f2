//! Paths of the project's nodes in xenstore (`docs/xenstore.md`), each defined once.

use alloc::format;
use alloc::string::String;

use xen_types::{DomId, Sbdf};

use crate::error::Error;
use crate::wire::{MAX_ABSOLUTE_PATH, MAX_RELATIVE_PATH};

pub mod key;
pub mod relative;

/// Checks that xenstored will accept the path, which may also be one of the watchable events [`INTRODUCE_DOMAIN`] and
/// [`RELEASE_DOMAIN`]: the characters `A-Za-z0-9-/_@`, no empty component, no slash at the end
/// (except for the root itself), and the two limits of length.
///
/// # Errors
/// [`Error::InvalidPath`] or [`Error::TooLong`].
pub fn validate(path: &str) -> Result<(), Error> {
    let limit = if path.starts_with('/') { MAX_ABSOLUTE_PATH } else { MAX_RELATIVE_PATH };
    if path.len() > limit {
        return Err(Error::TooLong);
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    let ends_well = path == "/" || !path.ends_with('/');
    let has_empty = path.as_bytes().windows(2).any(|pair| pair == b"//");
    if path.is_empty() || !ends_well || has_empty || !path.bytes().all(good) {
        return Err(Error::InvalidPath);
    }
    Ok(())
}

/// A node below another: `dir/name`.
#[must_use]
pub fn child(dir: &str, name: &str) -> String {
    if dir.ends_with('/') { format!("{dir}{name}") } else { format!("{dir}/{name}") }
}

/// The event that fires when a domain appears (watch it; dom0 only).
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// The event that fires when a domain goes away (watch it; dom0 only).
pub const RELEASE_DOMAIN: &str = "@releaseDomain";
/// All domains: `/local/domain`.
pub const DOMAINS: &str = "/local/domain";
/// The assignments that xl keeps: `/libxl/pci`.
pub const LIBXL_PCI: &str = "/libxl/pci";
/// The tool's own table of devices.
pub const TOOL_DEVICES: &str = "/tool/pcidom/device";

/// A domain's directory: `/local/domain/D`.
#[must_use]
pub fn domain_path(domid: DomId) -> String {
    format!("{DOMAINS}/{domid}")
}

/// Where all of a stub's backends are: `/local/domain/S/backend/pci`.
#[must_use]
pub fn backend_root(stub: DomId) -> String {
    child(&domain_path(stub), relative::BACKEND_ROOT)
}

/// The backend's directory for one frontend: `/local/domain/S/backend/pci/F/0`.
#[must_use]
pub fn backend_dir(stub: DomId, frontend: DomId) -> String {
    child(&domain_path(stub), &relative::backend_dir(frontend))
}

/// The frontend's directory: `/local/domain/F/device/pci/0`.
#[must_use]
pub fn frontend_dir(frontend: DomId) -> String {
    format!("{DOMAINS}/{frontend}/device/pci/0")
}

/// Where the stub reports what went wrong with one frontend: `/local/domain/S/error/backend/pci/F/0/error`.
#[must_use]
pub fn error_node(stub: DomId, frontend: DomId) -> String {
    child(&domain_path(stub), &relative::error_node(frontend))
}

/// Where the tool describes a stub's devices: `/local/domain/S/pool`.
#[must_use]
pub fn pool_root(stub: DomId) -> String {
    child(&domain_path(stub), relative::POOL)
}

/// The description of one device: `/local/domain/S/pool/BDF`.
#[must_use]
pub fn pool_dir(stub: DomId, device: Sbdf) -> String {
    child(&domain_path(stub), &relative::pool_dir(device))
}

/// The stub's version, there when it is ready to serve: `/local/domain/S/data/pcidom/version`.
#[must_use]
pub fn version_node(stub: DomId) -> String {
    child(&domain_path(stub), relative::VERSION)
}

/// How the stub arranges virtual buses: `/local/domain/S/data/pcidom/export`.
#[must_use]
pub fn export_node(stub: DomId) -> String {
    child(&domain_path(stub), relative::EXPORT)
}

/// Where the stub announces itself: `/local/domain/S/data/pcidom`.
#[must_use]
pub fn announcements_dir(stub: DomId) -> String {
    child(&domain_path(stub), relative::ANNOUNCEMENTS)
}

/// The grant of the page that the stub shares with the broker: `/local/domain/S/data/pcidom/ring-ref`.
#[must_use]
pub fn ring_ref_node(stub: DomId) -> String {
    child(&domain_path(stub), relative::RING_REF)
}

/// The port that the stub offers to the broker: `/local/domain/S/data/pcidom/event-channel`.
#[must_use]
pub fn ring_port_node(stub: DomId) -> String {
    child(&domain_path(stub), relative::RING_PORT)
}

/// Where the stub is asked for its statistics: `/local/domain/S/data/pcidom/query`.
#[must_use]
pub fn query_node(stub: DomId) -> String {
    child(&domain_path(stub), relative::QUERY)
}

/// Where the stub answers: `/local/domain/S/data/pcidom/statistics`.
#[must_use]
pub fn statistics_node(stub: DomId) -> String {
    child(&domain_path(stub), relative::STATISTICS)
}

/// xl's directory for a device: `/libxl/pci/BDF`, with `domid` and `driver_path` in it.
#[must_use]
pub fn libxl_pci_dir(device: Sbdf) -> String {
    format!("{LIBXL_PCI}/{}", device.path_component())
}

/// Our entry for a device: `/tool/pcidom/device/BDF`, with `stub`, `frontend` and `phase` in it.
#[must_use]
pub fn tool_device_dir(device: Sbdf) -> String {
    format!("{TOOL_DEVICES}/{}", device.path_component())
}
