//! A page granted to a peer.

use core::ptr::NonNull;

use kernel::grants::GrantError;
use kernel::grants::table::GrantedPage;
use pciif::SharedPage;
use xen_types::{DomId, GrantRef};

/// A page of ours that another domain may map and write to.
#[derive(Debug)]
pub struct OfferedPage(GrantedPage);

impl OfferedPage {
    /// Grants a page to this domain.
    ///
    /// # Errors
    /// As [`GrantedPage::new`].
    pub fn new(peer: DomId) -> Result<Self, GrantError> {
        GrantedPage::new(peer, true).map(Self)
    }

    /// The number to tell the peer.
    #[must_use]
    pub fn reference(&self) -> GrantRef {
        self.0.reference()
    }
}

// SAFETY: (1) the page stays where it is while the grant lives; (2) it is a page of the heap, which is writable; (3) nobody reaches it but
// through this trait, whose users have atomics only.
unsafe impl SharedPage for OfferedPage {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
}
