//! Selects the ports that `SCHEDOP_poll` waits for: it takes [`MAX_POLL_PORTS`], and there may be more.

use crate::events::MAX_POLL_PORTS;
use alloc::vec::Vec;
use xen_types::Port;

/// How long to sleep at most while there are more ports than `SCHEDOP_poll` takes: an event on a port that is not named does end the
/// sleep, but one that came in just before it does not prevent it.
const SHORT_SLEEP_NS: u64 = 2_000_000;

/// The ports to name: one that is always among them, and then as many others as can be. Those that had an event take the places of
/// the others in turn, so that who is busy is mostly named.
#[derive(Debug)]
pub struct PollList {
    /// The first [`MAX_POLL_PORTS`] are named.
    ports: Vec<Port>,
    /// Clock hand: the entry that was replaced last.
    hand: usize,
    version: u64,
}

impl PollList {
    /// A list of one port, older than any version of others.
    #[must_use]
    pub fn new(always: Port) -> Self {
        Self { ports: alloc::vec![always], hand: 0, version: 0 }
    }

    /// Takes note that `port` had an event. Costs nothing while all ports are named.
    pub fn active(&mut self, port: Port) {
        let Some(unnamed) = self.ports.get(MAX_POLL_PORTS..) else { return };
        if let Some(place) = unnamed.iter().position(|&listed| listed == port) {
            self.hand = self.hand % (MAX_POLL_PORTS - 1) + 1;
            self.ports.swap(self.hand, MAX_POLL_PORTS + place);
        }
    }

    /// Takes over the other ports if they have changed since `version`.
    #[inline(always)] // in each turn of the main loop
    pub fn update<I: Iterator<Item = Port>>(&mut self, version: u64, others: impl FnOnce() -> I) {
        if self.version != version {
            self.replace(version, others);
        }
    }

    #[cold]
    #[inline(never)]
    fn replace<I: Iterator<Item = Port>>(&mut self, version: u64, others: impl FnOnce() -> I) {
        self.version = version;
        self.ports.truncate(1);
        self.ports.extend(others());
    }

    /// Ports to wait for from `now_ns` on, and the deadline. There may be more ports than
    /// [`events::wait`](crate::events::wait) names.
    #[must_use]
    #[inline(always)] // in each turn of the main loop
    pub fn sleep(&self, now_ns: impl FnOnce() -> u64, deadline_ns: Option<u64>) -> (&[Port], Option<u64>) {
        let is_all = self.ports.len() <= MAX_POLL_PORTS;
        (&self.ports, if is_all { deadline_ns } else { Some(soon(now_ns(), deadline_ns)) })
    }
}

#[cold]
fn soon(now_ns: u64, deadline_ns: Option<u64>) -> u64 {
    let soon = now_ns + SHORT_SLEEP_NS;
    deadline_ns.map_or(soon, |deadline| deadline.min(soon))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: Port = Port(1);

    fn list(others: u32) -> PollList {
        let mut list = PollList::new(ALWAYS);
        list.update(1, || (0..others).map(|number| Port(100 + number)));
        list
    }

    fn named(list: &PollList) -> &[Port] {
        let ports = list.sleep(|| 0, None).0;
        &ports[..ports.len().min(MAX_POLL_PORTS)]
    }

    #[test]
    fn as_many_as_fit_are_named_and_slept_on_for_as_long_as_asked() {
        for others in [0, 1, 127] {
            let mut list = list(others);
            list.active(Port(100));
            let (ports, deadline) = list.sleep(|| unreachable!("the time does not matter"), Some(u64::MAX));
            assert_eq!((ports.len(), deadline), (1 + others as usize, Some(u64::MAX)));
            assert_eq!(list.sleep(|| unreachable!("nor here"), None).1, None, "idle is asleep");
        }
    }

    #[test]
    fn of_more_than_fit_the_rest_is_looked_at_soon() {
        let list = list(128);
        assert_eq!(named(&list).len(), MAX_POLL_PORTS);
        assert_eq!(list.sleep(|| 5, None).1, Some(5 + SHORT_SLEEP_NS));
        assert_eq!(list.sleep(|| 5, Some(7)).1, Some(7), "something is due before");
        assert_eq!(list.sleep(|| 5, Some(u64::MAX)).1, Some(5 + SHORT_SLEEP_NS));
    }

    #[test]
    fn the_active_are_named_and_nobody_is_lost() {
        let mut list = list(1000);
        let busy = (0..100).map(|number| Port(1000 + number * 7 % 100));
        for port in busy.clone() {
            list.active(port);
        }
        assert!(busy.clone().all(|port| named(&list).contains(&port)), "100 of them fit");
        for port in busy {
            list.active(port); // named already: nothing changes
        }
        list.active(ALWAYS);
        list.active(Port(7)); // closed meanwhile
        assert_eq!(named(&list)[0], ALWAYS);
        let mut all = list.ports.clone();
        all.sort();
        assert_eq!(all, core::iter::once(ALWAYS).chain((100..1100).map(Port)).collect::<Vec<_>>());
        for round in 0..1000 {
            list.active(Port(100 + round));
            assert_eq!(named(&list)[0], ALWAYS);
            assert!(named(&list).contains(&Port(100 + round)));
        }
    }

    #[test]
    fn a_change_of_ports_is_taken_over_once() {
        let mut list = list(3);
        list.update(1, || -> core::iter::Empty<Port> { unreachable!("not changed") });
        list.update(2, || [Port(8)].into_iter());
        assert_eq!(named(&list), [ALWAYS, Port(8)]);
    }
}
