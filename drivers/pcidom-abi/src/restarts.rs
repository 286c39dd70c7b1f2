//! What a stub says about its restarts in place (`docs/restart.md`).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::Malformed;

/// The value of [`crate::paths::relative::RESTARTS`]. No node, or an empty one: none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restarts {
    /// How many since the domain was created.
    pub count: u32,
    /// From the last crash until it was ready again, in nanoseconds.
    pub took_ns: u64,
    /// What the image said when it crashed, one line.
    pub last_words: String,
}

impl Restarts {
    /// The node's value.
    #[must_use]
    pub fn value(count: u32, took_ns: u64, last_words: &[u8]) -> Vec<u8> {
        let mut value = format!("{count} {took_ns} ").into_bytes();
        value.extend_from_slice(last_words);
        value
    }

    /// Reads the node's value.
    ///
    /// # Errors
    /// [`Malformed`] when it does not begin with two numbers.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut words = text.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or(Malformed);
        let (count, took_ns) = (number()?, number()?);
        let count = u32::try_from(count).map_err(|_| Malformed)?;
        Ok(Self { count, took_ns, last_words: words.next().unwrap_or_default().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_reads_back_and_nonsense_is_refused() {
        let value = Restarts::value(3, 22_000_000, b"drivers/pciback/src/backend.rs:1: a bug");
        let restarts = Restarts::parse(core::str::from_utf8(&value).unwrap()).unwrap();
        assert_eq!((restarts.count, restarts.took_ns), (3, 22_000_000));
        assert_eq!(restarts.last_words, "drivers/pciback/src/backend.rs:1: a bug");
        assert_eq!(Restarts::parse("1 2").unwrap().last_words, "");
        for text in ["", "1", "x 2 y", "-1 2 y", "4294967296 2 y"] {
            assert_eq!(Restarts::parse(text), Err(Malformed), "{text:?}");
        }
    }
}
