//! Fuzz target: the page tables of a guest.

use std::cell::RefCell;
use std::collections::BTreeSet;

use xen_types::{DomId, Mfn, Port};

use super::tables;
use crate::xen::{Channel, DomainInfo, FrameType, HypercallError, Inspect, Table};

const GUEST: DomId = DomId(5);
/// Frames of the host.
const HOST: u64 = 0x700;

/// A domain whose frames, their types and what is in them come out of some bytes.
struct Machine<'a> {
    data: &'a [u8],
    /// One in so many frames is the domain's.
    sparseness: u64,
    /// What Xen says of how many frames it has, beside the truth.
    surplus: u64,
    shown: RefCell<BTreeSet<Mfn>>,
}

impl Machine<'_> {
    fn byte(&self, at: u64) -> u8 {
        let at = usize::try_from(at).unwrap_or(0) % self.data.len().max(1);
        self.data.get(at).copied().unwrap_or(0)
    }

    fn kind(&self, frame: Mfn) -> FrameType {
        let mixed = frame.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        if !mixed.is_multiple_of(self.sparseness) {
            return FrameType::NotTheirs;
        }
        match self.byte(mixed) % 8 {
            0..4 => FrameType::L1Table,
            4 => FrameType::UpperTable(2),
            5 => FrameType::UpperTable(3),
            6 => FrameType::UpperTable(4),
            _ => FrameType::Other,
        }
    }

    fn frames(&self) -> impl Iterator<Item = (Mfn, FrameType)> {
        let frames = (0..HOST).map(|frame| (Mfn(frame), self.kind(Mfn(frame))));
        frames.filter(|(_, kind)| *kind != FrameType::NotTheirs)
    }

    fn table(&self, frame: Mfn) -> Table {
        let mut table = [0; 512];
        for (entry, index) in table.iter_mut().zip(0u64..) {
            // Eight bytes that overlap with those of the next entry.
            let at = usize::try_from(frame.0 * 31 + index * 3).unwrap_or(0) % self.data.len().saturating_sub(7).max(1);
            let bytes = self.data.get(at..).and_then(<[u8]>::first_chunk);
            *entry = bytes.copied().map_or(0, u64::from_le_bytes);
            // Most entries of a real guest map its own memory.
            if index % 4 != 0 {
                *entry &= HOST << 12 | 0xfff;
            }
        }
        table
    }
}

impl Inspect for Machine<'_> {
    fn next_domain(&self, _: DomId) -> Result<Option<(DomId, DomainInfo)>, HypercallError> {
        Ok(None)
    }

    fn pause(&self, _: DomId) -> Result<(), HypercallError> {
        Ok(())
    }

    fn unpause(&self, _: DomId) -> Result<(), HypercallError> {
        Ok(())
    }

    fn highest_frame(&self) -> Result<Mfn, HypercallError> {
        Ok(Mfn(HOST - 1))
    }

    fn frame_count(&self, _: DomId) -> Result<u64, HypercallError> {
        Ok(self.frames().count() as u64 + self.surplus)
    }

    fn root_table(&self, _: DomId) -> Option<Mfn> {
        let root = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| self.byte(byte)));
        (root & 1 != 0).then_some(Mfn(root >> 1))
    }

    fn frame_types(&self, _: DomId, frames: &[Mfn]) -> Result<Vec<FrameType>, HypercallError> {
        assert!(frames.len() <= crate::xen::BATCH && frames.iter().all(|frame| frame.0 < HOST), "{frames:?}");
        Ok(frames.iter().map(|frame| self.kind(*frame)).collect())
    }

    fn show_tables(&self, _: DomId, frames: &[Mfn], look: &mut dyn FnMut(&Table)) -> Result<Vec<Mfn>, HypercallError> {
        for frame in frames {
            let kind = self.kind(*frame);
            assert!(matches!(kind, FrameType::L1Table | FrameType::UpperTable(_)), "{frame:?} is no table: {kind:?}");
            self.shown.borrow_mut().insert(*frame);
            look(&self.table(*frame));
        }
        Ok(Vec::new())
    }

    fn channel(&self, _: DomId, _: Port) -> Result<Option<Channel>, HypercallError> {
        Ok(None)
    }
}

/// Whatever a guest has in its page tables, the search ends, asks for frames of the host only, and looks into each L1 table.
pub(crate) fn page_tables(data: &[u8]) {
    let Some(([shape, surplus], data)) = data.split_first_chunk() else { return };
    let machine = Machine {
        data,
        sparseness: 1 + u64::from(shape % 32),
        surplus: u64::from(*surplus),
        shown: RefCell::default(),
    };
    let mut entries = 0;
    let done = tables::each(&machine, GUEST, &mut |table| entries += table.len());
    assert!(done.is_ok(), "{done:?}");
    let shown = machine.shown.borrow();
    for (frame, kind) in machine.frames() {
        assert!(kind != FrameType::L1Table || shown.contains(&frame), "the table {frame:?} was not looked into");
    }
    assert!(entries >= 512 * machine.frames().filter(|(_, kind)| *kind == FrameType::L1Table).count());
}
