//! Xenstore requests as futures, and transactions.

use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};

use xenstore::{Error, ReqId, Request, TxId, transaction_id};

use crate::platform::Platform;
use crate::shared::Handle;

/// The answer to a question that is on its way. Dropping it leaves the question asked and its answer unread.
pub(crate) struct Answer<P: Platform> {
    handle: Handle<P>,
    state: State,
}

enum State {
    Waiting(ReqId),
    /// It was not even sent.
    Refused(Error),
    Done,
}

impl<P: Platform> Handle<P> {
    /// Asks at once; the answer is awaited later, so that several questions share one round trip.
    pub(crate) fn ask(&self, tx: TxId, request: &Request<'_>) -> Answer<P> {
        let state = match self.with(|core| core.client.submit(tx, request)) {
            Ok(id) => State::Waiting(id),
            Err(error) => State::Refused(error),
        };
        Answer { handle: self.clone(), state }
    }
}

impl<P: Platform> Future for Answer<P> {
    type Output = Result<Vec<u8>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &self.state {
            State::Waiting(id) => self.handle.with(|core| {
                let answer = core.client.take_reply(*id);
                if answer.is_none() {
                    core.wait_for(*id, cx.waker().clone());
                }
                answer
            }),
            State::Refused(error) => Some(Err(*error)),
            // A future that is done is not polled; if it were, this says so without ending the stub.
            State::Done => Some(Err(Error::Protocol)),
        };
        match answer {
            Some(answer) => {
                self.state = State::Done;
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }
}

impl<P: Platform> Drop for Answer<P> {
    fn drop(&mut self) {
        if let State::Waiting(id) = self.state {
            self.handle.with(|core| {
                core.wait_no_more(id);
                core.client.forget(id);
            });
        }
    }
}

/// An open transaction. Dropping it throws its changes away.
pub(crate) struct Transaction<P: Platform> {
    handle: Handle<P>,
    /// `None` when it is ended.
    id: Option<TxId>,
}

impl<P: Platform> Transaction<P> {
    /// Room for one among those that xenstored allows us, as soon as there is any.
    pub(crate) fn room(handle: &Handle<P>) -> impl Future<Output = Self> {
        poll_fn(|cx| {
            let is_free = handle.with(|core| {
                let left = core.free_transactions.checked_sub(1);
                match left {
                    Some(left) => core.free_transactions = left,
                    None => core.transaction_queue.push_back(cx.waker().clone()),
                }
                left.is_some()
            });
            if is_free { Poll::Ready(Self { handle: handle.clone(), id: None }) } else { Poll::Pending }
        })
    }

    /// Begins it. With the answer, [`Transaction::begun`] is to be called.
    pub(crate) fn begin(&self) -> Answer<P> {
        self.handle.ask(TxId::NONE, &Request::TransactionStart)
    }

    /// It has begun: this is the answer.
    pub(crate) fn begun(&mut self, answer: &[u8]) -> Result<(), Error> {
        self.id = Some(transaction_id(answer)?);
        Ok(())
    }

    /// What to ask with, so that it is within the transaction.
    pub(crate) fn id(&self) -> TxId {
        self.id.unwrap_or(TxId::NONE)
    }

    /// Asks within the transaction.
    pub(crate) fn ask(&self, request: &Request<'_>) -> Answer<P> {
        self.handle.ask(self.id(), request)
    }

    /// Ends it and keeps its changes. `EAGAIN` when xenstored did not, because others changed what was read in it.
    pub(crate) fn commit(&mut self) -> Answer<P> {
        let end = self.ask(&Request::TransactionEnd { commit: true });
        self.id = None;
        end
    }
}

impl<P: Platform> Drop for Transaction<P> {
    fn drop(&mut self) {
        if self.id.is_some() {
            drop(self.ask(&Request::TransactionEnd { commit: false }));
        }
        self.handle.with(|core| {
            core.free_transactions += 1;
            if let Some(waker) = core.transaction_queue.pop_front() {
                waker.wake();
            }
        });
    }
}
