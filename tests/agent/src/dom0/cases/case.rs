//! The type of a case.

use std::time::Duration;

use anyhow::Result;

use crate::dom0::fixture::Fixture;

/// One promise, tested.
pub(crate) struct Case {
    /// The promise.
    pub(crate) name: &'static str,
    /// It fails after this time.
    pub(crate) limit: Duration,
    /// Fails with what was seen instead.
    pub(crate) run: fn(&mut Fixture) -> Result<()>,
}

impl Case {
    pub(super) const fn new(name: &'static str, run: fn(&mut Fixture) -> Result<()>) -> Self {
        // The longest take 15 s on an idle machine.
        Self::within(Duration::from_mins(2), name, run)
    }

    pub(super) const fn within(limit: Duration, name: &'static str, run: fn(&mut Fixture) -> Result<()>) -> Self {
        Self { name, limit, run }
    }
}
