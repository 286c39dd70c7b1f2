//! The real Xen behind the backend's traits.

use core::ptr::NonNull;
use kernel::grants::{self, GrantMapping, MapRequest};
use kernel::mmio::MmioPage;
use kernel::{clock, events};
use pciback::platform::{Clock, ConfigAccess, ConfigSpace, Events, Grants, Width};
use xen_types::{DomId, Errno, GrantRef, Mfn, Port};

/// Xen.
#[derive(Debug)]
pub(crate) struct Xen;

impl Events for Xen {
    fn bind_interdomain(&self, peer: DomId, remote: Port) -> Result<Port, Errno> {
        events::bind_interdomain(peer, remote)
    }

    fn notify(&self, port: Port) {
        if let Err(error) = events::notify(port) {
            log::error!("notifying port {port}: {error}");
        }
    }

    fn close(&self, port: Port) {
        events::close(port);
    }
}

/// A page that a frontend granted.
#[derive(Debug)]
pub(crate) struct GuestPage(GrantMapping);

// SAFETY: (1) the mapping stays at its slot's page-aligned address while it lives; (2) it was mapped writable (`map_grant`); (3) nothing else in
// this image uses window slots that it does not own.
unsafe impl pciif::SharedPage for GuestPage {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
}

impl Grants for Xen {
    type Page = GuestPage;

    fn map_grant(&self, peer: DomId, gref: GrantRef) -> Result<GuestPage, Errno> {
        let request = MapRequest { peer, reference: gref, writable: true };
        grants::map(request).map(GuestPage).map_err(|error| {
            log::debug!("mapping grant {gref} of domain {peer}: {error}");
            error.into()
        })
    }
}

/// A function's ECAM page.
#[derive(Debug)]
pub(crate) struct EcamPage(MmioPage);

impl ConfigSpace for EcamPage {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        match width {
            Width::Byte => self.0.read_u8(offset).into(),
            Width::Word => self.0.read_u16(offset).into(),
            Width::Dword => self.0.read_u32(offset),
        }
    }
}

impl ConfigAccess for Xen {
    type Window = EcamPage;

    fn map_config(&self, ecam: Mfn) -> Result<EcamPage, Errno> {
        MmioPage::map(ecam).map(EcamPage)
    }
}

impl Clock for Xen {
    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }
}
