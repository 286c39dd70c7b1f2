//! Inspects other domains through Xen, without their cooperation.

use xen_types::{DomId, Errno, Mfn, Pirq, Port};

use super::{DomainInfo, HypercallError};

/// Most frames whose types Xen tells in one call (`XEN_DOMCTL_getpageframeinfo3` in `xen/arch/x86/domctl.c` answers more with
/// `E2BIG`).
pub(crate) const BATCH: usize = 1024;

/// Type of a frame of a domain (`XEN_DOMCTL_PFINFO_*`, `xen/include/public/domctl.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameType {
    /// Another domain's, nobody's, or Xen's own (`XTAB`).
    NotTheirs,
    /// A page table of the lowest level, pinned or not (`L1TAB`): the one that maps I/O memory.
    L1Table,
    /// One of a higher level, 2 to 4 (`L2TAB` to `L4TAB`).
    UpperTable(u8),
    /// Anything else of theirs.
    Other,
}

/// The 512 entries of a page table.
pub(crate) type Table = [u64; 512];

/// An event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Bound to an interrupt of the host (`EVTCHNSTAT_pirq`).
    Pirq(Pirq),
    /// Anything else, or nothing.
    Other,
}

/// The calls, each with the name of the library's function that carries it out.
pub(crate) trait Inspect {
    /// The first domain at or after this number, with what Xen says about it (`xc_domain_getinfolist`).
    fn next_domain(&self, from: DomId) -> Result<Option<(DomId, DomainInfo)>, HypercallError>;

    /// Stops a domain (`xc_domain_pause`). Xen counts: a domain that was stopped before needs one [`Inspect::unpause`] more
    /// (`controller_pause_count`, `xen/common/domain.c`). When this returns no CPU uses its page tables any more, not even out of
    /// a cache (`sync_vcpu_execstate`, `xen/include/xen/sched.h`).
    fn pause(&self, domain: DomId) -> Result<(), HypercallError>;

    /// Undoes one [`Inspect::pause`] (`xc_domain_unpause`).
    fn unpause(&self, domain: DomId) -> Result<(), HypercallError>;

    /// No frame of memory has a higher number (`xc_maximum_ram_page`).
    fn highest_frame(&self) -> Result<Mfn, HypercallError>;

    /// Number of frames of a PV domain (`xc_get_tot_pages`).
    fn frame_count(&self, domain: DomId) -> Result<u64, HypercallError>;

    /// The root of the page tables that the domain's first CPU uses (`xc_vcpu_getcontext`), if that is known.
    fn root_table(&self, domain: DomId) -> Option<Mfn>;

    /// Types of up to [`BATCH`] frames of a domain (`xc_get_pfn_type_batch`).
    fn frame_types(&self, domain: DomId, frames: &[Mfn]) -> Result<Vec<FrameType>, HypercallError>;

    /// Shows `look` each of these tables (`xenforeignmemory_map`, read-only), and answers with those that cannot be mapped.
    fn show_tables(
        &self,
        domain: DomId,
        frames: &[Mfn],
        look: &mut dyn FnMut(&Table),
    ) -> Result<Vec<Mfn>, HypercallError>;

    /// State of an event channel of a domain; `None` beyond the last (`xc_evtchn_status`).
    fn channel(&self, domain: DomId, port: Port) -> Result<Option<Channel>, HypercallError>;
}

/// Whether the error means that a domain is gone or dying.
pub(crate) fn says_gone(error: HypercallError) -> bool {
    /// No such process.
    const ESRCH: Errno = Errno(3);
    error.errno == ESRCH
}
