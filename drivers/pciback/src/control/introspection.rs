//! Answers dom0's question how the stub is (`docs/xenstore.md`, "The stub's figures"). Nothing is counted for it that is not there
//! anyway, and nobody is woken who was not asked.

use alloc::string::String;
use core::fmt::Write as _;

use xenstore::{Request, TxId, figures, number, path::relative};

use super::core::Core;
use crate::platform::Platform;

impl<P: Platform> Core<P> {
    /// An event of the watch on [`relative::QUERY`]. The question is in the path, so there is nothing to be read first; the event that every
    /// watch begins with, and that of the question's removal, have none.
    #[inline(never)] // in the hot loop it costs four times its size
    pub(crate) fn answer(&mut self, path: &str) {
        let question = path.strip_prefix(relative::QUERY).and_then(|rest| rest.strip_prefix('/'));
        let Some(Ok(question)) = question.map(|question| number::decimal(question.as_bytes())) else { return };
        let mut text = String::new();
        for figure in self.figures(question) {
            // Writing to a string does not fail.
            let _ = write!(text, "{figure} ");
        }
        // Whoever asked and gets no answer asks again.
        if let Ok(id) =
            self.client.submit(TxId::NONE, &Request::Write { path: relative::FIGURES, value: text.as_bytes() })
        {
            self.client.forget(id);
        }
    }

    /// The number of the question, and the others in the order of [`figures::NAMES`].
    #[inline(never)]
    fn figures(&self, question: u32) -> [u64; 1 + figures::COUNT] {
        let usage = self.platform.usage();
        let counters = &self.counters;
        [
            question.into(),
            self.platform.now_ns().saturating_sub(self.started_ns),
            usage.heap_used as u64,
            usage.heap_peak as u64,
            usage.heap_total as u64,
            usage.windows as u64,
            self.ports.len() as u64,
            self.guests.values().filter(|guest| guest.held.connection.is_some()).count() as u64,
            self.client.watches() as u64,
            self.transactions() as u64,
            self.alarms() as u64,
            self.client.open_requests() as u64,
            self.guests.len() as u64,
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
