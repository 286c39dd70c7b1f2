//! The stub's image in memory as the command finds it that starts it again, or puts another one in its place (`docs/restart.md`).
//!
//! Every image of one layout has its sections at the same addresses (`linker.ld`), begins with the code that starts it again, and understands what
//! another one has left. Addresses are virtual ones of the stub; offsets count from [`FACTS`] and hold little-endian words of eight bytes.

use core::ops::Range;

/// The number of this layout. It is raised when an address or a record changes that outlives a start: a field of the facts
/// (`kernel/src/survivor.rs`), the form of a fixmap record, the order of the lasting pages.
pub const LAYOUT: u32 = 2;

/// Owner of the ELF note that tells layout and contract ([`crate::VERSION`]), two words of four bytes, and its type.
pub const NOTE_OWNER: &[u8] = b"pcidom\0";
/// See [`NOTE_OWNER`].
pub const NOTE_TYPE: u32 = 1;

/// Code. Its first instruction is that of a start in place; an NMI that leads there ends whatever the image is at.
pub const TEXT: Range<u64> = 0x30_0000..0x31_f000;
/// Constants. They begin with a copy of the data as they are in the file, and the notes follow it.
pub const RODATA: Range<u64> = 0x31_f000..0x32_5000;
/// Bytes of that copy.
pub const DATA_COPY_BYTES: u64 = 0x100;
/// Data, which the image makes new by itself.
pub const DATA: Range<u64> = 0x32_5000..0x32_5100;
/// What outlives a start, then stack and data that are zero at first.
pub const FACTS: u64 = 0x32_5100;
/// The records of what is mapped in the fixmap, and where the pointer to `start_info` is kept; both outlive a start.
pub const RECORDS: u64 = 0x32_62e0;
/// See [`RECORDS`].
pub const START_INFO: u64 = 0x32_72e0;
/// The stack, below which no page is mapped.
pub const STACK: Range<u64> = 0x32_9000..0x33_1000;
/// The end of the image. What the domain builder has put behind it stays as it is.
pub const END: u64 = 0x33_4000;

/// Check sum of the facts; 0 for one that is not known.
pub const SUM: usize = 0;
/// What a crash leads to: [`NEVER`], [`TRIAL`], and others that are the image's own affair.
pub const MAY_RESTART: usize = 8;
/// The image is not to be started again.
pub const NEVER: u64 = 0;
/// An image that crashes before it is ready sleeps, so that the one before it can be put back. It ends that by itself when it is ready.
pub const TRIAL: u64 = 3;
/// An image has crashed on trial, and sleeps.
pub const FAILED: u64 = 4;
/// How often an image was started in place.
pub const RESTARTS: usize = 16;
/// When the life before ended; 0 where it is not known.
pub const CRASHED_NS: usize = 24;
/// Bytes of [`WORDS`] that are used.
pub const WORDS_LEN: usize = 32;
/// Why it was started again, in ASCII.
pub const WORDS: Range<usize> = 40..160;
/// The end of what the sum is over.
pub const FACTS_END: usize = 456;

/// Check sum over facts, as the image makes it (`kernel/src/survivor.rs`).
#[must_use]
pub fn sum(facts: &[u8]) -> u64 {
    let words = facts.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    words.fold(0, |sum: u64, word| sum.rotate_left(1) ^ word)
}
