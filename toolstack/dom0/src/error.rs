//! What goes wrong in dom0, each as one line that says where.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use xen_types::Sbdf;

use crate::store::StoreFailure;
use crate::xen::HypercallError;

/// Why dom0 did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no Xen, no root, or no way to one of them.
    #[error("this host cannot be used: {0}")]
    NoHost(String),
    /// Another process is the broker.
    #[error("another broker is running")]
    BrokerRuns,
    /// Linux has not come back from resetting this function. Who touched its registers would wait for it, and nothing could end that.
    #[error("dom0's kernel does not come to an end with the reset of {0}, so nobody gets the device")]
    ResetHangs(Sbdf),
    /// Xen refused a call.
    #[error("{what}: Xen refused {source}")]
    Hypercall {
        /// What was being done.
        what: String,
        /// The call, and why.
        source: HypercallError,
    },
    /// Xenstored refused a request, or does not answer.
    #[error(transparent)]
    Store(#[from] StoreFailure),
    /// A transaction did not find what it expects.
    #[error("xenstore was changed by somebody else meanwhile")]
    ChangedMeanwhile,
    /// The kernel refused something with a file.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The function at this address is not the one that the guest was given: another card was put into the slot.
    #[error("{0} is another device than the one that was attached")]
    Replaced(Sbdf),
    /// A file or a node holds what it cannot hold.
    #[error("{place} holds {value:?}, which makes no sense")]
    Nonsense {
        /// Which one.
        place: String,
        /// What it holds.
        value: String,
    },
}

/// Attaches what was being done to a hypercall's error.
pub trait Doing<T> {
    /// The same, with what was being done.
    ///
    /// # Errors
    /// [`Error::Hypercall`] in the place of the hypercall's own.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, HypercallError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Hypercall { what: what(), source })
    }
}

/// A time as messages tell it: `30 s`, `0.4 s`.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_millis() + 50) / 100;
        match (tenths / 10, tenths % 10) {
            (whole, 0) => write!(f, "{whole} s"),
            (whole, tenth) => write!(f, "{whole}.{tenth} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_do() {
        for (ms, text) in
            [(0, "0 s"), (400, "0.4 s"), (2500, "2.5 s"), (2990, "3 s"), (3010, "3 s"), (30_503, "30.5 s")]
        {
            assert_eq!(Seconds(Duration::from_millis(ms)).to_string(), text);
        }
    }
}
