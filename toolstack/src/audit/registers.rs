//! The frames of a device's registers: every memory BAR (the MSI-X table with it) and the ROM.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use xen_types::{Mfn, Pirq};

use crate::device::resources::{DeviceResources, GuestRights};
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
    /// The registers of a device that leaves a guest. A page that one of its other devices has registers in too is the guest's to
    /// map.
    pub(super) fn leaving(device: &DeviceResources, staying: &[DeviceResources]) -> Self {
        let frames = |devices: &[DeviceResources]| GuestRights::of(devices).frames;
        Self { wanted: frames(std::slice::from_ref(device)), allowed: frames(staying) }
    }

    /// From the first frame of any of these to the last; `None` where there is none.
    pub(super) fn bounds<'a>(all: impl Iterator<Item = &'a Self>) -> Option<RangeInclusive<Mfn>> {
        let (mut first, mut last) = (u64::MAX, 0);
        for Frames { first: Mfn(start), count } in all.flat_map(|registers| &registers.wanted) {
            first = first.min(*start);
            last = last.max(start + (count - 1));
        }
        (first <= last).then_some(Mfn(first)..=Mfn(last))
    }

    /// Called for each entry of each page table that maps something between the bounds.
    pub(super) fn contain(&self, frame: Mfn) -> bool {
        within(&self.wanted, frame) && !within(&self.allowed, frame)
    }
}

/// Frames and pirqs to search for, of one device.
pub(super) struct Wanted {
    pub(super) registers: Registers,
    pub(super) pirqs: BTreeSet<Pirq>,
}

fn within(ranges: &[Frames], frame: Mfn) -> bool {
    let after = ranges.partition_point(|range| range.first <= frame);
    ranges[..after].last().is_some_and(|range| frame.0 - range.first.0 < range.count)
}
