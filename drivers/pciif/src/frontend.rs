//! The frontend's end of a page: test guests and the simulated Xen.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use crate::layout::{MsixEntry, SharedInfo};
use crate::page::Cells;
use crate::{ErrorCode, Flags, Request, SharedPage};

/// The answer as the frontend finds it in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The raw error number: another backend may leave numbers that [`ErrorCode`] does not know.
    pub err: i32,
    /// Value read, or pirq.
    pub value: u32,
}

impl Response {
    /// The error number as a code, where it is one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::from_raw(self.err)
    }
}

/// A page that we granted to a backend, seen from the frontend. One request at a time: publish, wait, take the response.
#[derive(Debug)]
pub struct FrontendPage<P>(pub(crate) Cells<P>);

impl<P: SharedPage> FrontendPage<P> {
    /// Takes the frontend's part on a page.
    pub fn new(page: P) -> Self {
        Self(Cells(page))
    }

    /// Tells the backend that we answer its questions about device errors. Before the page is offered.
    pub fn announce_aer(&self) {
        self.0.flags().fetch_or(Flags::AER_HANDLER.bits(), Ordering::Release);
    }

    /// Puts a request into the page and sets the flag. Notify the backend afterwards.
    pub fn publish(&self, request: &Request) {
        self.publish_with_entries(request, &[]);
    }

    /// As [`FrontendPage::publish`], with MSI-X entries; those that do not fit are left out.
    pub fn publish_with_entries(&self, request: &Request, entries: &[MsixEntry]) {
        for (index, entry) in entries.iter().enumerate() {
            let (Some(vector), Some(number)) = (self.0.entry_vector(index), self.0.entry_index(index)) else { break };
            vector.store(entry.vector, Ordering::Relaxed);
            number.store(entry.entry, Ordering::Relaxed);
        }
        let cells = &self.0;
        macro_rules! write {
            ($field:ident, $value:expr) => {
                cells.word::<{ offset_of!(SharedInfo, op.$field) }>().store($value, Ordering::Relaxed)
            };
        }
        write!(cmd, request.cmd);
        write!(err, 0);
        write!(domain, request.domain);
        write!(bus, request.bus);
        write!(devfn, request.devfn);
        write!(offset, request.offset.cast_unsigned());
        write!(size, request.size.cast_unsigned());
        write!(value, request.value);
        write!(info, request.info);
        cells.flags().fetch_or(Flags::ACTIVE.bits(), Ordering::Release);
    }

    /// True while the backend owes an answer.
    #[must_use]
    pub fn is_active(&self) -> bool {
        Flags::from_bits_truncate(self.0.flags().load(Ordering::Acquire)).contains(Flags::ACTIVE)
    }

    /// The answer to the last request; `None` while the backend still has it.
    #[must_use]
    pub fn response(&self) -> Option<Response> {
        if self.is_active() {
            return None;
        }
        Some(Response {
            err: self.0.word::<{ offset_of!(SharedInfo, op.err) }>().load(Ordering::Relaxed).cast_signed(),
            value: self.0.word::<{ offset_of!(SharedInfo, op.value) }>().load(Ordering::Relaxed),
        })
    }

    /// The `info` word of an answer by [`BackendPage::reply_with_info`](crate::BackendPage::reply_with_info). Take it after
    /// [`FrontendPage::response`] said that there is an answer.
    #[must_use]
    pub fn info(&self) -> u32 {
        self.0.word::<{ offset_of!(SharedInfo, op.info) }>().load(Ordering::Relaxed)
    }

    /// MSI-X entry `index` as it is in the page now; `None` past the last one.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<MsixEntry> {
        Some(MsixEntry {
            vector: self.0.entry_vector(index)?.load(Ordering::Relaxed),
            entry: self.0.entry_index(index)?.load(Ordering::Relaxed),
        })
    }

    /// Gives up waiting, as Linux does after two seconds. True where the backend had not answered yet.
    pub fn cancel(&self) -> bool {
        self.0.flags().fetch_and(!Flags::ACTIVE.bits(), Ordering::AcqRel) & Flags::ACTIVE.bits() != 0
    }
}
