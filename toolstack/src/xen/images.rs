//! Changes the image that runs in a domain.

use xen_types::{DomId, Mfn};

use super::HypercallError;

/// The bytes of a page.
pub(crate) type Page = [u8; 4096];

/// The calls, each with the name of the library's function that carries it out.
pub(crate) trait Images {
    /// Copies of frames of a domain, in their order (`xenforeignmemory_map`, read-only). What the domain writes at the same time is in them or not.
    fn read_pages(&self, domain: DomId, frames: &[Mfn]) -> Result<Vec<Page>, HypercallError>;

    /// Fills frames of a domain that stands still (`xenforeignmemory_map`). After an error none of them has changed.
    fn write_pages(&self, domain: DomId, pages: &[(Mfn, &Page)]) -> Result<(), HypercallError>;

    /// Has the next NMI lead the domain's first CPU to this address (`xc_vcpu_getcontext`, `xc_vcpu_setcontext`). The domain stands still.
    fn set_nmi_entry(&self, domain: DomId, entry: u64) -> Result<(), HypercallError>;
}
