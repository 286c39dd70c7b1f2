//! Crashes where a test wants them (feature `faults`, not in the released image).
//!
//! dom0 asks for one by writing a node below the stub's `data/pcidom/query`, of whose name a watch tells: `fault-KIND-PLACE-N` has the image crash at the
//! Nth time that it comes to a place. Kinds: `panic`, `ud` (an instruction that is none), `pf` (a page fault). Places: `before` and `after` a
//! hypercall, `answer` (the header of a message of xenstored was seen, and nothing of it was taken), `none`.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use spin::Mutex;

/// Places to crash at.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Before a hypercall.
    Before = 1,
    /// After it.
    After,
    /// Where a message of xenstored begins.
    Answer,
}

static PLACE: AtomicUsize = AtomicUsize::new(0);
/// 0: panic, 1: invalid instruction, 2: page fault.
static KIND: AtomicUsize = AtomicUsize::new(0);
/// How often it is still to come to that place; 0 where no crash is wanted.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// The component of a path that is being received.
struct Word {
    bytes: [u8; 32],
    len: usize,
}

static WORD: Mutex<Word> = Mutex::new(Word { bytes: [0; 32], len: 0 });

/// Looks for a wish in what xenstored says.
pub(crate) fn hear(bytes: &[u8]) {
    let mut word = WORD.lock();
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'/' {
            let at = word.len;
            if let Some(place) = word.bytes.get_mut(at) {
                *place = byte;
                word.len += 1;
            }
            continue;
        }
        let heard = word.bytes.get(..word.len).and_then(|word| core::str::from_utf8(word).ok());
        if let Some(wish) = heard.and_then(|word| word.strip_prefix("fault-")) {
            arm(wish);
        }
        word.len = 0;
    }
}

fn arm(wish: &str) {
    let mut words = wish.split('-');
    let (Some(kind), Some(place), Some(Ok(count))) = (words.next(), words.next(), words.next().map(str::parse)) else {
        return;
    };
    LEFT.store(0, Ordering::Relaxed);
    // What it takes to say so does not count.
    plain_log::info!("fault wanted: {wish}");
    let number = |words: &[&str], word| words.iter().position(|other| *other == word).unwrap_or(0);
    KIND.store(number(&["panic", "ud", "pf"], kind), Ordering::Relaxed);
    PLACE.store(number(&["none", "before", "after", "answer"], place), Ordering::Relaxed);
    LEFT.store(count, Ordering::Relaxed);
}

/// The image comes to a place.
#[inline(never)] // at each hypercall
pub(crate) fn at(place: Place) {
    let left = LEFT.load(Ordering::Relaxed);
    if left > 0 && PLACE.load(Ordering::Relaxed) == place as usize {
        LEFT.store(left - 1, Ordering::Relaxed);
        if left == 1 {
            strike();
        }
    }
}

fn strike() -> ! {
    match KIND.load(Ordering::Relaxed) {
        // SAFETY: it raises a trap, whose handler does not return.
        1 => unsafe { asm!("ud2") },
        // SAFETY: the first page is mapped nowhere, which is the point: the handler of page faults does not return.
        2 => unsafe { asm!("mov al, [0x10]", out("al") _) },
        _ => {}
    }
    panic!("as wanted");
}
