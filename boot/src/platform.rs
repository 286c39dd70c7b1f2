//! Implements the backend's traits on Xen.

use core::ptr::NonNull;
use kernel::grants::table::LastingPage;
use kernel::grants::{self, GrantMapping, MapRequest};
use kernel::mmio::MmioPage;
use kernel::{clock, culprit, events, fixmap, heap, survivor};
use pciback::platform::{
    Broker, Clock, ConfigAccess, ConfigSpace, ConfigWrite, Events, Grants, Introspection, Lives, Restarted, RingOffer,
    Usage, Width,
};
use xen_types::{DomId, Errno, GrantRef, Mfn, Port};

/// Xen.
#[derive(Debug)]
pub(crate) struct Xen;

impl Events for Xen {
    fn bind_interdomain(&self, peer: DomId, remote: Port) -> Result<Port, Errno> {
        grants::port_of(peer, remote, || events::bind_interdomain(peer, remote))
    }

    #[inline(always)] // for each request
    fn notify(&self, port: Port) {
        if let Err(error) = events::notify(port) {
            not_notified(port, error);
        }
    }

    fn close(&self, port: Port) {
        events::close(port);
    }
}

#[cold]
#[inline(never)]
fn not_notified(port: Port, error: Errno) {
    plain_log::error!("notifying port {port}: {error}");
}

/// A page that a frontend granted.
#[derive(Debug)]
pub(crate) struct GuestPage(GrantMapping);

// SAFETY: (1) the mapping stays at its slot's page-aligned address while it lives; (2) it was mapped writable (`map_grant`); (3) nothing else in
// this image uses fixmap entries that it does not own.
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
            plain_log::debug!("mapping grant {gref} of domain {peer}: {error}");
            error.into()
        })
    }
}

/// A function's ECAM page.
#[derive(Debug)]
pub(crate) struct EcamPage(MmioPage);

impl ConfigSpace for EcamPage {
    #[inline(always)] // one load
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        match width {
            Width::Byte => self.0.read_u8(offset).into(),
            Width::Word => self.0.read_u16(offset).into(),
            Width::Dword => self.0.read_u32(offset),
        }
    }
}

impl ConfigWrite for EcamPage {
    fn is_writable(&self) -> bool {
        self.0.is_writable()
    }

    fn note(&self) -> u32 {
        self.0.note()
    }

    fn set_note(&self, note: u32) {
        self.0.set_note(note);
    }

    fn write_config(&self, offset: u16, width: Width, value: u32) {
        let [byte, high, ..] = value.to_le_bytes();
        match width {
            Width::Byte => self.0.write_u8(offset, byte),
            Width::Word => self.0.write_u16(offset, u16::from_le_bytes([byte, high])),
            Width::Dword => self.0.write_u32(offset, value),
        }
    }
}

impl ConfigAccess for Xen {
    type ConfigPage = EcamPage;

    fn map_config(&self, ecam: Mfn, for_writing: bool) -> Result<EcamPage, Errno> {
        if for_writing { MmioPage::map_writable(ecam) } else { MmioPage::map(ecam) }.map(EcamPage)
    }
}

/// The page that dom0's broker maps.
#[derive(Debug)]
pub(crate) struct RingPage(LastingPage);

// SAFETY: (1) the page stays where it is through all lives of the image; (2) it is one of the lasting pages (kernel::lasting), which are
// writable; (3) the grant hands its address out to no other code.
unsafe impl pciif::SharedPage for RingPage {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
}

impl Broker for Xen {
    type Ring = RingPage;

    fn offer_ring(&self) -> Result<RingOffer<RingPage>, Errno> {
        let page = LastingPage::take(DomId::DOM0, || events::alloc_unbound(DomId::DOM0))?;
        Ok(RingOffer { gref: page.reference, port: page.port, page: RingPage(page) })
    }

    fn is_connected(&self, port: Port) -> bool {
        events::is_connected(port)
    }
}

impl Clock for Xen {
    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }
}

impl Introspection for Xen {
    fn usage(&self) -> Usage {
        let heap::Usage { used, peak, total } = heap::usage();
        Usage { heap_used: used, heap_peak: peak, heap_total: total, mapped_pages: fixmap::slots_in_use() }
    }
}

impl Lives for Xen {
    fn restarted(&self) -> Option<Restarted> {
        let count = survivor::restarts();
        (count > 0).then(|| {
            let (last_words, crashed_ns) = survivor::last_words();
            let crashed_ns = if crashed_ns == 0 { clock::start_ns() } else { crashed_ns };
            Restarted { count, crashed_ns, last_words }
        })
    }

    fn is_still_mapped(&self, peer: DomId, gref: GrantRef) -> bool {
        grants::is_unclaimed(peer, gref)
    }

    fn is_asked(&self, peer: DomId) -> bool {
        grants::first_word(peer)
            .is_some_and(|flags| pciif::Flags::from_bits_truncate(flags).contains(pciif::Flags::ACTIVE))
    }

    fn is_put_aside(&self, peer: DomId) -> bool {
        survivor::is_put_aside(peer)
    }

    fn looking_at(&self, peer: Option<DomId>) {
        culprit::looking_at(peer);
    }

    fn forget_unclaimed(&self) {
        grants::forget_unclaimed();
    }

    fn forget_domain(&self, peer: DomId) {
        survivor::forget_domain(peer);
    }
}
