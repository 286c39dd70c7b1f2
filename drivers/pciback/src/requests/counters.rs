//! Request counters.

/// A count, which no time is long enough to bring to its greatest value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(u64);

impl Count {
    /// One more.
    #[inline(always)]
    pub const fn bump(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }

    /// How many there were.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Events, and requests by what became of them. Every request counts once, but a dropped write also counts as a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events of frontends, which have one or more requests in the page, or none.
    pub events: Count,
    /// Configuration reads that were answered.
    pub reads: Count,
    /// Configuration writes that were accepted.
    pub writes: Count,
    /// Writes among them that reached no register that a guest has to write.
    pub dropped_writes: Count,
    /// Requests about a function that is not there; a guest that scans its bus makes many.
    pub no_device: Count,
    /// Reads and writes with a bad size or offset.
    pub bad_accesses: Count,
    /// Writes that the policy refused.
    pub denied_writes: Count,
    /// Writes that need the hardware and that no broker carried out.
    pub no_broker: Count,
    /// Requests for MSI or MSI-X that were granted.
    pub interrupts_enabled: Count,
    /// Requests for MSI or MSI-X that were refused.
    pub interrupts_refused: Count,
    /// Requests to turn MSI or MSI-X off.
    pub interrupts_disabled: Count,
    /// Commands that we do not know.
    pub unknown_commands: Count,
    /// Requests that the broker did not answer in time.
    pub broker_timeouts: Count,
}
