//! Several nodes of one directory, read in one round trip.

use alloc::format;
use alloc::vec::Vec;

use xen_types::Errno;
use xenstore::{Error, Request, TxId, number};

use super::store::Answer;
use crate::platform::Platform;
use crate::shared::Handle;

/// `vdevfn-N`, which is read beside the transaction: it comes and goes with its `dev-N`, which is read within.
pub(crate) const REQUESTED_SLOT: &str = "vdevfn";

/// Nodes that were asked for and whose values are not there yet.
pub(crate) struct Reading<P: Platform> {
    names: &'static [&'static str],
    answers: Vec<Answer<P>>,
}

/// Values of nodes.
pub(crate) struct Values {
    names: &'static [&'static str],
    values: Vec<Option<Vec<u8>>>,
}

impl<P: Platform> Handle<P> {
    /// Asks at once and in the order of `names` for the nodes that are called so in `dir`, with `suffix` behind each name.
    pub(crate) fn read(&self, tx: TxId, dir: &str, names: &'static [&'static str], suffix: &str) -> Reading<P> {
        let ask = |name: &&str| {
            let tx = if *name == REQUESTED_SLOT { TxId::NONE } else { tx };
            self.ask(tx, &Request::Read { path: &format!("{dir}/{name}{suffix}") })
        };
        Reading { names, answers: names.iter().map(ask).collect() }
    }
}

impl<P: Platform> Reading<P> {
    /// Waits for all of them. A node is missing where the answer is one of `missing`.
    pub(crate) async fn values(self, missing: &[Errno]) -> Result<Values, Error> {
        let mut values = Vec::with_capacity(self.answers.len());
        for answer in self.answers {
            values.push(match answer.await {
                Ok(value) => Some(value),
                Err(Error::Store(errno)) if missing.contains(&errno) => None,
                Err(error) => return Err(error),
            });
        }
        Ok(Values { names: self.names, values })
    }
}

impl Values {
    /// The value of the node `name`, without the suffix; `None` where it is missing.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let place = self.names.iter().position(|known| *known == name)?;
        self.values.get(place)?.as_deref()
    }

    /// The same as a decimal number; `None` also where it is none.
    pub(crate) fn decimal(&self, name: &str) -> Option<u32> {
        number::decimal(self.get(name)?).ok()
    }

    /// The same as text; `None` also where it is none.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        xenstore::text(self.get(name)?).ok()
    }
}
