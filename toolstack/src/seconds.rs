//! Durations as messages print them.

use std::fmt;
use std::time::Duration;

/// A time as messages tell it: `30 s`, `0.4 s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.as_millis() + 50) / 100;
        match (tenths / 10, tenths % 10) {
            (whole, 0) => write!(f, "{whole} s"),
            (whole, tenth) => write!(f, "{whole}.{tenth} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_do() {
        for (ms, text) in
            [(0, "0 s"), (400, "0.4 s"), (2500, "2.5 s"), (2990, "3 s"), (3010, "3 s"), (30_503, "30.5 s")]
        {
            assert_eq!(Seconds(Duration::from_millis(ms)).to_string(), text);
        }
    }
}
