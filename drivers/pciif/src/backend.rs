//! The backend's end of a page.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use crate::layout::{MAX_VECTORS, MsixEntry, SharedInfo};
use crate::page::Cells;
use crate::{Command, ErrorCode, Flags, MsixEntries, ReadRequest, Reply, Request, SharedPage};

/// A page that a frontend granted, seen from the backend.
///
/// # Ordering
/// The frontend writes the request and then sets [`Flags::ACTIVE`] with a barrier between them: our load of the flags is an
/// acquire, so the words read after it are the request's. We write the answer and then clear the bit with a release, so a
/// frontend that sees the bit clear sees the answer. The words themselves need no order among themselves.
#[derive(Debug)]
pub struct BackendPage<P>(pub(crate) Cells<P>);

impl<P: SharedPage> BackendPage<P> {
    /// Takes the backend's part on a page. Nothing is written until the first [`BackendPage::reply`].
    pub fn new(page: P) -> Self {
        Self(Cells(page))
    }

    /// The flags now, without unknown bits.
    #[must_use]
    #[inline(always)] // as all that a read of configuration space needs
    pub fn flags(&self) -> Flags {
        Flags::from_bits_truncate(self.0.flags().load(Ordering::Acquire))
    }

    /// True while a request waits for its answer.
    #[must_use]
    #[inline(always)]
    pub fn is_active(&self) -> bool {
        self.flags().contains(Flags::ACTIVE)
    }

    /// Copies the request out of the page, or `None` where there is none. Each word is read exactly once (XSA-155).
    #[must_use]
    pub fn take_request(&self) -> Option<Request> {
        self.is_active().then(|| self.snapshot())
    }

    /// Copies as much as a read has of the request that is there ([`BackendPage::is_active`]), each word once; `None` where it is no read.
    /// Who looks at it once more with [`BackendPage::take_request`] trusts nothing that was seen here.
    #[must_use]
    #[inline(always)]
    pub fn take_read(&self) -> Option<ReadRequest> {
        let cells = &self.0;
        macro_rules! read {
            ($field:ident) => {
                cells.word::<{ offset_of!(SharedInfo, op.$field) }>().load(Ordering::Relaxed)
            };
        }
        (read!(cmd) == Command::ConfRead.raw()).then(|| ReadRequest {
            domain: read!(domain),
            bus: read!(bus),
            devfn: read!(devfn),
            offset: read!(offset).cast_signed(),
            size: read!(size).cast_signed(),
        })
    }

    /// Copies the MSI-X entries of `request` out of the page: as many as the private copy counts, each read once. Call it
    /// once for a request. `None` where the request has no entries to take, or counts more than fit
    /// ([`MAX_VECTORS`]).
    #[must_use]
    pub fn take_entries(&self, request: &Request) -> Option<MsixEntries> {
        let len = entry_count(request)?;
        let mut copy = MsixEntries { entries: [MsixEntry::default(); MAX_VECTORS], len };
        for (index, slot) in copy.entries.iter_mut().enumerate().take(len) {
            slot.vector = self.0.entry_vector(index)?.load(Ordering::Relaxed);
            slot.entry = self.0.entry_index(index)?.load(Ordering::Relaxed);
        }
        Some(copy)
    }

    /// Answers `request`: writes `err` and `value`, for MSI-X the vectors of the entries that the request counts, and
    /// nothing else; then lets go of the page. Notify the frontend afterwards and look again ([`BackendPage::take_request`]).
    ///
    /// An answer that took so long that the frontend may have given up needs [`BackendPage::still_carries`] before.
    pub fn reply(&self, request: &Request, reply: Reply<'_>) {
        for (index, vector) in reply.vectors.iter().enumerate().take(entry_count(request).unwrap_or(0)) {
            if let Some(cell) = self.0.entry_vector(index) {
                cell.store(*vector, Ordering::Relaxed);
            }
        }
        self.answer(reply.err, reply.value);
    }

    /// As [`BackendPage::reply`], with a word more: `info`, which `pciif.h` has as an input only. For peers that have agreed on its meaning.
    pub fn reply_with_info(&self, request: &Request, reply: Reply<'_>, info: u32) {
        self.0.word::<{ offset_of!(SharedInfo, op.info) }>().store(info, Ordering::Relaxed);
        self.reply(request, reply);
    }

    /// As [`BackendPage::reply`] for a request that has no vectors.
    #[inline(always)]
    pub fn answer(&self, err: ErrorCode, value: u32) {
        let cells = &self.0;
        cells.word::<{ offset_of!(SharedInfo, op.err) }>().store(err.raw().cast_unsigned(), Ordering::Relaxed);
        cells.word::<{ offset_of!(SharedInfo, op.value) }>().store(value, Ordering::Relaxed);
        cells.flags().fetch_and(!Flags::ACTIVE.bits(), Ordering::Release);
    }

    /// True while the page still carries this very request. Linux and FreeBSD frontends clear the flag after two seconds and
    /// may publish another request, which must not get this one's answer (docs/protocol.md §3.4): then drop the answer and take
    /// the new request. A frontend that publishes the same words again gets the answer to the same question.
    #[must_use]
    pub fn still_carries(&self, request: &Request) -> bool {
        self.take_request().as_ref() == Some(request)
    }

    fn snapshot(&self) -> Request {
        let cells = &self.0;
        macro_rules! read {
            ($field:ident) => {
                cells.word::<{ offset_of!(SharedInfo, op.$field) }>().load(Ordering::Relaxed)
            };
        }
        Request {
            cmd: read!(cmd),
            domain: read!(domain),
            bus: read!(bus),
            devfn: read!(devfn),
            offset: read!(offset).cast_signed(),
            size: read!(size).cast_signed(),
            value: read!(value),
            info: read!(info),
        }
    }
}

/// Number of MSI-X entries of a request; `None` if it has none or claims more than fit.
fn entry_count(request: &Request) -> Option<usize> {
    let len = usize::try_from(request.value).ok()?;
    (request.command() == Some(Command::EnableMsix) && len <= MAX_VECTORS).then_some(len)
}
