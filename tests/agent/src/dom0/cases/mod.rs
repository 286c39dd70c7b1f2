//! The cases, in the order they run: each group starts from nothing or from what the group before left.

mod config_space;
mod errors;
mod no_iommu;
mod one_guest;
mod pool;
mod stub;
mod two_guests;

use std::time::Duration;

use anyhow::Result;

use super::bed::Bed;

/// One promise, tested.
pub(crate) struct Case {
    /// The promise.
    pub(crate) name: &'static str,
    /// It fails after this time.
    pub(crate) limit: Duration,
    /// Fails with what was seen instead.
    pub(crate) run: fn(&mut Bed) -> Result<()>,
}

impl Case {
    const fn new(name: &'static str, run: fn(&mut Bed) -> Result<()>) -> Self {
        // The longest take 15 s on an idle machine.
        Self { name, limit: Duration::from_mins(2), run }
    }
}

/// Cases on a host with an IOMMU.
pub(crate) const FULL: &[&[Case]] =
    &[pool::CASES, one_guest::CASES, config_space::CASES, stub::CASES, two_guests::CASES, errors::CASES];

/// Cases on a host without.
pub(crate) const NO_IOMMU: &[&[Case]] = &[no_iommu::CASES];
