//! Counting cases, and reading counts out of what test programs print.

use std::fmt;

/// How many cases passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Tally {
    /// One case.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u32::from(passed), failed: u32::from(!passed) }
    }

    /// Reads a closing line: ours (`N passed, N failed`, a word before it allowed) or that of a Rust test program
    /// (`test result: ok. N passed; N failed; …`).
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("test result: ").map_or_else(
            || line.split_once(": ").map_or(Some(line), |(word, rest)| (!word.contains(' ')).then_some(rest)),
            |rest| rest.split_once(". ").map(|(_, rest)| rest),
        )?;
        let words: Vec<&str> = rest.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
        let [passed, "passed", failed, "failed", ..] = words[..] else { return None };
        Some(Self { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_closing_lines_and_nothing_else() {
        let tally = |passed, failed| Some(Tally { passed, failed });
        assert_eq!(
            Tally::of_line("test result: ok. 15 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out"),
            tally(15, 0)
        );
        assert_eq!(Tally::of_line("test result: FAILED. 1 passed; 3 failed; 0 ignored"), tally(1, 3));
        assert_eq!(Tally::of_line("selftest: 7 passed, 1 failed"), tally(7, 1));
        assert_eq!(Tally::of_line("12 passed, 0 failed"), tally(12, 0));
        assert_eq!(Tally::of_line("case x ... FAILED: 1 passed, 2 failed"), None);
        assert_eq!(Tally::of_line("the guests passed, they failed"), None);
        assert_eq!(Tally::of_line(""), None);
    }
}
