//! What the backend tells a frontend about errors of a device (`struct xen_pcie_aer_op` of `pciif.h`).

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use xen_types::Sbdf;

use crate::layout::SharedInfo;
use crate::page::Cells;
use crate::{BackendPage, Command, Flags, FrontendPage, SharedPage};

/// State of an AER notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AerNotification {
    /// It is in the page. Notify the frontend.
    Sent,
    /// The frontend has not answered the one before.
    Busy,
    /// The frontend answers no questions.
    Deaf,
}

/// `pci_channel_io_perm_failure`: the device is gone for good, as Linux numbers it.
pub const PERMANENT_FAILURE: u32 = 3;

impl<P: SharedPage> BackendPage<P> {
    /// Tells the frontend that the function at this virtual address is gone for good: `aer_detected`. Whatever it answers changes nothing.
    pub fn tell_gone(&self, address: Sbdf) -> AerNotification {
        let flags = self.flags();
        if !flags.contains(Flags::AER_HANDLER) {
            return AerNotification::Deaf;
        }
        if flags.contains(Flags::BACKEND_ACTIVE) {
            return AerNotification::Busy;
        }
        let cells = &self.0;
        macro_rules! write {
            ($field:ident, $value:expr) => {
                cells.word::<{ offset_of!(SharedInfo, aer_op.$field) }>().store($value, Ordering::Relaxed)
            };
        }
        write!(cmd, Command::AerDetected.raw());
        write!(err, PERMANENT_FAILURE);
        write!(domain, address.segment().into());
        write!(bus, address.bus().into());
        write!(devfn, address.devfn().into());
        cells.flags().fetch_or(Flags::BACKEND_ACTIVE.bits(), Ordering::Release);
        AerNotification::Sent
    }
}

impl<P: SharedPage> FrontendPage<P> {
    /// The backend's question, if there is one: `cmd`, `err` (the channel's state), `domain`, `bus`, `devfn`.
    #[must_use]
    pub fn question(&self) -> Option<[u32; 5]> {
        let cells: &Cells<P> = &self.0;
        if !Flags::from_bits_truncate(cells.flags().load(Ordering::Acquire)).contains(Flags::BACKEND_ACTIVE) {
            return None;
        }
        macro_rules! read {
            ($($field:ident),*) => {
                [$(cells.word::<{ offset_of!(SharedInfo, aer_op.$field) }>().load(Ordering::Relaxed)),*]
            };
        }
        Some(read!(cmd, err, domain, bus, devfn))
    }

    /// Answers it. Notify the backend afterwards.
    pub fn answer(&self, err: u32) {
        self.0.word::<{ offset_of!(SharedInfo, aer_op.err) }>().store(err, Ordering::Relaxed);
        self.0.flags().fetch_and(!Flags::BACKEND_ACTIVE.bits(), Ordering::Release);
    }
}
