//! What the tool asks of the hypervisor.
//!
//! [`Hypervisor`] is the seam for commands, with [`Inspect`] for looking into guests, [`Physdev`] and [`Rings`] are the broker's: the real ones call Xen's libraries, the
//! tests have strict fakes that keep every domain's rights and fail on a right that is taken back twice. This folder holds the
//! only code of the crate that says `unsafe`: calls into C.

#[expect(unsafe_code, reason = "calls into libxenevtchn, a C library")]
mod events;
#[expect(unsafe_code, reason = "calls into libxenforeignmemory, a C library")]
mod foreign;
#[expect(unsafe_code, reason = "calls into libxengnttab, a C library")]
mod grants;
mod inspect;
#[expect(unsafe_code, reason = "calls into libxenctrl, a C library")]
mod inspector;
#[expect(unsafe_code, reason = "calls into libxenctrl, a C library")]
mod libxc;
#[expect(unsafe_code, reason = "calls into libxencall, a C library")]
mod physdev;
mod rings;
#[expect(unsafe_code, reason = "calls into the C library")]
mod signals;
mod version;

pub(crate) use inspect::{BATCH, Channel, FrameType, Inspect, Table, says_gone};
pub(crate) use libxc::{Libxc, OpenError};
pub(crate) use physdev::Libxencall;
pub(crate) use rings::LibxenRings;
pub(crate) use signals::{Mask, Signal, Signals, StopSignal, block_all, listen, noted_signal};
pub(crate) use version::XenVersion;

use std::ops::RangeInclusive;

use xen_types::{DomId, Errno, GrantRef, Mfn, Pirq, Port, Sbdf};

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
    /// The library's function, or Xen's operation.
    pub(crate) call: &'static str,
    pub(crate) errno: Errno,
}

/// The calls, each with the name of the libxenctrl function that carries it out.
pub(crate) trait Hypervisor {
    /// Looking into domains.
    fn inspect(&self) -> &dyn Inspect;

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

    /// Undoes [`Hypervisor::map_gsi`] or a mapping of [`Physdev`] (`xc_physdev_unmap_pirq`). Of vectors that were mapped
    /// together the first one stands for all.
    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError>;

    /// Where a guest's vectors are. Xen gives out numbers from the end of the guest's own downwards, wherever that is
    /// (`get_free_pirqs`, `xen/arch/x86/irq.c`); below are the GSIs, of which there are 16 at least. Higher ones do not fit into
    /// `pciif.h`'s answer to a guest.
    fn vector_pirqs(&self) -> RangeInclusive<u32> {
        16..=u32::from(u16::MAX)
    }

    /// Asks whether the device may be given to the domain (`xc_test_assign_device`).
    fn test_assign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError>;

    /// Gives the device's DMA to the domain; [`DomId::IO`] is the quarantine (`xc_assign_device`). With `relaxed_rdm` memory
    /// regions that firmware reserved for the device need not be mapped.
    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Result<(), HypercallError>;

    /// Takes the device from the domain, into the quarantine; from the quarantine to dom0 (`xc_deassign_device`).
    fn deassign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError>;
}

/// What shall interrupt a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vector {
    /// MSI with so many consecutive vectors.
    Msi { count: u32 },
    /// An entry of the MSI-X table that lies in the BAR at this address.
    Msix { entry: u16, table_bar: u64 },
}

/// Interrupt vectors of devices for guests (`PHYSDEVOP_*`, `xen/include/public/physdev.h`).
pub(crate) trait Physdev {
    /// Maps a vector of the device, which must be assigned to the domain; answers with the (first) pirq in the domain's own
    /// numbering (`PHYSDEVOP_map_pirq`).
    fn map(&self, domain: DomId, device: Sbdf, vector: Vector) -> Result<Pirq, HypercallError>;

    /// Has Xen write messages and masks into a device that lost them in a reset (`PHYSDEVOP_restore_msi_ext`).
    fn restore(&self, device: Sbdf) -> Result<(), HypercallError>;
}

/// Pages and event channels shared with stubs.
pub(crate) trait Rings {
    /// A mapped page. Dropping it unmaps it.
    type Page: pciif::SharedPage;

    /// Maps a page that the stub granted (`xengnttab_map_grant_ref`).
    fn map(&self, stub: DomId, grant: GrantRef) -> Result<Self::Page, HypercallError>;

    /// Binds a port that the stub offers (`xenevtchn_bind_interdomain`). The new port is pending once.
    fn bind(&self, stub: DomId, remote: Port) -> Result<Port, HypercallError>;

    /// Raises the event at the stub's end (`xenevtchn_notify`).
    fn notify(&self, port: Port) -> Result<(), HypercallError>;

    /// Closes our end (`xenevtchn_unbind`); the stub's end is open to us again afterwards.
    fn unbind(&self, port: Port) -> Result<(), HypercallError>;

    /// Takes a port with an event and makes it ready for the next one (`xenevtchn_pending`, `xenevtchn_unmask`); `None` when
    /// there is none.
    fn next_event(&self) -> Result<Option<Port>, HypercallError>;
}
