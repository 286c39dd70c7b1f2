//! Names of nodes within the directories of [`super`].

use alloc::format;
use alloc::string::String;

/// BE dir: the frontend's directory.
pub const FRONTEND: &str = "frontend";
/// BE dir: the frontend's domain id.
pub const FRONTEND_ID: &str = "frontend-id";
/// BE dir: `0` when the device is to go for good.
pub const ONLINE: &str = "online";
/// BE dir: the guest's name.
pub const DOMAIN: &str = "domain";
/// BE and FE dir: a [`crate::XenbusState`].
pub const STATE: &str = "state";
/// BE dir: how many devices the numbered nodes describe.
pub const NUM_DEVS: &str = "num_devs";
/// BE dir: how many `root-N` there are.
pub const ROOT_NUM: &str = "root_num";

/// FE dir: the backend's directory.
pub const BACKEND: &str = "backend";
/// FE dir: the backend's domain id.
pub const BACKEND_ID: &str = "backend-id";
/// FE dir: grant reference of the shared page.
pub const PCI_OP_REF: &str = "pci-op-ref";
/// FE dir: the frontend's event channel port.
pub const EVENT_CHANNEL: &str = "event-channel";
/// FE dir: the protocol's version.
pub const MAGIC: &str = "magic";

/// xl's table: the guest that has the device.
pub const LIBXL_DOMID: &str = "domid";
/// xl's table: the driver that the device had before.
pub const LIBXL_DRIVER_PATH: &str = "driver_path";

/// BE dir, `dev-N`: the real address of device N.
#[must_use]
pub fn dev(index: u32) -> String {
    format!("dev-{index}")
}

/// BE dir, `key-N`: the name under which libxl finds device N again.
#[must_use]
pub fn key(index: u32) -> String {
    format!("key-{index}")
}

/// BE dir, `opts-N`: libxl's options of device N.
#[must_use]
pub fn opts(index: u32) -> String {
    format!("opts-{index}")
}

/// BE dir, `vdevfn-N`: the virtual device and function that the admin would like for device N.
#[must_use]
pub fn vdevfn(index: u32) -> String {
    format!("vdevfn-{index}")
}

/// BE dir, `vdev-N`: the virtual address of device N.
#[must_use]
pub fn vdev(index: u32) -> String {
    format!("vdev-{index}")
}

/// BE dir, `state-N`: the [`crate::XenbusState`] of device N.
#[must_use]
pub fn state(index: u32) -> String {
    format!("state-{index}")
}

/// BE dir, `root-N`: segment and number of virtual bus N.
#[must_use]
pub fn root(index: u32) -> String {
    format!("root-{index}")
}
