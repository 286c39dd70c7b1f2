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

/// State of a device's channel, as Linux numbers it (`pci_channel_state_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ChannelState {
    /// The device can be reached.
    Normal = 1,
    /// It cannot be reached before it is reset.
    Frozen = 2,
    /// It is gone for good.
    PermanentFailure = 3,
}

/// A driver's answer to a notification, as Linux numbers it (`pci_ers_result_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorResult {
    /// It has no opinion: also where the device has no driver, or one without handlers.
    None = 1,
    /// It can go on without a reset.
    CanRecover = 2,
    /// The device is to be reset.
    NeedReset = 3,
    /// It cannot go on at all.
    Disconnect = 4,
    /// It works again.
    Recovered = 5,
    /// It handles no errors.
    NoHandler = 6,
}

impl ErrorResult {
    /// Every result.
    pub const ALL: [Self; 6] =
        [Self::None, Self::CanRecover, Self::NeedReset, Self::Disconnect, Self::Recovered, Self::NoHandler];

    /// The result with this number on the page; `None` where there is no such one.
    #[must_use]
    pub fn from_raw(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|result| *result as u32 == number)
    }
}

impl<P: SharedPage> BackendPage<P> {
    /// Tells the frontend of an error of the function at this virtual address: a command of [`Command`] and a [`ChannelState`], as numbers.
    /// The answer comes with an event ([`BackendPage::error_result`]).
    pub fn notify_error(&self, address: Sbdf, command: u32, state: u32) -> AerNotification {
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
        write!(cmd, command);
        write!(err, state);
        write!(domain, address.segment().into());
        write!(bus, address.bus().into());
        write!(devfn, address.devfn().into());
        cells.flags().fetch_or(Flags::BACKEND_ACTIVE.bits(), Ordering::Release);
        AerNotification::Sent
    }

    /// Tells the frontend that the function at this virtual address is gone for good: `aer_detected`. Whatever it answers changes nothing.
    pub fn tell_gone(&self, address: Sbdf) -> AerNotification {
        self.notify_error(address, Command::AerDetected.raw(), ChannelState::PermanentFailure as u32)
    }

    /// What the frontend has answered to the last notification: any number, meant as an [`ErrorResult`]. `None` before it has.
    #[must_use]
    pub fn error_result(&self) -> Option<u32> {
        if self.flags().contains(Flags::BACKEND_ACTIVE) {
            return None;
        }
        Some(self.0.word::<{ offset_of!(SharedInfo, aer_op.err) }>().load(Ordering::Relaxed))
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
