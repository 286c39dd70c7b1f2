//! Kinds of guests, by their driver.

/// Which driver a guest has (docs/protocol.md §2.3 and §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Linux since 2022.
    #[default]
    Linux,
    /// mini-os: answers 7 and 8 without looking at any device, scans never, and begins anew when it was closed.
    MiniOs,
    /// Old FreeBSD: knows neither 7 nor 8, and closes half.
    FreeBsd,
    /// Connects, and never says anything again.
    Silent,
}
