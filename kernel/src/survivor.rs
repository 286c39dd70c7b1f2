//! What outlives a restart in place (`docs/restart.md`): the few facts that neither Xen nor xenstore nor the hardware can tell the image
//! after its data were made new.
//!
//! They lie in `.kept.facts`, which the entry code clears never (`entry.rs`, `linker.ld`). What is mapped in each fixmap entry is in the entries'
//! records ([`crate::fixmap`]). Everything is a number with a check sum over it: what a bug has scribbled over is found, and the domain ends then
//! as crashed instead of going on with it.

use core::cell::UnsafeCell;
use core::fmt::{self, Write as _};
use core::mem::offset_of;

use xen_types::{DomId, GrantRef, Port};

use crate::layout::FIXMAP_GROWTH_TABLES;

/// How many crashes within how long are taken for one bug that comes again.
const CLOSE: (usize, u64) = (3, 60_000_000_000);
/// The same for those that began with one frontend: it could otherwise go on for ever, a little more slowly.
const SPREAD: (usize, u64) = (CRASHES, 3_600_000_000_000);
/// Crashes that are remembered.
const CRASHES: usize = 10;
/// Frontends that can be put aside. With more of them something else is wrong.
const ASIDE: usize = 4;
/// Bytes of the last words.
const WORDS: usize = 120;
/// The longest message: a header of 16 bytes, and `XENSTORE_PAYLOAD_MAX` (`xs_wire.h`).
const LONGEST: usize = 16 + 4096;

/// One crash.
#[repr(C)]
#[derive(Clone, Copy)]
struct Crash {
    /// When, by Xen's clock.
    at_ns: u64,
    /// Number of the domain that was being served plus one; 0 for none.
    culprit: u64,
}

/// Everything but the rest of the message that is under way, which has a place of its own because it is long. A next image reads it as this one has
/// left it: a change of a field here or in [`crate::fixmap`] raises `LAYOUT` in `pcidom_abi::image`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    /// A [`Restart`]. This one and those up to `words` are what dom0 changes when it starts an image ([`OFFSETS`]).
    may_restart: u64,
    /// How often the image was started again.
    restarts: u64,
    /// When the life before ended; 0 where dom0 has ended it, which does not know our clock.
    crashed_ns: u64,
    words_len: u64,
    words: [u8; WORDS],
    /// Pages of the lasting ones that are in use ([`crate::lasting`]).
    pub(crate) lasting_pages: u64,
    /// Page tables of the fixmap's growth, and the numbers of the lasting pages at which their records begin.
    pub(crate) grown_tables: u64,
    pub(crate) grown_records: [u16; FIXMAP_GROWTH_TABLES],
    /// Grant (high half) and port of the page that the broker maps; 0 while there is none.
    ring: u64,
    /// The number of that page among the lasting ones.
    pub(crate) ring_page: u64,
    crashes: [Crash; CRASHES],
    aside: [u64; ASIDE],
    /// Where the message to xenstored that is being sent ends, and the one from it that is being received, by the rings' counters.
    pub(crate) sent_end: u32,
    pub(crate) received_end: u32,
}

const FACT_WORDS: usize = size_of::<Facts>() / 8;
const _: () = assert!(size_of::<Facts>().is_multiple_of(8) && align_of::<Facts>() == 8);

#[repr(C)]
struct Survivor {
    sum: UnsafeCell<u64>,
    facts: UnsafeCell<Facts>,
    rest: UnsafeCell<[u8; LONGEST]>,
}

/// Where the sum and the facts are that dom0 changes, in bytes from the beginning: the sum (0 for "not known"), [`Restart`], how often, when, how many
/// bytes of last words, the words; and where the facts end.
pub const OFFSETS: [usize; 7] = [
    offset_of!(Survivor, sum),
    offset_of!(Survivor, facts) + offset_of!(Facts, may_restart),
    offset_of!(Survivor, facts) + offset_of!(Facts, restarts),
    offset_of!(Survivor, facts) + offset_of!(Facts, crashed_ns),
    offset_of!(Survivor, facts) + offset_of!(Facts, words_len),
    offset_of!(Survivor, facts) + offset_of!(Facts, words),
    offset_of!(Survivor, rest),
];

// SAFETY: one vCPU and no upcalls; every access is in a function of this file that calls nothing that comes back to it, so no two overlap. A panic
// in between ends the life whose access it was.
unsafe impl Sync for Survivor {}

const NO_CRASH: Crash = Crash { at_ns: 0, culprit: 0 };

#[cfg_attr(not(test), unsafe(link_section = ".kept.facts"))] // SAFETY: zero bytes, which is what the builder fills it with (linker.ld)
static SURVIVOR: Survivor = Survivor {
    sum: UnsafeCell::new(0),
    facts: UnsafeCell::new(Facts {
        may_restart: 0,
        restarts: 0,
        crashed_ns: 0,
        words_len: 0,
        words: [0; WORDS],
        lasting_pages: 0,
        grown_tables: 0,
        grown_records: [0; FIXMAP_GROWTH_TABLES],
        ring: 0,
        ring_page: 0,
        crashes: [NO_CRASH; CRASHES],
        aside: [0; ASIDE],
        sent_end: 0,
        received_end: 0,
    }),
    rest: UnsafeCell::new([0; LONGEST]),
};

/// The facts as they are. To be looked at on the spot, not kept across a change.
#[inline(always)] // an address
pub(crate) fn facts() -> &'static Facts {
    // SAFETY: see `Survivor`; callers read a field and let go.
    unsafe { &*SURVIVOR.facts.get() }
}

fn sum() -> u64 {
    // SAFETY: as many aligned words, all of them numbers; see `Survivor`.
    let words: &[u64; FACT_WORDS] = unsafe { &*SURVIVOR.facts.get().cast() };
    words.iter().fold(0, |sum: u64, word| sum.rotate_left(1) ^ word)
}

/// Changes the facts and seals them.
#[inline(always)] // the functions that it calls are what takes room
pub(crate) fn change(change: impl FnOnce(&mut Facts)) {
    change(open());
    seal();
}

/// Breaks the seal: an NMI may end this life in the middle of a change.
#[inline(never)]
fn open() -> &'static mut Facts {
    // SAFETY: see `Survivor`.
    unsafe { *SURVIVOR.sum.get() = 0 };
    // SAFETY: see `Survivor`; `change` lets go of it.
    unsafe { &mut *SURVIVOR.facts.get() }
}

#[inline(never)]
fn seal() {
    // SAFETY: see `Survivor`.
    unsafe { *SURVIVOR.sum.get() = sum() };
}

/// The last `left` bytes of the message that is being sent.
pub(crate) fn rest(left: u32) -> &'static [u8] {
    // SAFETY: see `Survivor`; the one caller is done with it before it calls `keep_rest`.
    unsafe { &*SURVIVOR.rest.get() }.get(LONGEST.saturating_sub(left as usize)..).unwrap_or_default()
}

/// Keeps a message that is about to be sent from `start` on, by the ring's counter. False where it is longer than xenstore allows.
pub(crate) fn keep_rest(message: &[u8], start: u32) -> bool {
    // SAFETY: see `Survivor`.
    let rest = unsafe { &mut *SURVIVOR.rest.get() };
    let Some(place) = LONGEST.checked_sub(message.len()).and_then(|start| rest.get_mut(start..)) else { return false };
    place.copy_from_slice(message);
    let len = u32::try_from(message.len()).unwrap_or(0); // at most `LONGEST`
    change(|facts| facts.sent_end = start.wrapping_add(len));
    true
}

/// True where nothing has changed the facts but this file, or where it was at that.
pub(crate) fn is_sound() -> bool {
    // SAFETY: see `Survivor`.
    let sealed = unsafe { *SURVIVOR.sum.get() };
    sealed == 0 || sealed == sum()
}

/// How often the image was started again in this domain. 0 in the first life.
#[must_use]
pub fn restarts() -> u32 {
    u32::try_from(facts().restarts).unwrap_or(u32::MAX)
}

/// What a crash leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The end of the domain.
    Never = 0,
    /// The entry, unless it is the third within a minute.
    Limited = 1,
    /// The entry, however often.
    Always = 2,
    /// Sleep: dom0 has put this image in the place of another one, and puts that back if this one does not come up.
    Trial = 3,
    /// Sleep, and it has come to that.
    Failed = 4,
}

/// Says that this image has crashed, if dom0 waits for it to come up with another one at hand. Whether it does.
pub(crate) fn has_failed_trial() -> bool {
    let is_on_trial = facts().may_restart >= Restart::Trial as u64;
    if is_on_trial {
        allow_restart(Restart::Failed);
    }
    is_on_trial
}

/// What a crash leads to from now on.
pub fn allow_restart(restart: Restart) {
    change(|facts| facts.may_restart = restart as u64);
}

/// What the image said at its last crash, in ASCII, and when it was; 0 where dom0 has started it again.
#[must_use]
pub fn last_words() -> (&'static [u8], u64) {
    let facts = facts();
    let len = usize::try_from(facts.words_len).unwrap_or(0);
    (facts.words.get(..len).unwrap_or_default(), facts.crashed_ns)
}

/// Whether requests of a frontend have crashed the image so often that it is served no more.
#[must_use]
pub fn is_put_aside(domain: DomId) -> bool {
    facts().aside.contains(&(u64::from(domain.0) + 1))
}

/// The frontend is gone: another domain may get its number.
pub fn forget_domain(domain: DomId) {
    let number = u64::from(domain.0) + 1;
    if facts().aside.contains(&number) {
        change(|facts| facts.aside.iter_mut().filter(|aside| **aside == number).for_each(|aside| *aside = 0));
    }
}

/// Grant and port of the page that the broker maps, of a life before this one.
pub(crate) fn ring() -> Option<(GrantRef, Port)> {
    let ring = facts().ring;
    #[expect(clippy::cast_possible_truncation, reason = "each is one half of the word")]
    (ring != 0).then_some((GrantRef((ring >> 32) as u32), Port(ring as u32)))
}

pub(crate) fn keep_ring(reference: GrantRef, port: Port, page: u64) {
    change(|facts| {
        facts.ring = u64::from(reference.0) << 32 | u64::from(port.0);
        facts.ring_page = page;
    });
}

/// Text into a fixed place, cut at its end.
struct Words<'a>(&'a mut Facts);

impl fmt::Write for Words<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.0.words.get_mut(usize::try_from(self.0.words_len).unwrap_or(WORDS)) {
                *place = if byte.is_ascii_graphic() { byte } else { b' ' };
                self.0.words_len += 1;
            }
        }
        Ok(())
    }
}

/// Takes note of a crash. True where the image is to be started again: not when it comes for the third time within a minute with no frontend that
/// all three have in common; one that they have in common is put aside, and so is one that ten within an hour have in common.
#[inline(never)]
pub(crate) fn crashed(now_ns: u64, culprit: Option<DomId>, words: fmt::Arguments<'_>) -> bool {
    if !is_sound() || !matches!(facts().may_restart, 1 | 2) {
        return false;
    }
    let culprit = culprit.map_or(0, |domain| u64::from(domain.0) + 1);
    let mut is_allowed = true;
    change(|facts| {
        facts.words_len = 0;
        let _ = Words(facts).write_fmt(words);
        facts.restarts += 1;
        facts.crashed_ns = now_ns;
        facts.crashes.rotate_left(1);
        facts.crashes[CRASHES - 1] = Crash { at_ns: now_ns, culprit };
        let mut is_one = false;
        for (count, within_ns) in [SPREAD, CLOSE] {
            let crashes = facts.crashes.get(CRASHES - count..).unwrap_or_default();
            let is_again = crashes.iter().all(|crash| crash.at_ns != 0 && now_ns - crash.at_ns < within_ns);
            is_one |= is_again && crashes.iter().all(|crash| crash.culprit == culprit);
            is_allowed &= !is_again || count != CLOSE.0;
        }
        if is_one
            && culprit != 0
            && !facts.aside.contains(&culprit)
            && let Some(aside) = facts.aside.iter_mut().find(|aside| **aside == 0)
        {
            *aside = culprit;
            facts.crashes = [NO_CRASH; CRASHES];
            is_allowed = true;
        }
        is_allowed |= facts.may_restart == Restart::Always as u64;
    });
    is_allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// One test, because what survives exists once.
    #[test]
    fn a_frontend_that_crashes_the_image_again_and_again_is_put_aside_and_anything_else_that_does_ends_the_domain() {
        let crash =
            |second: u64, domain: Option<u16>| crashed(second * SECOND_NS, domain.map(DomId), format_args!("it"));
        assert!(!crash(1, None), "not before it is allowed");
        allow_restart(Restart::Limited);
        // Three within a minute with no frontend in common: the third is the last.
        assert!(crash(10, None) && crash(30, Some(5)) && !crash(60, None));
        // Further apart they go on for ever, if they began with different frontends.
        assert!((2..40).all(|number| crash(100 * number, (number % 2 == 0).then_some(5))));
        // Three with one in common.
        assert!(crash(10_001, Some(5)) && crash(10_002, Some(5)) && !is_put_aside(DomId(5)));
        assert!(crash(10_003, Some(5)) && is_put_aside(DomId(5)));
        assert_eq!(last_words(), (&b"it"[..], 10_003 * SECOND_NS));
        // Ten within an hour, never three within a minute.
        assert!((0..9).all(|number| crash(20_000 + 31 * number, Some(6))) && !is_put_aside(DomId(6)));
        assert!(crash(20_300, Some(6)) && is_put_aside(DomId(6)));
        // Ten within more than an hour are none of that.
        assert!((0..30).all(|number| crash(30_000 + 401 * number, Some(7))) && !is_put_aside(DomId(7)));
        forget_domain(DomId(5));
        assert!(!is_put_aside(DomId(5)) && is_put_aside(DomId(6)));
        allow_restart(Restart::Always);
        assert!((0..5).all(|number| crash(50_000 + number, None)));
        assert!(is_sound() && restarts() > 80);
    }
}
