//! Several questions in one round trip, and the values of nodes that were read so.

use alloc::format;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, ready};

use xen_types::Errno;
use xenstore::{Error, Request, TxId, number};

use super::store::Answer;
use crate::platform::Platform;
use crate::shared::Handle;

/// `vdevfn-N`, which is read beside the transaction: it comes and goes with its `dev-N`, which is read within.
pub(crate) const REQUESTED_SLOT: &str = "vdevfn";

/// What was answered to a question; `None` where the node is missing.
pub(crate) type Value = Option<Vec<u8>>;

/// Questions that were asked together. As a future it waits for all of them, and ends with the first error; more can be asked afterwards.
pub(crate) struct Answers<P: Platform> {
    /// Those that are not answered yet begin at `next`. With each, the errors that say that its node is missing.
    asked: Vec<(Answer<P>, &'static [Errno])>,
    next: usize,
    /// The answers, in the order of the questions. An error has none: there are as many as questions before it.
    pub(crate) values: Vec<Value>,
}

impl<P: Platform> Answers<P> {
    /// Nothing is asked.
    pub(crate) const NONE: Self = Self { asked: Vec::new(), next: 0, values: Vec::new() };

    /// One more question. Its node is missing where the answer is one of `missing`.
    pub(crate) fn add(&mut self, answer: Answer<P>, missing: &'static [Errno]) {
        self.asked.push((answer, missing));
    }

    /// Asks in the order of `names` for the nodes that are called so in `dir`, with `suffix` behind each name.
    pub(crate) fn read(
        &mut self,
        handle: &Handle<P>,
        tx: TxId,
        dir: &str,
        names: &[&str],
        suffix: &str,
        missing: &'static [Errno],
    ) {
        for name in names {
            let tx = if *name == REQUESTED_SLOT { TxId::NONE } else { tx };
            self.add(handle.ask(tx, &Request::Read { path: &format!("{dir}/{name}{suffix}") }), missing);
        }
    }

    /// True when all that was asked is answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }
}

impl<P: Platform> Future for Answers<P> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { asked, next, values } = &mut *self;
        while let Some((answer, missing)) = asked.get_mut(*next) {
            values.push(match ready!(Pin::new(answer).poll(cx)) {
                Ok(value) => Some(value),
                Err(Error::Store(errno)) if missing.contains(&errno) => None,
                Err(error) => return Poll::Ready(Err(error)),
            });
            *next += 1;
        }
        asked.clear();
        *next = 0;
        Poll::Ready(Ok(()))
    }
}

/// Values of nodes by their names.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    /// The names, without the suffix.
    pub(crate) names: &'static [&'static str],
    /// In the same order.
    pub(crate) values: &'a [Value],
}

impl<'a> Values<'a> {
    /// The value of the node `name`; `None` where it is missing.
    pub(crate) fn get(self, name: &str) -> Option<&'a [u8]> {
        let place = self.names.iter().position(|known| *known == name)?;
        self.values.get(place)?.as_deref()
    }

    /// The same as a decimal number; `None` also where it is none.
    pub(crate) fn decimal(self, name: &str) -> Option<u32> {
        number::decimal(self.get(name)?).ok()
    }

    /// The same as text; `None` also where it is none.
    pub(crate) fn text(self, name: &str) -> Option<&'a str> {
        xenstore::text(self.get(name)?).ok()
    }
}
