//! Finds a domain's page tables by asking Xen for the type of each frame.
//!
//! A PV guest's page tables are frames of its own, whose type Xen keeps: it checks every entry of an L1 table, and a frame that
//! is one cannot be anything else at the same time. So all L1 tables are found when all frames of the domain are found. Xen has no
//! list of them to give (`XEN_DOMCTL_getmemlist` is crippled since XSA-74, and libxenctrl offers it no more), but it says
//! how many there are, and of any frame whether it is one.
//!
//! Asking for all frames of the host is the plain way, and a slow and noisy one: `get_page` (`xen/arch/x86/mm.c`) prints "Error mfn …" for every
//! frame that is not the domain's, which is formatted even where nobody wants to read it. So the search begins where the domain itself has
//! put its frames: at the root of the first CPU's page tables, down to the L1 tables. Kernels map all their memory
//! there, and what an L1 table maps is asked for next, with what the tables found that way map. That is a hint and nothing more: each frame
//! counts as Xen says. When some are missing, as in a guest that has not begun, those around the ones that were found are asked for
//! (guests get their memory 2 MiB at a time where they can), then every 512th frame of the host, and all around it where one is the domain's; then
//! every 64th, every 8th and at last all that is left, until as many frames were found as the domain has. Where the frames are decides about
//! how long that takes, and about nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use xen_types::{DomId, Errno, Mfn};

use super::leaks::mapped;
use crate::xen::{BATCH, FrameType, HypercallError, Inspect, Table};

/// Frames that are looked at together: 2 MiB.
const CHUNK: u64 = 512;
/// As many of them as fit into one call.
const CHUNKS: usize = 2;
const _: () = assert!(CHUNKS as u64 * CHUNK == BATCH as u64);
/// Every so-manyth frame is asked for, where nothing better is known.
const STEPS: [u64; 3] = [CHUNK, 64, 8];
/// Tables that are mapped together: 256 KiB of our own address space.
const WINDOW: usize = 64;
/// The entries of a root table that are Xen's own (`HYPERVISOR_VIRT_START` to `HYPERVISOR_VIRT_END`, `xen/include/public/arch-x86/xen-x86_64.h`).
const XENS_ENTRIES: std::ops::Range<usize> = 256..272;

/// Cost of the search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Frames of the host, of the domain, those that Xen was asked for, and those of them that are not the domain's, each of which Xen may
    /// print a line about.
    pub(super) host: u64,
    pub(super) own: u64,
    pub(super) asked: u64,
    pub(super) foreign: u64,
    pub(super) batches: u64,
    pub(super) tables: u64,
}

impl Tally {
    /// For people.
    pub(super) fn text(&self, took: Duration) -> String {
        const FRAMES_PER_GIB: f64 = 262_144.0;
        let Self { host, own, asked, foreign, batches, tables } = self;
        let milliseconds = took.as_secs_f64() * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let per_gib = milliseconds * FRAMES_PER_GIB / (*host).max(1) as f64;
        format!(
            "{tables} tables in {own} frames, {asked} of {host} asked for in {batches} batches, {foreign} not its own, \
             {milliseconds:.1} ms, {per_gib:.1} ms per GiB of the host"
        )
    }
}

/// Shows `look` every L1 table of a domain that stands still.
///
/// # Errors
/// Xen's. A table that cannot be looked into is one of them.
pub(super) fn each(
    inspect: &dyn Inspect,
    domain: DomId,
    look: &mut dyn FnMut(&Table),
) -> Result<Tally, HypercallError> {
    let host = inspect.highest_frame()?.0 + 1;
    let wanted = inspect.frame_count(domain)?;
    let tally = Tally { host, ..Tally::default() };
    let (asked, chunks) = (FrameSet::new(host), vec![0; index(host / CHUNK + 1)]);
    let mut search = Search { inspect, domain, wanted, asked, chunks, tables: Vec::new(), look, tally };
    search.run()?;
    search.look_into(|_| {})?;
    Ok(search.tally)
}

/// A set of frames of the host: a bit for each, in memory that the kernel gives when it is touched. The search looks there for each frame, and for each
/// entry of each table.
#[derive(Default)]
struct FrameSet {
    words: Vec<u64>,
    host: u64,
}

impl FrameSet {
    fn new(host: u64) -> Self {
        Self { words: vec![0; index(host / 64 + 1)], host }
    }

    /// Marks a frame; false if it was marked before, or the host has no such frame.
    fn mark(&mut self, frame: u64) -> bool {
        if frame >= self.host {
            return false;
        }
        let (word, bit) = (&mut self.words[index(frame / 64)], 1 << (frame % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// A number of frames or of what consists of them, which a host has in memory.
fn index(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

struct Search<'a> {
    inspect: &'a dyn Inspect,
    domain: DomId,
    /// Frames that the domain has.
    wanted: u64,
    /// Frames that were asked for.
    asked: FrameSet,
    /// How many of each chunk's frames are the domain's, as far as known.
    chunks: Vec<u32>,
    /// L1 tables that were found and not yet looked into.
    tables: Vec<Mfn>,
    look: &'a mut dyn FnMut(&Table),
    tally: Tally,
}

impl Search<'_> {
    fn run(&mut self) -> Result<(), HypercallError> {
        self.walk()?;
        self.follow()?;
        self.grow()?;
        for step in STEPS {
            if self.is_complete() {
                return Ok(());
            }
            let mut frame = 0;
            while frame < self.tally.host && !self.is_complete() {
                let until = (frame + step * BATCH as u64).min(self.tally.host);
                let probes = (frame..until).step_by(usize::try_from(step).unwrap_or(1));
                self.probe(probes)?;
                frame = until;
            }
        }
        if !self.is_complete() {
            self.read(0..self.tally.host.div_ceil(CHUNK))?;
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.tally.own >= self.wanted
    }

    /// From the root of the first CPU's page tables down to the L1 tables. All that is believed is what Xen says of each frame.
    fn walk(&mut self) -> Result<(), HypercallError> {
        let Some(root) = self.inspect.root_table(self.domain) else { return Ok(()) };
        let mut frames = vec![root.0];
        for level in [4, 3, 2] {
            let known = self.ask(&frames)?;
            let tables: Vec<Mfn> = known
                .into_iter()
                .filter(|(_, kind)| *kind == FrameType::UpperTable(level))
                .map(|(frame, _)| frame)
                .collect();
            let mut next = BTreeSet::new();
            for tables in tables.chunks(WINDOW) {
                self.inspect.show_tables(self.domain, tables, &mut |table| {
                    let own = table.iter().enumerate().filter(|(index, _)| level != 4 || !XENS_ENTRIES.contains(index));
                    next.extend(own.filter_map(|(_, entry)| mapped(*entry)).map(|frame| frame.0));
                })?;
            }
            frames = next.into_iter().collect();
        }
        self.ask(&frames)?;
        Ok(())
    }

    /// Asks for what the tables map that were found, and for what those map that are found then.
    fn follow(&mut self) -> Result<(), HypercallError> {
        while !self.is_complete() && !self.tables.is_empty() {
            let mut asked = std::mem::take(&mut self.asked);
            let mut hints = Vec::new();
            let looked = self.look_into(|frame| hints.extend(asked.mark(frame.0).then_some(frame)));
            self.asked = asked;
            looked?;
            self.ask_new(&hints)?;
        }
        Ok(())
    }

    /// Asks for what is around the frames that were found: the rest of their chunks, the fullest first, and then the chunks beside.
    fn grow(&mut self) -> Result<(), HypercallError> {
        let mut known: Vec<(u64, u32)> = (0..).zip(self.chunks.iter().copied()).filter(|(_, own)| *own > 0).collect();
        known.sort_by_key(|(_, own)| std::cmp::Reverse(*own));
        self.read(known.iter().map(|(chunk, _)| *chunk))?;
        let mut beside: Vec<u64> = known.into_iter().flat_map(|(chunk, _)| neighbours(chunk)).collect();
        while !beside.is_empty() && !self.is_complete() {
            let first = beside.iter().map(|chunk| chunk * CHUNK).collect::<Vec<_>>();
            beside = self.probe(first.into_iter())?.into_iter().flat_map(neighbours).collect();
        }
        Ok(())
    }

    /// Asks for those of the frames that the host has and that were not asked for before.
    fn ask(&mut self, frames: &[u64]) -> Result<Vec<(Mfn, FrameType)>, HypercallError> {
        let frames: Vec<Mfn> = frames.iter().copied().filter(|frame| self.asked.mark(*frame)).map(Mfn).collect();
        self.ask_new(&frames)
    }

    /// Asks for frames that are marked just now.
    fn ask_new(&mut self, frames: &[Mfn]) -> Result<Vec<(Mfn, FrameType)>, HypercallError> {
        let mut known = Vec::with_capacity(frames.len());
        for frames in frames.chunks(BATCH) {
            self.tally.asked += frames.len() as u64;
            self.tally.batches += 1;
            let kinds = self.inspect.frame_types(self.domain, frames)?;
            known.extend(frames.iter().copied().zip(kinds));
        }
        for (frame, kind) in &known {
            if *kind == FrameType::NotTheirs {
                self.tally.foreign += 1;
                continue;
            }
            self.tally.own += 1;
            self.chunks[index(frame.0 / CHUNK)] += 1;
            if *kind == FrameType::L1Table {
                self.tables.push(*frame);
            }
        }
        Ok(known)
    }

    /// Asks for single frames, and for all around those that are the domain's. The chunks of these.
    fn probe(&mut self, frames: impl Iterator<Item = u64>) -> Result<Vec<u64>, HypercallError> {
        let known = self.ask(&frames.collect::<Vec<_>>())?;
        let hits = known.into_iter().filter(|(_, kind)| *kind != FrameType::NotTheirs);
        let mut chunks: Vec<u64> = hits.map(|(frame, _)| frame.0 / CHUNK).collect();
        chunks.dedup(); // nearly in order
        self.read(chunks.iter().copied())?;
        Ok(chunks)
    }

    /// Asks for all frames of these chunks, as many at a time as fit.
    fn read(&mut self, chunks: impl IntoIterator<Item = u64>) -> Result<(), HypercallError> {
        let mut chunks = chunks.into_iter().peekable();
        while chunks.peek().is_some() && !self.is_complete() {
            let together = chunks.by_ref().take(CHUNKS);
            let frames: Vec<u64> = together.flat_map(|chunk| chunk * CHUNK..(chunk + 1) * CHUNK).collect();
            self.ask(&frames)?;
            if self.tables.len() >= WINDOW {
                self.look_into(|_| {})?;
            }
        }
        Ok(())
    }

    /// Looks into the tables that were found, and says which frames they map. One that cannot be mapped must not be one any more.
    fn look_into(&mut self, mut maps: impl FnMut(Mfn)) -> Result<(), HypercallError> {
        let tables = std::mem::take(&mut self.tables);
        self.tally.tables += tables.len() as u64;
        for tables in tables.chunks(WINDOW) {
            let look = &mut self.look;
            let refused = self.inspect.show_tables(self.domain, tables, &mut |table| {
                look(table);
                table.iter().filter_map(|entry| mapped(*entry)).for_each(&mut maps);
            })?;
            let types =
                if refused.is_empty() { Vec::new() } else { self.inspect.frame_types(self.domain, &refused)? };
            if types.contains(&FrameType::L1Table) {
                return Err(HypercallError { call: "xenforeignmemory_map", errno: Errno::EFAULT });
            }
        }
        Ok(())
    }
}

/// The chunks beside one.
fn neighbours(chunk: u64) -> impl Iterator<Item = u64> {
    chunk.checked_sub(1).into_iter().chain([chunk + 1])
}
