//! Which ports to name when going to sleep.

use alloc::vec::Vec;
use kernel::clock;
use kernel::events::MAX_POLL_PORTS;
use xen_types::Port;

/// How long to sleep at most while there are more ports than `SCHEDOP_poll` takes: an event on a port that is not named does end the
/// sleep, but one that came in just before it does not prevent it.
const SHORT_SLEEP_NS: u64 = 2_000_000;

/// The ports for `SCHEDOP_poll`: xenstored's first, then those that were active most recently.
pub(crate) struct PollList {
    ports: Vec<Port>,
    version: u64,
}

impl PollList {
    /// A list of xenstored's port alone, older than any version of the backend's ports.
    pub(crate) fn new(store: Port) -> Self {
        Self { ports: alloc::vec![store], version: 0 }
    }

    /// Takes note that `port` had an event.
    pub(crate) fn active(&mut self, port: Port) {
        // While all ports are named their order does not matter.
        if self.ports.len() > MAX_POLL_PORTS
            && let Some(place) = self.ports.iter().skip(1).position(|&listed| listed == port)
            && let Some(recent) = self.ports.get_mut(1..=place + 1)
        {
            recent.rotate_right(1);
        }
    }

    /// Takes over the backend's ports if they have changed since `version`.
    pub(crate) fn update<I: Iterator<Item = Port>>(&mut self, version: u64, bound: impl FnOnce() -> I) {
        if self.version != version {
            self.version = version;
            self.ports.truncate(1);
            self.ports.extend(bound());
        }
    }

    /// What to sleep on, and until when.
    pub(crate) fn sleep(&self, deadline_ns: Option<u64>) -> (&[Port], Option<u64>) {
        if self.ports.len() <= MAX_POLL_PORTS {
            return (&self.ports, deadline_ns);
        }
        let soon = clock::now_ns() + SHORT_SLEEP_NS;
        (&self.ports, Some(deadline_ns.map_or(soon, |deadline| deadline.min(soon))))
    }
}
