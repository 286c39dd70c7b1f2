//! What the tool asks of the hypervisor.
//!
//! [`Hypervisor`] is the seam: [`Libxc`] is the real one and the only code of this crate that says `unsafe`, the tests have a
//! strict fake that keeps every domain's rights and fails on a right that is taken back twice.

#[expect(unsafe_code, reason = "calls into libxenctrl, a C library")]
mod libxc;
mod version;

pub(crate) use libxc::Libxc;
pub(crate) use version::XenVersion;

use xen_types::{DomId, Errno, Mfn, Pirq, Sbdf};

/// Consecutive machine frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frames {
    pub(crate) first: Mfn,
    pub(crate) count: u64,
}

/// Consecutive I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ports {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Whether a right is given or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Allow,
    Revoke,
}

/// What Xen says about a domain (`XEN_DOMINF_*`, `xen/include/public/domctl.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DomainInfo {
    /// Being destroyed: what it had is on its way back.
    pub(crate) dying: bool,
    /// HVM or PVH: anything that is not PV.
    pub(crate) hvm: bool,
    /// The guest's kernel has shut down; the domain is still there.
    pub(crate) shutdown: bool,
    /// Paused by the toolstack: before its first instruction, or by `xl pause`.
    pub(crate) paused: bool,
}

/// Xen refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {errno}")]
pub(crate) struct HypercallError {
    /// The libxenctrl function.
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
}

/// The calls, each with the name of the libxenctrl function that carries it out.
pub(crate) trait Hypervisor {
    /// A domain's state, `None` when there is no such domain (`xc_domain_getinfolist`).
    fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, HypercallError>;

    /// Whether the host has an IOMMU that Xen uses, `directio` in `xl info` (`xc_physinfo`).
    fn has_iommu(&self) -> Result<bool, HypercallError>;

    /// Lets a domain map machine frames (`xc_domain_iomem_permission`). Revoking does not undo a mapping that exists.
    fn set_iomem(&self, domain: DomId, frames: Frames, permission: Permission) -> Result<(), HypercallError>;

    /// Lets a domain use I/O ports (`xc_domain_ioport_permission`).
    fn set_ioports(&self, domain: DomId, ports: Ports, permission: Permission) -> Result<(), HypercallError>;

    /// Lets a domain bind an interrupt (`xc_domain_irq_permission`).
    fn set_irq(&self, domain: DomId, pirq: Pirq, permission: Permission) -> Result<(), HypercallError>;

    /// Gives a domain the pirq that has the GSI's own number (`xc_physdev_map_pirq`): Linux's pcifront takes the interrupt
    /// line register for both.
    fn map_gsi(&self, domain: DomId, gsi: u32) -> Result<Pirq, HypercallError>;

    /// Undoes [`Hypervisor::map_gsi`] (`xc_physdev_unmap_pirq`).
    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError>;

    /// Asks whether the device may be given to the domain (`xc_test_assign_device`).
    fn test_assign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError>;

    /// Gives the device's DMA to the domain; [`DomId::IO`] is the quarantine (`xc_assign_device`). With `relaxed_rdm` memory
    /// regions that firmware reserved for the device need not be mapped.
    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Result<(), HypercallError>;

    /// Takes the device from the domain, into the quarantine; from the quarantine to dom0 (`xc_deassign_device`).
    fn deassign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError>;
}
