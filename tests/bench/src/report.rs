//! What a machine reports about its cases, line by line.

use crate::tally::Tally;

/// Follows the cases of one boot. Three kinds of lines count, in both suites:
///
/// - `start NAME` before a case, so that one that hangs is known;
/// - `case NAME ... ok (1.2 s)` or `case NAME ... FAILED: why` after it (in the fast suite `case NAME: ok` or
///   `case NAME: FAILED why`, through the kernel's log: `[    1.042940] INFO  case …`);
/// - `N passed, N failed` at the end.
#[derive(Default)]
pub(crate) struct Report {
    counted: Tally,
    running: Option<String>,
    closing: Option<Tally>,
}

impl Report {
    /// Takes in a line and returns what to show of it.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        let line = without_log_prefix(line);
        if let Some(name) = line.strip_prefix("start ") {
            self.running = Some(name.to_owned());
            return None;
        }
        if let Some(tally) = Tally::of_line(line) {
            self.closing = Some(tally);
            return None;
        }
        let (name, verdict) = split_verdict(line.strip_prefix("case ")?)?;
        self.counted += Tally::one(verdict.starts_with("ok"));
        self.running = None;
        Some(format!("case {name} ... {verdict}"))
    }

    /// Whether a case has started.
    pub(crate) fn has_begun(&self) -> bool {
        self.running.is_some() || self.closing.is_some() || self.counted != Tally::default()
    }

    /// The cases of this boot. What is missing counts as one failed case: a case that never ended, the closing line, lines that
    /// add up to it, or that the machine `ended` by itself. The second part says what was missing.
    pub(crate) fn finish(mut self, ended: bool) -> (Tally, Option<String>) {
        let missing = match (self.running, self.closing) {
            (Some(name), _) => format!("case {name} ... FAILED: it did not end"),
            (None, None) => "case boot ... FAILED: the run ended before its cases did".to_owned(),
            (None, Some(closing)) if closing != self.counted => format!("case boot ... FAILED: it counted {closing}"),
            (None, Some(_)) if !ended => "case boot ... FAILED: the machine did not end by itself".to_owned(),
            (None, Some(_)) => return (self.counted, None),
        };
        self.counted += Tally::one(false);
        (self.counted, Some(missing))
    }
}

/// The line behind a time stamp and a level, if it has them.
fn without_log_prefix(line: &str) -> &str {
    let behind = line.strip_prefix('[').and_then(|line| line.split_once("] "));
    behind.and_then(|(_, line)| line.split_once(' ')).map_or(line, |(_, line)| line.trim_start())
}

/// A case's name, which may have blanks and colons in it, and what became of it.
fn split_verdict(line: &str) -> Option<(&str, &str)> {
    if let Some(parts) = line.split_once(" ... ") {
        return Some(parts);
    }
    let at = line.strip_suffix(": ok").map(str::len).or_else(|| line.find(": FAILED "))?;
    Some((&line[..at], &line[at + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> (Vec<String>, Tally, Option<String>) {
        let mut report = Report::default();
        let shown = lines.iter().filter_map(|line| report.line(line)).collect();
        let (tally, missing) = report.finish(true);
        (shown, tally, missing)
    }

    #[test]
    fn lines_of_both_suites_are_shown_alike_and_counted() {
        let full = report(&[
            "start a",
            "case a ... ok (0.1 s)",
            "noise",
            "start b",
            "case b ... FAILED: x: y",
            "1 passed, 1 failed",
        ]);
        assert_eq!(full.0, ["case a ... ok (0.1 s)", "case b ... FAILED: x: y"]);
        let fast = report(&[
            "(XEN) [    1.000000] noise",
            "[    1.042940] INFO  case a: b c: ok",
            "[    1.042940] INFO  case d: FAILED x: y",
            "[    1.042940] INFO  selftest: 1 passed, 1 failed",
        ]);
        assert_eq!(fast.0, ["case a: b c ... ok", "case d ... FAILED x: y"]);
        for (_, tally, missing) in [full, fast] {
            assert_eq!((tally, missing), (Tally { passed: 1, failed: 1 }, None));
        }
    }

    #[test]
    fn a_boot_has_begun_with_its_first_case() {
        let mut report = Report::default();
        assert!(!report.has_begun());
        report.line("(XEN) noise");
        assert!(!report.has_begun());
        report.line("start a");
        assert!(report.has_begun());
    }

    #[test]
    fn a_case_that_never_ends_is_named_and_fails() {
        let (_, tally, missing) = report(&["start a", "case a ... ok (0.1 s)", "start b"]);
        assert_eq!(tally, Tally { passed: 1, failed: 1 });
        assert_eq!(missing.as_deref(), Some("case b ... FAILED: it did not end"));
    }

    #[test]
    fn a_missing_or_wrong_closing_line_fails() {
        assert_eq!(report(&["case a: ok"]).1, Tally { passed: 1, failed: 1 });
        assert_eq!(report(&["case a: ok", "2 passed, 0 failed"]).1, Tally { passed: 1, failed: 1 });
        assert_eq!(report(&[]).1, Tally { passed: 0, failed: 1 });
    }
}
