//! Leaked mappings and event channels that the audit found.

use std::fmt::{Display, Formatter};
use std::ops::RangeInclusive;

use xen_types::Mfn;

use super::registers::Wanted;
use crate::error::DomainName;
use crate::xen::Table;

/// `_PAGE_PRESENT`, and the bits of an entry that are the frame's number (AMD64 Architecture Programmer's Manual, volume 2, §5.3.3).
const PRESENT: u64 = 1 << 0;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const FRAME_SHIFT: u32 = 12;
const PAGE_BYTES: u64 = 4096;

/// The frame that an entry maps; `None` for one that maps nothing.
pub(super) fn mapped(entry: u64) -> Option<Mfn> {
    (entry & PRESENT != 0).then_some(Mfn((entry & FRAME) >> FRAME_SHIFT))
}

/// What one domain has mapped or bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) mappings: u64,
    pub(super) first: Option<Mfn>,
    pub(super) channels: u64,
}

/// Counts the entries of a table that map registers of each of the devices; all of those lie in `bounds`. Nearly every entry maps memory,
/// which lies elsewhere, and there are half a thousand of them in each of some hundred tables.
pub(super) fn count(table: &Table, bounds: &RangeInclusive<Mfn>, wanted: &[Wanted], found: &mut [Found]) {
    let frames = table.iter().filter_map(|entry| mapped(*entry));
    for frame in frames.filter(|frame| bounds.contains(frame)) {
        for (found, _) in found.iter_mut().zip(wanted).filter(|(_, wanted)| wanted.registers.contain(frame)) {
            found.mappings += 1;
            found.first = Some(found.first.map_or(frame, |first| first.min(frame)));
        }
    }
}

/// Leaked mappings and event channels of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leak {
    domain: DomainName,
    /// Entries of its page tables that map registers.
    mappings: u64,
    /// The lowest frame that it has mapped.
    first: Option<Mfn>,
    /// Its event channels on the devices' interrupts.
    channels: u64,
}

impl Display for Leak {
    /// `web (domain 5): 3 mappings of 0xfebf0000, 1 event channel`, the address being the lowest.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        write!(f, "{}: ", self.domain)?;
        if let Some(first) = self.first {
            write!(f, "{} mapping{} of {:#x}", self.mappings, plural(self.mappings), first.0 * PAGE_BYTES)?;
        }
        if self.channels > 0 {
            let comma = if self.first.is_some() { ", " } else { "" };
            write!(f, "{comma}{} event channel{}", self.channels, plural(self.channels))?;
        }
        Ok(())
    }
}

/// Leaked mappings and event channels of a device, by domain. Empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeakedMappings(Vec<Leak>);

impl LeakedMappings {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, domain: &DomainName, found: Found) {
        let Found { mappings, first, channels } = found;
        if mappings > 0 || channels > 0 {
            self.0.push(Leak { domain: domain.clone(), mappings, first, channels });
        }
    }
}

impl Display for LeakedMappings {
    /// One line.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        for (index, holding) in self.0.iter().enumerate() {
            write!(f, "{}{holding}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}
