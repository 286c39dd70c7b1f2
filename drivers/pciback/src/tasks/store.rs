//! Questions to xenstored as futures, and transactions.

use alloc::format;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};

use xen_types::Errno;
use xenstore::{Error, ReqId, Request, TxId, transaction_id};

use super::values::{REQUESTED_SLOT, Value};
use crate::platform::Platform;
use crate::shared::Handle;

impl<P: Platform> Handle<P> {
    /// Asks for something, whatever is answered.
    #[inline(never)] // its callers are large already
    pub(crate) fn tell(&self, tx: TxId, request: &Request<'_>) {
        self.with(|core| core.tell(tx, request));
    }
}

/// Questions that were asked together. As a future it waits for all of them, and ends with the first error; more can be asked afterwards. Dropping it
/// leaves the questions asked and their answers unread.
pub(crate) struct Answers<P: Platform> {
    handle: Handle<P>,
    /// Those that are not answered yet begin at `next`. With each, the errors that say that its node is missing.
    asked: Vec<(ReqId, &'static [Errno])>,
    next: usize,
    /// The last question was not even sent.
    refused: Option<Error>,
    /// The answers, in the order of the questions. An error has none: there are as many as questions before it.
    pub(crate) values: Vec<Value>,
}

impl<P: Platform> Answers<P> {
    /// Nothing is asked.
    pub(crate) fn new(handle: &Handle<P>) -> Self {
        Self { handle: handle.clone(), asked: Vec::new(), next: 0, refused: None, values: Vec::new() }
    }

    /// One more question. Its node is missing where the answer is one of `missing`.
    #[inline(never)] // its callers are large already
    pub(crate) fn ask(&mut self, tx: TxId, request: &Request<'_>, missing: &'static [Errno]) {
        if self.refused.is_some() {
            return;
        }
        match self.handle.with(|core| core.client.submit(tx, request)) {
            Ok(id) => self.asked.push((id, missing)),
            Err(error) => self.refused = Some(error),
        }
    }

    /// Asks in the order of `names` for the nodes that are called so in `dir`, with `suffix` behind each name.
    pub(crate) fn read(&mut self, tx: TxId, dir: &str, names: &[&str], suffix: &str, missing: &'static [Errno]) {
        for name in names {
            let tx = if *name == REQUESTED_SLOT { TxId::NONE } else { tx };
            self.ask(tx, &Request::Read { path: &format!("{dir}/{name}{suffix}") }, missing);
        }
    }

    /// True when nothing is asked that is not answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.refused.is_none()
    }
}

impl<P: Platform> Future for Answers<P> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { handle, asked, next, refused, values } = &mut *self;
        while let Some((id, missing)) = asked.get(*next) {
            let answer = handle.with(|core| {
                let answer = core.client.take_reply(*id);
                if answer.is_none() {
                    core.wait_for(*id, cx.waker().clone());
                }
                answer
            });
            let Some(answer) = answer else { return Poll::Pending };
            *next += 1;
            values.push(match answer {
                Ok(value) => Some(value),
                Err(Error::Store(errno)) if missing.contains(&errno) => None,
                Err(error) => return Poll::Ready(Err(error)),
            });
        }
        asked.clear();
        *next = 0;
        Poll::Ready(refused.map_or(Ok(()), Err))
    }
}

impl<P: Platform> Drop for Answers<P> {
    fn drop(&mut self) {
        for (id, _) in self.asked.iter().skip(self.next) {
            self.handle.with(|core| {
                core.wait_no_more(*id);
                core.client.forget(*id);
            });
        }
    }
}

/// A transaction. Dropping it throws its changes away.
pub(crate) struct Transaction<P: Platform> {
    handle: Handle<P>,
    /// [`TxId::NONE`] before it has begun, and when it is ended.
    id: TxId,
}

impl<P: Platform> Transaction<P> {
    /// Room for one among those that xenstored allows us, as soon as there is any.
    pub(crate) fn room(handle: &Handle<P>) -> impl Future<Output = Self> {
        poll_fn(|cx| {
            let is_free = handle.with(|core| {
                let left = core.free_transactions.checked_sub(1);
                match left {
                    Some(left) => core.free_transactions = left,
                    None => core.transaction_queue.push(cx.waker().clone()),
                }
                left.is_some()
            });
            if is_free { Poll::Ready(Self { handle: handle.clone(), id: TxId::NONE }) } else { Poll::Pending }
        })
    }

    /// It has begun: this is the answer to [`Request::TransactionStart`].
    pub(crate) fn begun(&mut self, answer: &[u8]) -> Result<(), Error> {
        self.id = transaction_id(answer)?;
        Ok(())
    }

    /// What to ask with, so that it is within the transaction.
    pub(crate) fn id(&self) -> TxId {
        self.id
    }

    /// Ends it and keeps its changes. The answer is missing when xenstored did not, because others changed what was read in it.
    pub(crate) fn commit(&mut self, answers: &mut Answers<P>) {
        answers.ask(self.id, &Request::TransactionEnd { commit: true }, &[Errno::EAGAIN]);
        self.id = TxId::NONE;
    }
}

impl<P: Platform> Drop for Transaction<P> {
    fn drop(&mut self) {
        self.handle.with(|core| {
            if self.id != TxId::NONE {
                core.tell(self.id, &Request::TransactionEnd { commit: false });
            }
            core.free_transactions += 1;
            if !core.transaction_queue.is_empty() {
                core.transaction_queue.remove(0).wake();
            }
        });
    }
}
