//! What only commands ask of the hypervisor; what the broker asks too is in the crate `dom0`.
//!
//! [`Domctls`] is the seam, with [`Inspect`] for looking into guests and [`Images`] for changing what a driver domain runs: the real one calls libxenctrl, the tests have a strict fake that
//! keeps every domain's rights and fails on a right that is taken back twice. This folder holds the only code of the crate that says
//! `unsafe`: calls into C.

#[expect(unsafe_code, reason = "calls into libxenctrl, a C library")]
mod domains;
#[expect(unsafe_code, reason = "calls into libxenforeignmemory, a C library")]
mod foreign;
mod images;
mod inspect;
mod inspector;
#[expect(unsafe_code, reason = "calls into libxenctrl, a C library")]
mod libxc;
#[expect(unsafe_code, reason = "calls into the C library")]
mod signals;

pub(crate) use ::dom0::xen::{DomainInfo, HypercallError, Hypervisor, OpenError, XenVersion};
pub(crate) use images::{Images, Page};
pub(crate) use inspect::{BATCH, Channel, FrameType, Inspect, Table, says_gone};
pub(crate) use libxc::Libxc;
pub(crate) use signals::{Mask, StopSignal, block_all, listen, noted_signal};

use xen_types::{DomId, Mfn, Pirq, Sbdf};

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

/// The calls, each with the name of the libxenctrl function that carries it out.
pub(crate) trait Domctls: Hypervisor {
    /// Looking into domains.
    fn inspect(&self) -> &dyn Inspect;

    /// Changing what a domain runs.
    fn images(&self) -> &dyn Images;

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

    /// Gives the device's DMA to the domain; [`DomId::IO`] is the quarantine (`xc_assign_device`). With `relaxed_rdm` memory
    /// regions that firmware reserved for the device need not be mapped.
    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Result<(), HypercallError>;

    /// Takes the device from the domain, into the quarantine; from the quarantine to dom0 (`xc_deassign_device`).
    fn deassign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError>;
}
