//! The flags word at offset 0 of the page.

bitflags::bitflags! {
    /// `xen_pci_sharedinfo.flags`. The page's word is only ever changed by atomic operations on single bits, since the
    /// other side changes its own bits at the same time.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// `XEN_PCIF_active`: a request is in `op`. Set by the frontend, cleared by the backend with its answer or by a
        /// frontend that waits no longer.
        const ACTIVE = 1 << 0;
        /// `XEN_PCIB_AERHANDLER`: the frontend answers questions in `aer_op`. Set once by the frontend.
        const AER_HANDLER = 1 << 1;
        /// `XEN_PCIB_active`: a question is in `aer_op`. Set by the backend, cleared by the frontend with its answer.
        const BACKEND_ACTIVE = 1 << 2;
    }
}
