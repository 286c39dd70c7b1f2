//! Parses the report of a running machine, line by line.

use crate::tally::Tally;

/// Follows the cases of one boot. Three kinds of lines count, in all suites:
///
/// - `start NAME` before a case, so that one that hangs is known;
/// - `case NAME ... VERDICT` after it, with a verdict that [`Tally::of_verdict`] knows: `ok (1.2 s)`, `FAILED (1.2 s): why`, `skipped: why` or
///   `bench error: why` (in the fast suite `case NAME: ok` or `case NAME: FAILED why`, through the kernel's log, whose time stamps tell how
///   long it took: `[    1.042940] INFO  case …`);
/// - `N passed, N failed` at the end, and what else was counted.
///
/// `progress TEXT` within a case that takes hours is shown.
#[derive(Default)]
pub(crate) struct Report {
    /// Of the machines before this one, whose cases it goes on with.
    earlier: Tally,
    counted: Tally,
    running: Option<String>,
    /// What was told last of a case that takes hours.
    progress: Option<String>,
    closing: Option<Tally>,
    /// The time stamp of the line before.
    before: Option<f64>,
}

impl Report {
    /// Takes in a line and returns what to show of it.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        let (stamp, line) = log_prefix(line);
        let took = stamp.zip(self.before).map(|(now, before)| now - before);
        self.before = stamp.or(self.before);
        if let Some(name) = line.strip_prefix("start ") {
            self.running = Some(name.to_owned());
            return None;
        }
        if let Some(progress) = line.strip_prefix("progress ") {
            self.progress = Some(progress.to_owned());
            return Some(progress.to_owned());
        }
        if let Some(tally) = Tally::of_line(line) {
            self.closing = Some(tally);
            return None;
        }
        let (name, verdict) = split_verdict(line.strip_prefix("case ")?)?;
        self.counted += Tally::of_verdict(verdict);
        self.running = None;
        let took = took.map(|seconds| format!(" ({seconds:.3} s)")).unwrap_or_default();
        Some(format!("case {name} ... {verdict}{took}"))
    }

    /// Whether a case has started.
    pub(crate) fn has_begun(&self) -> bool {
        self.running.is_some() || self.closing.is_some() || self.counted != Tally::default()
    }

    /// The machine has ended in the middle of a case, and another one is to go on: the case's name, and what it told last.
    pub(crate) fn interrupt(&mut self) -> Option<(String, Option<String>)> {
        let running = self.running.take()?;
        let Self { earlier, counted, progress, .. } = std::mem::take(self);
        self.earlier = earlier;
        self.earlier += counted;
        Some((running, progress))
    }

    /// The cases of this boot, and of those that it goes on with. What is missing counts as one failed case: a case that never ended, the closing line, lines that
    /// add up to it, or that the machine `ended` by itself. The second part says what was missing.
    pub(crate) fn finish(mut self, ended: bool) -> (Tally, Option<String>) {
        let missing = match (self.running, self.closing) {
            (Some(name), _) => format!("case {name} ... FAILED: it did not end"),
            (None, None) => "case boot ... FAILED: the run ended before its cases did".to_owned(),
            (None, Some(closing)) if closing != self.counted => format!("case boot ... FAILED: it counted {closing}"),
            (None, Some(_)) if !ended => "case boot ... FAILED: the machine did not end by itself".to_owned(),
            (None, Some(_)) => {
                self.earlier += self.counted;
                return (self.earlier, None);
            }
        };
        self.earlier += self.counted;
        self.earlier += Tally::one(false);
        (self.earlier, Some(missing))
    }
}

/// A time stamp in seconds, if the line begins with one, and the line behind that and a level.
fn log_prefix(line: &str) -> (Option<f64>, &str) {
    let behind = line.strip_prefix('[').and_then(|line| line.split_once("] "));
    let parts =
        behind.and_then(|(stamp, line)| Some((stamp.trim().parse().ok(), line.split_once(' ')?.1.trim_start())));
    parts.unwrap_or((None, line))
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
    fn lines_of_all_suites_are_shown_alike_and_counted() {
        let full = report(&[
            "start a",
            "case a ... ok (0.1 s)",
            "noise",
            "start b",
            "case b ... FAILED (2.0 s): x: y",
            "start c",
            "case c ... skipped: no such device",
            "start d",
            "case d ... bench error: no answer",
            "1 passed, 1 failed, 1 skipped, 1 bench errors",
        ]);
        assert_eq!(full.0[..2], ["case a ... ok (0.1 s)", "case b ... FAILED (2.0 s): x: y"]);
        assert_eq!((full.1, full.2), (Tally { passed: 1, failed: 1, skipped: 1, bench_errors: 1 }, None));
        let fast = report(&[
            "(XEN) [    1.000000] noise",
            "[    1.042940] INFO  case a: b c: ok",
            "[    1.542940] INFO  case d: FAILED x: y",
            "[    1.542940] INFO  selftest: 1 passed, 1 failed",
        ]);
        assert_eq!(fast.0, ["case a: b c ... ok", "case d ... FAILED x: y (0.500 s)"]);
        assert_eq!((fast.1, fast.2), (Tally { passed: 1, failed: 1, ..Tally::default() }, None));
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
        assert_eq!(tally, Tally { passed: 1, failed: 1, ..Tally::default() });
        assert_eq!(missing.as_deref(), Some("case b ... FAILED: it did not end"));
    }

    #[test]
    fn another_machine_goes_on_where_one_has_ended() {
        let mut report = Report::default();
        assert_eq!(report.interrupt(), None, "no case had begun");
        for line in ["start a", "case a ... ok (0.1 s)", "start b"] {
            report.line(line);
        }
        assert_eq!(report.line("progress 200 done").as_deref(), Some("200 done"));
        assert_eq!(report.interrupt(), Some(("b".to_owned(), Some("200 done".to_owned()))));
        assert_eq!(report.interrupt(), None);
        for line in ["start b", "case b ... FAILED (0.1 s): x", "0 passed, 1 failed"] {
            report.line(line);
        }
        assert_eq!(report.finish(true), (Tally { passed: 1, failed: 1, ..Tally::default() }, None));
    }

    #[test]
    fn a_missing_or_wrong_closing_line_fails() {
        assert_eq!(report(&["case a: ok"]).1, Tally { passed: 1, failed: 1, ..Tally::default() });
        assert_eq!(report(&["case a: ok", "2 passed, 0 failed"]).1, Tally { passed: 1, failed: 1, ..Tally::default() });
        assert_eq!(report(&[]).1, Tally::one(false));
    }
}
