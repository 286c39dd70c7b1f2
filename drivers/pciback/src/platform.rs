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

    /// What [`ConfigWrite::set_note`] was told last about this function, also in a life before a restart in place; 0 at first.
    fn note(&self) -> u32;

    /// Keeps a number that a restart in place does not forget.
    fn set_note(&self, note: u32);
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

/// A start that was not the first in this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// How many there were, this one included.
    pub count: u32,
    /// When the life before ended.
    pub crashed_ns: u64,
    /// What it said then, in ASCII.
    pub last_words: &'static [u8],
}

/// Restarts in place (`docs/restart.md`). After one, [`Grants::map_grant`] and [`Events::bind_interdomain`] for the same numbers, [`ConfigAccess::map_config`] for
/// the same frame and [`Broker::offer_ring`] give what the life before had, and a port that was had before is pending once.
pub trait Lives {
    /// The restart that began this life; `None` in the first one.
    fn restarted(&self) -> Option<Restarted>;

    /// Whether the life before had this page of `peer` mapped, and nothing was done with it in this one.
    fn is_still_mapped(&self, peer: DomId, gref: GrantRef) -> bool;

    /// Whether the life before had a page of `peer` mapped in which a request waits now. A page that was taken over in this life is not meant.
    fn is_asked(&self, peer: DomId) -> bool;

    /// Whether the image has crashed at this frontend's requests so often that it is to be served no more.
    fn is_put_aside(&self, peer: DomId) -> bool;

    /// The nodes of this frontend are looked at from now on, or those of none: to whom a crash is put down.
    fn looking_at(&self, peer: Option<DomId>);

    /// Everything that is to be taken over from the life before has been: the rest is unmapped and closed.
    fn forget_unclaimed(&self);

    /// A frontend is gone for good.
    fn forget_domain(&self, peer: DomId);
}

/// Everything together: what a `Backend` is built on.
pub trait Platform: Events + Grants + ConfigAccess + Broker + Clock + Introspection + Lives + 'static {}

impl<T: Events + Grants + ConfigAccess + Broker + Clock + Introspection + Lives + 'static> Platform for T {}
