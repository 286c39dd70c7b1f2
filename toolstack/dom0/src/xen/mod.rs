//! What the broker asks of the hypervisor, and the commands too.
//!
//! [`Hypervisor`], [`Physdev`] and [`Rings`] are seams: the real ones call Xen's libraries, the tests have strict fakes that keep
//! every domain's rights and fail on a right that is taken back twice. This folder holds the only code of the crate that says
//! `unsafe`: calls into C.

#[expect(unsafe_code, reason = "calls into libxenevtchn, a C library")]
mod events;
#[expect(unsafe_code, reason = "calls into libxengnttab, a C library")]
mod grants;
#[expect(unsafe_code, reason = "loads C libraries")]
pub mod library;
#[expect(unsafe_code, reason = "calls into libxenctrl, a C library")]
mod libxc;
#[expect(unsafe_code, reason = "calls into libxencall, a C library")]
mod physdev;
mod rings;
#[expect(unsafe_code, reason = "calls into the C library")]
mod signals;
mod version;

pub use grants::MappedPage;
pub use library::OpenError;
pub use libxc::{Handle, Libxc};
pub use physdev::Libxencall;
pub use rings::LibxenRings;
pub use signals::{Signal, SignalSet, Signals, number, unblocked};
pub use version::XenVersion;

use std::ops::RangeInclusive;
use std::time::Duration;

use xen_types::{DomId, Errno, GrantRef, Pirq, Port, Sbdf};

/// Xen's information about a domain (`XEN_DOMINF_*`, `xen/include/public/domctl.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Being destroyed: what it had is on its way back.
    pub dying: bool,
    /// HVM or PVH: anything that is not PV.
    pub hvm: bool,
    /// The guest's kernel has shut down; the domain is still there.
    pub shutdown: bool,
    /// Paused by the toolstack: before its first instruction, or by `xl pause`.
    pub paused: bool,
}

/// Xen refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {errno}")]
pub struct HypercallError {
    /// The library's function, or Xen's operation.
    pub call: &'static str,
    /// Why.
    pub errno: Errno,
}

/// What there is to ask about domains, each with the name of the libxenctrl function that carries it out.
pub trait Hypervisor {
    /// A domain's state, `None` when there is no such domain (`xc_domain_getinfolist`).
    ///
    /// # Errors
    /// Xen's.
    fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, HypercallError>;

    /// Undoes a mapping of [`Physdev`], or of a GSI (`xc_physdev_unmap_pirq`). Of vectors that were mapped together the first one
    /// stands for all.
    ///
    /// # Errors
    /// Xen's: `EINVAL` where nothing is mapped, `ESRCH` where there is no such domain.
    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError>;

    /// Asks whether the device may be given to the domain (`xc_test_assign_device`).
    ///
    /// # Errors
    /// Xen's: why not.
    fn test_assign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError>;

    /// For how long a domain's processors have run in all; `None` when there is no such domain (`xc_domain_getinfolist`). It does not pass
    /// while the domain is stopped.
    ///
    /// # Errors
    /// Xen's.
    fn run_time(&self, domain: DomId) -> Result<Option<Duration>, HypercallError>;

    /// Interrupts a domain's first CPU with an NMI, which wakes it if it sleeps (`xc_domain_send_trigger`).
    ///
    /// # Errors
    /// Xen's.
    fn send_nmi(&self, domain: DomId) -> Result<(), HypercallError>;

    /// Where a guest's vectors are. Xen gives out numbers from the end of the guest's own downwards, wherever that is
    /// (`get_free_pirqs`, `xen/arch/x86/irq.c`); below are the GSIs, of which there are 16 at least. Higher ones do not fit into
    /// `pciif.h`'s answer to a guest.
    fn vector_pirqs(&self) -> RangeInclusive<u32> {
        16..=u32::from(u16::MAX)
    }
}

/// Source of a guest's interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// MSI with so many consecutive vectors.
    Msi {
        /// A power of two.
        count: u32,
    },
    /// An entry of the MSI-X table that lies in the BAR at this address.
    Msix {
        /// Its index.
        entry: u16,
        /// The address, as dom0 has set it.
        table_bar: u64,
    },
}

/// Interrupt vectors of devices for guests (`PHYSDEVOP_*`, `xen/include/public/physdev.h`).
pub trait Physdev {
    /// Maps a vector of the device, which must be assigned to the domain; answers with the (first) pirq in the domain's own
    /// numbering (`PHYSDEVOP_map_pirq`).
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn map(&self, domain: DomId, device: Sbdf, vector: Vector) -> Result<Pirq, HypercallError>;

    /// Has Xen write messages and masks into a device that lost them in a reset (`PHYSDEVOP_restore_msi_ext`).
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn restore(&self, device: Sbdf) -> Result<(), HypercallError>;
}

/// Pages and event channels shared with stubs.
pub trait Rings {
    /// A mapped page. Dropping it unmaps it.
    type Page: pciif::SharedPage;

    /// Maps a page that the stub granted (`xengnttab_map_grant_ref`).
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn map(&self, stub: DomId, grant: GrantRef) -> Result<Self::Page, HypercallError>;

    /// Binds a port that the stub offers (`xenevtchn_bind_interdomain`). The new port is pending once.
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn bind(&self, stub: DomId, remote: Port) -> Result<Port, HypercallError>;

    /// Raises the event at the stub's end (`xenevtchn_notify`).
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn notify(&self, port: Port) -> Result<(), HypercallError>;

    /// Closes our end (`xenevtchn_unbind`); the stub's end is open to us again afterwards.
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn unbind(&self, port: Port) -> Result<(), HypercallError>;

    /// Takes a port with an event and makes it ready for the next one (`xenevtchn_pending`, `xenevtchn_unmask`); `None` when
    /// there is none.
    ///
    /// # Errors
    /// Xen's, or the kernel's.
    fn next_event(&self) -> Result<Option<Port>, HypercallError>;
}
