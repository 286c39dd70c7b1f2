//! The frames that devices have their registers in: every memory BAR, and so the MSI-X tables, and the ROM.

use xen_types::{DomId, Mfn};

use super::pirqs::staying;
use crate::error::Error;
use crate::facts::{Facts, GuestRights};
use crate::host::Host;
use crate::xen::Frames;

/// Frames to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    /// In order, and none touches the next.
    wanted: Vec<Frames>,
    /// Those among them that may be mapped all the same.
    allowed: Vec<Frames>,
}

impl Registers {
    /// The registers of devices that nobody may have any more.
    pub(super) fn of(facts: &[Facts]) -> Self {
        Self { wanted: GuestRights::of(facts).frames, allowed: Vec::new() }
    }

    /// The registers of devices that leave this guest. A page that one of its other devices has registers in too is the
    /// guest's to map.
    pub(super) fn leaving(host: &Host, guest: DomId, facts: &[Facts]) -> Result<Self, Error> {
        let staying = staying(host, guest, facts)?;
        Ok(Self { allowed: GuestRights::of(&staying).frames, ..Self::of(facts) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Called for each entry of each page table.
    pub(super) fn contain(&self, frame: Mfn) -> bool {
        within(&self.wanted, frame) && !within(&self.allowed, frame)
    }
}

fn within(ranges: &[Frames], frame: Mfn) -> bool {
    let after = ranges.partition_point(|range| range.first <= frame);
    ranges[..after].last().is_some_and(|range| frame.0 - range.first.0 < range.count)
}
