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
    let mut before = 0;
    for byte in path.bytes() {
        let is_good = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@');
        if !is_good || (byte, before) == (b'/', b'/') {
            return Err(Error::InvalidPath);
        }
        before = byte;
    }
    if before == 0 || before == b'/' && path.len() > 1 { Err(Error::InvalidPath) } else { Ok(()) }
}

/// A node below another: `dir/name`.
#[must_use]
pub fn child(dir: &str, name: &str) -> String {
    format!("{}/{name}", dir.strip_suffix('/').unwrap_or(dir))
}

/// The event that fires when a domain appears (watch it; dom0 only).
pub const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// The event that fires when a domain goes away (watch it; dom0 only).
pub const RELEASE_DOMAIN: &str = "@releaseDomain";
/// All domains: `/local/domain`.
pub const DOMAINS: &str = "/local/domain";
/// The assignments that xl keeps: `/libxl/pci`.
pub const LIBXL_PCI: &str = "/libxl/pci";
/// A domain's directory: `/local/domain/D`.
#[must_use]
pub fn domain_path(domid: DomId) -> String {
    format!("{DOMAINS}/{domid}")
}

/// Where all PCI backends of a domain are: `/local/domain/B/backend/pci`.
#[must_use]
pub fn backend_root(backend: DomId) -> String {
    child(&domain_path(backend), relative::BACKEND_ROOT)
}

/// The backend's directory for one frontend: `/local/domain/B/backend/pci/F/0`.
#[must_use]
pub fn backend_dir(backend: DomId, frontend: DomId) -> String {
    child(&domain_path(backend), &relative::backend_dir(frontend))
}

/// The frontend's directory: `/local/domain/F/device/pci/0`.
#[must_use]
pub fn frontend_dir(frontend: DomId) -> String {
    format!("{DOMAINS}/{frontend}/device/pci/0")
}

/// Where a backend reports what went wrong with one frontend: `/local/domain/B/error/backend/pci/F/0/error`.
#[must_use]
pub fn error_node(backend: DomId, frontend: DomId) -> String {
    child(&domain_path(backend), &relative::error_node(frontend))
}

/// Where libxl keeps which domain the device model of an HVM guest runs in; `0` is dom0.
#[must_use]
pub fn device_model_node(guest: DomId) -> String {
    child(&domain_path(guest), "image/device-model-domid")
}

/// Where libxl keeps which guest a stub domain with a device model is for.
#[must_use]
pub fn target_node(stub_domain: DomId) -> String {
    child(&domain_path(stub_domain), "target")
}

/// xl's directory for a device: `/libxl/pci/BDF`, with `domid` and `driver_path` in it.
#[must_use]
pub fn libxl_pci_dir(device: Sbdf) -> String {
    format!("{LIBXL_PCI}/{}", device.path_component())
}
