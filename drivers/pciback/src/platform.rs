//! The platform as narrow traits: each has one real implementation (in `boot`, over `kernel`) and one
//! strict fake (in `tests/sim`), which fails the test on a leak, a double release or a number it never gave out.

pub use pci_config::{ConfigSpace, Width};
use xen_types::{DomId, Errno, GrantRef, Mfn, Port};

/// Event channels towards frontends.
pub trait Events {
    /// Binds a local port to the unbound port `remote` that `peer` offers us (`EVTCHNOP_bind_interdomain`). The new port is
    /// pending once, so a request that was published before is not missed.
    ///
    /// # Errors
    /// Xen's refusal: the port does not exist, is not offered to us, or `peer` is gone.
    fn bind_interdomain(&self, peer: DomId, remote: Port) -> Result<Port, Errno>;

    /// Raises the event at the other end of `port`. A peer that is gone is no error.
    fn notify(&self, port: Port);

    /// Closes a port from [`Events::bind_interdomain`].
    fn close(&self, port: Port);
}

/// Pages that frontends grant to us.
pub trait Grants {
    /// A mapped page. Dropping it unmaps it.
    type Page: pciif::SharedPage;

    /// Maps the page that `peer` granted as `gref`, readable and writable (`GNTTABOP_map_grant_ref`).
    ///
    /// # Errors
    /// Xen's refusal, or that there is no room to map it.
    fn map_grant(&self, peer: DomId, gref: GrantRef) -> Result<Self::Page, Errno>;
}

/// Writes to one function's real configuration space, where Xen allows them (`mmcfg=0` on its command line).
pub trait ConfigWrite: ConfigSpace {
    /// True where Xen left the mapping writable.
    fn is_writable(&self) -> bool;

    /// Writes the register at `offset` (as for reads), all of it. Nothing happens where [`ConfigWrite::is_writable`] is false.
    fn write_config(&self, offset: u16, width: Width, value: u32);
}

/// Access to the configuration space of functions that dom0 gave us the ECAM page of.
pub trait ConfigAccess {
    /// One function's ECAM page. Dropping it unmaps it.
    type ConfigPage: ConfigWrite;

    /// Maps the ECAM page at machine frame `ecam`, and asks Xen to let us write to it if `for_writing`. Xen maps it read-only
    /// without saying so where it protects the page.
    ///
    /// # Errors
    /// `EPERM` where dom0 has not granted the frame; anything else Xen says; `ENOMEM` where there is no room to map it.
    fn map_config(&self, ecam: Mfn, for_writing: bool) -> Result<Self::ConfigPage, Errno>;
}

/// Grant and port that dom0's broker maps and binds, again after each restart.
#[derive(Clone, Copy, Debug)]
pub struct RingOffer<R> {
    /// The page.
    pub page: R,
    /// Its number in our grant table.
    pub gref: GrantRef,
    /// Our end of the event channel, for [`Events::notify`].
    pub port: Port,
}

/// The way to the broker in dom0 (`docs/broker.md`).
pub trait Broker {
    /// The page that we grant to dom0.
    type Ring: pciif::SharedPage;

    /// Grants a page to dom0 and offers it an event channel. Called once.
    ///
    /// # Errors
    /// No memory, or Xen's refusal.
    fn offer_ring(&self) -> Result<RingOffer<Self::Ring>, Errno>;

    /// True while dom0 has the other end of `port` bound (`EVTCHNOP_status`).
    fn is_connected(&self, port: Port) -> bool;
}

/// Time since some fixed moment.
pub trait Clock {
    /// Nanoseconds, never going back.
    fn now_ns(&self) -> u64;
}

/// Resources in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the heap in use now.
    pub heap_used: usize,
    /// The most there ever were.
    pub heap_peak: usize,
    /// Bytes that the heap has.
    pub heap_total: usize,
    /// Foreign pages that are mapped: those that frontends granted, and ECAM.
    pub mapped_pages: usize,
}

/// Introspection of the platform.
pub trait Introspection {
    /// Resources in use now.
    fn usage(&self) -> Usage;
}

/// Everything together: what a `Backend` is built on.
pub trait Platform: Events + Grants + ConfigAccess + Broker + Clock + Introspection + 'static {}

impl<T: Events + Grants + ConfigAccess + Broker + Clock + Introspection + 'static> Platform for T {}
