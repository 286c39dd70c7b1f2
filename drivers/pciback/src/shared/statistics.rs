//! Answers statistics queries (`docs/xenstore.md`, "The stub's statistics") from counters that exist anyway. Without a
//! query nothing is woken.

use alloc::string::String;
use core::fmt::Write as _;

use pcidom_abi::paths;
use pcidom_abi::statistics::{COUNT, Query, QueryKind};
use xen_types::Sbdf;
use xenstore::{Request, TxId};

use super::Core;
use crate::platform::Platform;

impl<P: Platform> Core<P> {
    /// An event of the watch on [`paths::relative::QUERY`]. The question is in the path, so there is nothing to be read first; the event that every
    /// watch begins with, and that of the question's removal, have none. Behind a question's number there may be a device.
    #[inline(never)] // in the hot loop it costs four times its size
    pub(crate) fn answer(&mut self, path: &str) {
        let question =
            path.strip_prefix(paths::relative::QUERY).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let Ok(query) = question.parse::<Query>() else { return };
        let mut text = String::new();
        let mut say = |figure: u64| {
            let _ = write!(text, "{figure} "); // writing to a string does not fail
        };
        match query.kind {
            QueryKind::Statistics => self.statistics(query.number).into_iter().for_each(say),
            QueryKind::DeniedWrites(device) => {
                say(query.number.into());
                self.denied_writes(device, &mut |offset, times| {
                    say(offset.into());
                    say(times.into());
                });
            }
        }
        // A command without an answer asks again.
        self.tell(TxId::NONE, &Request::Write { path: paths::relative::STATISTICS, value: text.as_bytes() });
    }

    /// Denied-write counters of a device; none if it is unassigned.
    fn denied_writes(&mut self, device: Sbdf, say: &mut dyn FnMut(u16, u32)) {
        let holder = self.pool.holder(device).and_then(|domid| self.frontends.get_mut(domid));
        if let Some(device) = holder.and_then(|frontend| frontend.device(device)) {
            device.parts().0.denied_writes.iter().for_each(|(offset, times)| say(*offset, *times));
        }
    }

    /// The number of the question, and the others in the order of [`pcidom_abi::statistics::NAMES`].
    #[inline(never)]
    fn statistics(&self, question: u32) -> [u64; 1 + COUNT] {
        let usage = self.platform.usage();
        let counters = &self.counters;
        [
            question.into(),
            self.platform.now_ns().saturating_sub(self.started_ns),
            usage.heap_used as u64,
            usage.heap_peak as u64,
            usage.heap_total as u64,
            usage.mapped_pages as u64,
            self.ports.len() as u64,
            self.frontends.iter().filter(|frontend| frontend.state.is_connected()).count() as u64,
            self.client.watches() as u64,
            self.transactions() as u64,
            self.alarms.len() as u64,
            self.client.open_requests() as u64,
            self.frontends.len() as u64,
            self.pool.len() as u64,
            counters.events.get(),
            counters.reads.get(),
            counters.writes.get(),
            counters.dropped_writes.get(),
            counters.no_device.get(),
            counters.bad_accesses.get(),
            counters.denied_writes.get(),
            counters.no_broker.get(),
            counters.interrupts_enabled.get(),
            counters.interrupts_refused.get(),
            counters.interrupts_disabled.get(),
            counters.unknown_commands.get(),
            counters.broker_timeouts.get(),
        ]
    }
}
