//! What one event came to.

/// Result of serving one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Served {
    /// There was no request. Xen makes each new port pending once, so one such event is no fault.
    Nothing,
    /// Reads were answered, all that there were, and nothing else has happened: what [`crate::Backend::next_deadline_ns`] and
    /// [`crate::Backend::ports_version`] said before is still true.
    Reads,
    /// Everything that was asked is answered, or waits for the broker.
    Done,
    /// Not a port of ours, or not any more.
    UnknownPort,
    /// There is more, and others had better get their turn first: call again for this port without waiting for an event.
    More,
    /// The same, but a function answers slowly: tell [`crate::Backend::set_aside`].
    Slow,
}
