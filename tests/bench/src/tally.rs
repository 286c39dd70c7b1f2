//! Counts of passed and failed cases, also parsed from the output of test programs.

use std::fmt;

/// How many cases ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// This host cannot try them.
    pub(crate) skipped: u32,
    /// The bench failed, not what is tested.
    pub(crate) bench_errors: u32,
}

impl Tally {
    /// One case.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u32::from(passed), failed: u32::from(!passed), ..Self::default() }
    }

    /// One case with this verdict: `ok`, `skipped: …`, `bench error: …`; anything else is a failure.
    pub(crate) fn of_verdict(verdict: &str) -> Self {
        let is =
            |word: &str| verdict.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ':']));
        let (skipped, bench_errors) = (is("skipped"), is("bench error"));
        let other = if skipped || bench_errors { Self::default() } else { Self::one(is("ok")) };
        Self { skipped: u32::from(skipped), bench_errors: u32::from(bench_errors), ..other }
    }

    /// Whether everything that was tried passed, and all that should be tried was.
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.bench_errors == 0
    }

    /// Reads a closing line: ours (`N passed, N failed`, a word before it and other counts behind it allowed) or that of a Rust test program
    /// (`test result: ok. N passed; N failed; …`).
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (rest, ours) = match line.strip_prefix("test result: ") {
            Some(rest) => (rest.split_once(". ").map(|(_, rest)| rest)?, false),
            None => {
                (line.split_once(": ").map_or(Some(line), |(word, rest)| (!word.contains(' ')).then_some(rest))?, true)
            }
        };
        let words: Vec<&str> = rest.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
        let [passed, "passed", failed, "failed", ref more @ ..] = words[..] else { return None };
        let mut tally = Self { passed: passed.parse().ok()?, failed: failed.parse().ok()?, ..Self::default() };
        if ours {
            for pair in more.windows(2) {
                let [count, what] = pair else { continue };
                match *what {
                    "skipped" => tally.skipped = count.parse().ok()?,
                    "bench" => tally.bench_errors = count.parse().ok()?,
                    _ => {}
                }
            }
        }
        Some(tally)
    }

    /// The two counts that every run ends with.
    pub(crate) fn short(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.bench_errors += other.bench_errors;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        if self.bench_errors > 0 {
            write!(f, ", {} bench errors", self.bench_errors)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_closing_lines_and_nothing_else() {
        let tally = |passed, failed| Some(Tally { passed, failed, ..Tally::default() });
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

    #[test]
    fn what_is_printed_is_read_again() {
        for tally in [
            Tally { passed: 3, failed: 1, skipped: 2, bench_errors: 1 },
            Tally { passed: 3, failed: 0, skipped: 0, bench_errors: 4 },
            Tally::one(false),
        ] {
            assert_eq!(Tally::of_line(&tally.to_string()), Some(tally));
        }
    }

    #[test]
    fn each_verdict_counts_as_itself() {
        let counts = |verdict| {
            let Tally { passed, failed, skipped, bench_errors } = Tally::of_verdict(verdict);
            [passed, failed, skipped, bench_errors]
        };
        assert_eq!(counts("ok (1.0 s)"), [1, 0, 0, 0]);
        assert_eq!(counts("FAILED: ok"), [0, 1, 0, 0]);
        assert_eq!(counts("skipped: no such device"), [0, 0, 1, 0]);
        assert_eq!(counts("bench error: no answer"), [0, 0, 0, 1]);
        assert_eq!(counts("okay"), [0, 1, 0, 0]);
    }
}
