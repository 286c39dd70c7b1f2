//! Finding the page tables of a domain, by asking Xen what each frame of memory is to it.
//!
//! A PV guest's page tables are frames of its own, whose type Xen keeps: it checks every entry of an L1 table, and a frame that
//! is one cannot be anything else at the same time. So all L1 tables are found when all frames of the domain are found. Xen has no
//! list of them to give (`XEN_DOMCTL_getmemlist` is crippled since XSA-74, and libxenctrl offers it no more), but it says
//! how many there are, and of any frame whether it is one.
//!
//! Asking for all frames of the host is the plain way, and a slow one: `get_page` (`xen/arch/x86/mm.c`) prints a message for every
//! frame that is not the domain's, which is formatted even where nobody wants to read it. Guests get their memory 2 MiB at a time where
//! they can. So we ask for every 512th frame, and for all around it where one is the domain's; then for every 64th, every 8th and at
//! last for all that is left, until as many frames were found as the domain has. Where the frames are decides about how long that
//! takes, and about nothing else.

use std::time::Duration;

use xen_types::{DomId, Errno, Mfn};

use crate::xen::{BATCH, FrameType, HypercallError, Inspect, Table};

/// Frames that are looked at together: 2 MiB.
const CHUNK: u64 = 512;
/// As many of them as fit into one call.
const CHUNKS: usize = 2;
const _: () = assert!(CHUNKS as u64 * CHUNK == BATCH as u64);
/// Every so-manyth frame is asked for, at first.
const STEPS: [u64; 3] = [CHUNK, 64, 8];
/// Tables that are mapped together: 256 KiB of our own address space.
const WINDOW: usize = 64;

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Frames of the host, of the domain, and those that Xen was asked for.
    pub(super) host: u64,
    pub(super) own: u64,
    pub(super) asked: u64,
    pub(super) batches: u64,
    pub(super) tables: u64,
}

impl Tally {
    /// For people.
    pub(super) fn text(&self, took: Duration) -> String {
        const FRAMES_PER_GIB: f64 = 262_144.0;
        let Self { host, own, asked, batches, tables } = self;
        let milliseconds = took.as_secs_f64() * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let per_gib = milliseconds * FRAMES_PER_GIB / (*host).max(1) as f64;
        format!(
            "{tables} tables in {own} frames, {asked} of {host} asked for in {batches} batches, {milliseconds:.1} ms, \
             {per_gib:.1} ms per GiB of the host"
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
    let chunks = usize::try_from(host.div_ceil(CHUNK)).unwrap_or(usize::MAX);
    let tally = Tally { host, ..Tally::default() };
    let mut search = Search { inspect, domain, wanted, seen: vec![false; chunks], tables: Vec::new(), look, tally };
    search.run()?;
    search.look_into()?;
    Ok(search.tally)
}

struct Search<'a> {
    inspect: &'a dyn Inspect,
    domain: DomId,
    /// Frames that the domain has.
    wanted: u64,
    /// The chunks of which every frame was asked for.
    seen: Vec<bool>,
    /// Tables that were found and not yet looked into.
    tables: Vec<Mfn>,
    look: &'a mut dyn FnMut(&Table),
    tally: Tally,
}

impl Search<'_> {
    fn run(&mut self) -> Result<(), HypercallError> {
        for (index, step) in STEPS.into_iter().enumerate() {
            let coarser = index.checked_sub(1).and_then(|before| STEPS.get(before));
            let mut probes = Vec::with_capacity(BATCH);
            for frame in (0..self.tally.host).step_by(usize::try_from(step).unwrap_or(1)) {
                let asked = coarser.is_some_and(|coarser| frame % coarser == 0);
                if !asked && !self.is_seen(frame / CHUNK) {
                    probes.push(Mfn(frame));
                }
                if probes.len() == BATCH {
                    self.probe(&std::mem::take(&mut probes))?;
                    if self.is_complete() {
                        return Ok(());
                    }
                }
            }
            self.probe(&probes)?;
            if self.is_complete() {
                return Ok(());
            }
        }
        let left: Vec<u64> = (0..self.tally.host.div_ceil(CHUNK)).filter(|chunk| !self.is_seen(*chunk)).collect();
        self.read(&left)
    }

    fn is_complete(&self) -> bool {
        self.tally.own >= self.wanted
    }

    fn is_seen(&self, chunk: u64) -> bool {
        usize::try_from(chunk).ok().and_then(|chunk| self.seen.get(chunk)).is_none_or(|seen| *seen)
    }

    fn ask(&mut self, frames: &[Mfn]) -> Result<Vec<FrameType>, HypercallError> {
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        self.tally.asked += frames.len() as u64;
        self.tally.batches += 1;
        self.inspect.frame_types(self.domain, frames)
    }

    /// Asks for single frames, and for all around those that are the domain's.
    fn probe(&mut self, frames: &[Mfn]) -> Result<(), HypercallError> {
        let types = self.ask(frames)?;
        let hits = frames.iter().zip(types).filter(|(_, kind)| *kind != FrameType::NotTheirs);
        let mut chunks: Vec<u64> = hits.map(|(frame, _)| frame.0 / CHUNK).collect();
        chunks.dedup(); // they are in order
        self.read(&chunks)
    }

    /// Asks for all frames of these chunks, as many at a time as fit.
    fn read(&mut self, chunks: &[u64]) -> Result<(), HypercallError> {
        for chunks in chunks.chunks(CHUNKS) {
            if self.is_complete() {
                return Ok(());
            }
            let mut frames = Vec::with_capacity(BATCH);
            for chunk in chunks {
                frames.extend((chunk * CHUNK..((chunk + 1) * CHUNK).min(self.tally.host)).map(Mfn));
            }
            let types = self.ask(&frames)?;
            for chunk in chunks {
                if let Some(seen) = usize::try_from(*chunk).ok().and_then(|chunk| self.seen.get_mut(chunk)) {
                    *seen = true;
                }
            }
            self.tally.own += types.iter().filter(|kind| **kind != FrameType::NotTheirs).count() as u64;
            let tables = frames.iter().zip(&types).filter(|(_, kind)| **kind == FrameType::L1Table);
            self.tables.extend(tables.map(|(frame, _)| *frame));
            if self.tables.len() >= WINDOW {
                self.look_into()?;
            }
        }
        Ok(())
    }

    /// Looks into the tables that were found. One that cannot be mapped must not be one any more.
    fn look_into(&mut self) -> Result<(), HypercallError> {
        let tables = std::mem::take(&mut self.tables);
        self.tally.tables += tables.len() as u64;
        for tables in tables.chunks(WINDOW) {
            let refused = self.inspect.show_tables(self.domain, tables, self.look)?;
            let types =
                if refused.is_empty() { Vec::new() } else { self.inspect.frame_types(self.domain, &refused)? };
            if types.contains(&FrameType::L1Table) {
                return Err(HypercallError { call: "xenforeignmemory_map", errno: Errno::EFAULT });
            }
        }
        Ok(())
    }
}
