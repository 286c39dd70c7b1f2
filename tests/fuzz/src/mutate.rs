//! Variations of the corpus without libFuzzer's feedback, for the host tests: the same ones each time.

use sim::random::Random;

/// What is put into an input now and then.
const WORDS: [&[u8]; 12] =
    [b"0", b"-1", b"4294967295", b"4294967296", b"18446744073709551615", b"0x", b"\0", b"\n", b" ", b":", b",", b"="];
/// Longest variation.
const MAX_BYTES: usize = 4_096;

/// A variation of one of the seeds.
pub fn vary(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let byte = random.word().to_le_bytes()[0];
        match random.below(9) {
            0 | 1 => set(&mut bytes, at, |old| old ^ 1 << (byte % 8)),
            2 => set(&mut bytes, at, |_| byte),
            3 => bytes.insert(at, byte),
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..(at + random.below(8)).min(bytes.len()))),
            6 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            7 => {
                // A piece of another seed.
                let other = seeds.get(random.below(seeds.len())).map_or(&[][..], Vec::as_slice);
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + random.below(64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let word = [0, 1, 0x7f, 0x80, 0xff, u32::MAX, i32::MAX.cast_unsigned(), random.word()][random.below(8)];
                for (offset, byte) in word.to_le_bytes().into_iter().enumerate() {
                    set(&mut bytes, at + offset, |_| byte);
                }
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

fn set(bytes: &mut [u8], at: usize, change: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte);
    }
}
