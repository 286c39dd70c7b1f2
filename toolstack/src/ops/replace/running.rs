//! The image that runs in a stub: where its frames are, what it says of itself, and the facts that outlive its start.

use std::ops::Range;

use pcidom_abi::image as layout;
use xen_types::{DomId, Errno, Mfn};

use super::image::About;
use crate::xen::{Domctls, HypercallError, Page};

/// Bits of a page-table entry on x86-64: present, and those of the frame.
const PRESENT: u64 = 1;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Pages that a table of the lowest level maps.
const SPAN: u64 = 512 * 4096;

/// The frames behind code, constants and the page with the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frames {
    /// From the beginning of [`layout::TEXT`] to the end of [`layout::RODATA`].
    pub(super) image: Vec<Mfn>,
    pub(super) facts: Mfn,
}

impl Frames {
    /// Finds them by the stub's page tables, which Xen has checked.
    pub(super) fn find(xen: &dyn Domctls, stub: DomId) -> Result<Self, HypercallError> {
        const CALL: &str = "a look into the page tables";
        let nothing = HypercallError { call: CALL, errno: Errno::ENOENT };
        let mut frame = xen.inspect().root_table(stub).ok_or(nothing)?;
        let mut table = [0; 4096];
        for shift in [39, 30, 21, 12] {
            table = xen.images().read_pages(stub, &[frame])?.pop().ok_or(nothing)?;
            if shift > 12 {
                frame = mapped(&table, layout::TEXT.start >> shift).ok_or(nothing)?;
            }
        }
        const { assert!(layout::TEXT.start / SPAN == layout::END / SPAN, "one table maps all of it") };
        let frame_at = |address: u64| mapped(&table, address / 4096).ok_or(nothing);
        let Range { start, end } = layout::TEXT.start..layout::RODATA.end;
        let image = (start..end).step_by(4096).map(frame_at).collect::<Result<_, _>>()?;
        Ok(Self { image, facts: frame_at(layout::FACTS)? })
    }
}

fn mapped(table: &Page, index: u64) -> Option<Mfn> {
    let entry = table.as_chunks::<8>().0.get(usize::try_from(index % 512).ok()?)?;
    let entry = u64::from_le_bytes(*entry);
    (entry & PRESENT != 0).then_some(Mfn((entry & FRAME) >> 12))
}

/// The running image.
pub(super) struct Running {
    pub(super) frames: Frames,
    pub(super) about: About,
    /// Code and constants, as they are.
    pub(super) pages: Vec<Page>,
    pub(super) facts: Facts,
}

impl Running {
    /// Looks at a stub, which may run.
    pub(super) fn read(xen: &dyn Domctls, stub: DomId) -> Result<Self, HypercallError> {
        let frames = Frames::find(xen, stub)?;
        let pages = xen.images().read_pages(stub, &frames.image)?;
        let facts = Facts::read(xen, stub, &frames)?;
        let notes = usize::try_from(layout::RODATA.start - layout::TEXT.start + layout::DATA_COPY_BYTES).unwrap_or(0);
        let about = pages.get(notes / 4096).map(|page| About::read(&page[notes % 4096..])).unwrap_or_default();
        Ok(Self { frames, about, pages, facts })
    }

    /// Why it cannot be started again from outside.
    pub(super) fn check(&self) -> Result<(), String> {
        self.about.check()?;
        // Their sum is looked at where nobody changes them.
        self.facts.check_permission()
    }
}

/// The page with the facts.
#[derive(Clone)]
pub(super) struct Facts(Page);

const AT: usize = (layout::FACTS % 4096) as usize;
const _: () = assert!(AT + layout::FACTS_END <= 4096, "they lie in one page");

impl Facts {
    /// As they are at this moment, also while the stub runs.
    pub(super) fn read(xen: &dyn Domctls, stub: DomId, frames: &Frames) -> Result<Self, HypercallError> {
        let pages = xen.images().read_pages(stub, &[frames.facts])?;
        let page = pages.into_iter().next();
        page.map(Self).ok_or(HypercallError { call: "a look at the facts", errno: Errno::EIO })
    }

    pub(super) fn page(&self) -> &Page {
        &self.0
    }

    fn word(&self, offset: usize) -> u64 {
        self.0.get(AT + offset..).and_then(|rest| rest.first_chunk().copied()).map_or(0, u64::from_le_bytes)
    }

    fn set_word(&mut self, offset: usize, word: u64) {
        if let Some(place) = self.0.get_mut(AT + offset..).and_then(|rest| rest.first_chunk_mut()) {
            *place = word.to_le_bytes();
        }
    }

    /// Why an image must not be started with them, which nobody changes meanwhile.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.are_sound() {
            return Err("what would outlive its start is damaged".to_owned());
        }
        self.check_permission()
    }

    fn check_permission(&self) -> Result<(), String> {
        match self.may_restart() {
            layout::NEVER => Err("it has restart=never on its command line, or is not ready".to_owned()),
            layout::TRIAL | layout::FAILED => Err("it was put there a moment ago and is not ready yet".to_owned()),
            _ => Ok(()),
        }
    }

    /// The sum is right, or the stub was at changing it.
    fn are_sound(&self) -> bool {
        let facts = self.0.get(AT + layout::MAY_RESTART..AT + layout::FACTS_END).unwrap_or_default();
        [0, layout::sum(facts)].contains(&self.word(layout::SUM))
    }

    pub(super) fn may_restart(&self) -> u64 {
        self.word(layout::MAY_RESTART)
    }

    pub(super) fn restarts(&self) -> u64 {
        self.word(layout::RESTARTS)
    }

    /// The facts as an image is to find them that is started now, and why it is.
    pub(super) fn for_start(&self, may_restart: u64, why: &str) -> Self {
        let mut facts = self.clone();
        facts.set_word(layout::SUM, 0);
        facts.set_word(layout::MAY_RESTART, may_restart);
        facts.set_word(layout::RESTARTS, self.restarts().saturating_add(1));
        facts.set_word(layout::CRASHED_NS, 0);
        let words = facts.0.get_mut(AT + layout::WORDS.start..AT + layout::WORDS.end).unwrap_or_default();
        let mut len = 0;
        for (place, byte) in words.iter_mut().zip(why.bytes()) {
            *place = if byte.is_ascii_graphic() { byte } else { b' ' };
            len += 1;
        }
        facts.set_word(layout::WORDS_LEN, len);
        facts
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn facts_are_changed_where_a_start_wants_it_and_nowhere_else() {
        let mut page = [0x5a; 4096];
        page[AT..AT + 8].fill(0);
        let facts = Facts(page);
        assert!(facts.are_sound());
        let mut next = facts.for_start(layout::TRIAL, "upgrade to ü");
        assert_eq!((next.may_restart(), next.restarts()), (3, 0x5a5a_5a5a_5a5a_5a5b));
        assert_eq!(&next.0[AT + 40..AT + 54], b"upgrade to   ZZ"[..14].as_ref());
        let changed: Vec<usize> = (0..4096).filter(|at| facts.0[*at] != next.0[*at]).collect();
        assert!(changed.iter().all(|at| (AT + 8..AT + 160).contains(at)), "{changed:?}");
        // The sum is the image's own.
        next.set_word(layout::SUM, layout::sum(&next.0[AT + 8..AT + layout::FACTS_END]));
        assert!(next.are_sound());
        next.0[AT + 200] ^= 1;
        assert!(!next.are_sound());
    }
}
