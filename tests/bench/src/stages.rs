//! `make test`: the stages one after the other, all of them even when one fails, with one sum at the end.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow};

use crate::{boot::BENCH_ERROR, tally::Tally};

/// In front of a target that can wait for CPUs that the others leave idle.
const BESIDE: char = '+';

/// How many cases are named as those that took longest.
const LONGEST: usize = 12;
/// How many lines are repeated of a stage that failed without naming a case.
const LAST_LINES: usize = 12;

/// Runs make targets, passes on what they print and adds up the cases in it. A target without any case (lint) counts as one. Those with
/// [`BESIDE`] in front run one after the other beside the rest, with the lowest priority, and are heard when the rest has ended.
pub(crate) fn run(targets: &[String]) -> Result<bool> {
    let is_beside = |target: &&String| target.starts_with(BESIDE);
    let (beside, rest): (Vec<&String>, Vec<&String>) = targets.iter().partition(is_beside);
    let mut stages = Vec::new();
    thread::scope(|scope| -> Result<()> {
        let beside = scope.spawn(move || -> Result<Vec<(Stage, String)>> {
            let stage = |target: &&String| {
                let mut heard = String::new();
                let name = target.trim_start_matches(BESIDE);
                let stage = Stage::run(name, &["nice", "-n", "19"], &mut |line| {
                    heard += line;
                    heard.push('\n');
                    Ok(())
                })?;
                Ok((stage, heard))
            };
            beside.iter().map(stage).collect()
        });
        for target in rest {
            println!("\n== {target}");
            stages.push(Stage::run(target, &[], &mut |line| {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{line}")?;
                Ok(out.flush()?)
            })?);
        }
        for (stage, heard) in beside.join().map_err(|_| anyhow!("a thread panicked"))?? {
            println!("\n== {}, which ran beside the others\n{heard}", stage.target);
            stages.push(stage);
        }
        Ok(())
    })?;
    println!("\n{}{}", summary(&mut stages), failures(&stages));
    let mut sum = Tally::default();
    stages.iter().for_each(|stage| sum += stage.tally);
    println!("{}", sum.short());
    Ok(sum.is_good())
}

/// The stages with their times and counts, and what took longest: cases, boots and stages.
fn summary(stages: &mut [Stage]) -> String {
    let mut text = String::new();
    let width = stages.iter().map(|stage| stage.target.len()).max().unwrap_or_default();
    for Stage { target, seconds, tally, second_boots, .. } in &*stages {
        let again = match second_boots {
            0 => String::new(),
            1 => ", 1 bench error: a machine was booted once more".to_owned(),
            count => format!(", {count} bench errors: machines were booted once more"),
        };
        text += &format!("{target:width$} {seconds:6.0} s  {tally}{again}\n");
    }
    let parts: Vec<Part> = stages.iter_mut().flat_map(|stage| std::mem::take(&mut stage.parts)).collect();
    for (title, is_boot, count) in [("boots", true, usize::MAX), ("the longest cases", false, LONGEST)] {
        let mut parts: Vec<&Part> = parts.iter().filter(|part| part.is_boot == is_boot).collect();
        parts.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        if !parts.is_empty() {
            text += &format!("{title}:\n");
        }
        for Part { name, seconds, .. } in parts.into_iter().take(count) {
            text += &format!("{seconds:8.1} s  {name}\n");
        }
    }
    text
}

/// What failed, told once more where a reader looks first: the last lines. Empty when nothing did.
fn failures(stages: &[Stage]) -> String {
    let mut text = String::new();
    for Stage { target, tally, failed, last, .. } in stages.iter().filter(|stage| !stage.tally.is_good()) {
        text += &format!("\n{target}: {tally}\n");
        let lines: Vec<&String> = if failed.is_empty() { last.iter().collect() } else { failed.iter().collect() };
        lines.into_iter().for_each(|line| text += &format!("  {line}\n"));
    }
    text
}

/// Whether a line tells of a case, ours or that of a Rust test program, that did not pass.
fn is_failure(line: &str) -> bool {
    let verdict =
        line.strip_prefix("case ").or_else(|| line.strip_prefix("test ")).and_then(|line| line.split_once(" ... "));
    verdict.is_some_and(|(_, verdict)| verdict.starts_with("FAILED") || verdict.starts_with("bench error"))
}

/// A case or a boot, and how long it took.
#[derive(Debug, PartialEq)]
struct Part {
    name: String,
    seconds: f64,
    is_boot: bool,
}

impl Part {
    /// Reads `case NAME ... ok (1.2 s)` or `boot NAME took 12 s (…)`.
    fn of_line(line: &str) -> Option<Self> {
        if let Some((name, rest)) = line.strip_prefix("boot ").and_then(|line| line.split_once(" took ")) {
            let seconds = rest.split_once(" s")?.0.parse().ok()?;
            return Some(Self { name: name.to_owned(), seconds, is_boot: true });
        }
        let (name, verdict) = line.strip_prefix("case ")?.split_once(" ... ")?;
        let (_, rest) = verdict.split_once('(')?;
        let seconds = rest.split_once(" s)")?.0.parse().ok()?;
        Some(Self { name: name.to_owned(), seconds, is_boot: false })
    }
}

/// Result of one target.
struct Stage {
    target: String,
    seconds: f64,
    tally: Tally,
    /// Machines that were booted once more.
    second_boots: u32,
    parts: Vec<Part>,
    /// The lines of cases that did not pass.
    failed: Vec<String>,
    /// The last lines that it printed.
    last: VecDeque<String>,
}

impl Stage {
    /// Makes a target (which may have settings in front: `DEBIAN=13 test-fast`), through another program if that is given, and hands out what it prints line by line.
    fn run(target: &str, through: &[&str], on_line: &mut dyn FnMut(&str) -> Result<()>) -> Result<Self> {
        let started = Instant::now();
        let words: Vec<&str> = target.split(' ').collect();
        // What cargo, make and linters say of a failure is on standard error.
        let both = ["sh", "-c", "exec \"$@\" 2>&1", "sh"];
        let line = [&both, through, &["make", "--no-print-directory"], &words].concat();
        let (program, arguments) = line.split_first().context("no program")?;
        let mut make = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting make")?;
        let (mut tally, mut second_boots, mut parts) = (Tally::default(), 0, Vec::new());
        let (mut failed, mut last) = (Vec::new(), VecDeque::with_capacity(LAST_LINES));
        for line in BufReader::new(make.stdout.take().context("no pipe")?).split(b'\n') {
            // Consoles say what they like.
            let line = String::from_utf8_lossy(&line?).into_owned();
            on_line(&line)?;
            tally += Tally::of_line(&line).unwrap_or_default();
            second_boots += u32::from(line.starts_with(BENCH_ERROR));
            parts.extend(Part::of_line(&line));
            if is_failure(&line) {
                failed.push(line.clone());
            }
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        let succeeded = make.wait()?.success();
        if tally == Tally::default() || (!succeeded && tally.is_good()) {
            tally += Tally::one(succeeded);
        }
        Ok(Self {
            target: target.to_owned(),
            seconds: started.elapsed().as_secs_f64(),
            tally,
            second_boots,
            parts,
            failed,
            last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_longest_is_told() {
        let lines = [
            "case a ... ok (1.5 s)",
            "case crash dump: b ... FAILED (20.0 s): why (because)",
            "boot full-12 took 300 s (200 s of processor time)",
            "case c ... skipped: no device",
        ];
        let parts = lines.iter().filter_map(|line| Part::of_line(line)).collect();
        let tally = Tally { passed: 1, failed: 1, skipped: 1, bench_errors: 0 };
        let (failed, last) = (Vec::new(), VecDeque::new());
        let mut stages = [Stage { target: "test".into(), seconds: 301.0, tally, second_boots: 1, parts, failed, last }];
        assert_eq!(
            summary(&mut stages),
            "test    301 s  1 passed, 1 failed, 1 skipped, 1 bench error: a machine was booted once more\n\
             boots:\n   300.0 s  full-12\n\
             the longest cases:\n    20.0 s  crash dump: b\n     1.5 s  a\n"
        );
    }

    #[test]
    fn what_failed_is_told_once_more_at_the_end() {
        let lines = [
            "case a ... ok (1.5 s)",
            "case b ... FAILED (20.0 s): no answer",
            "test c::d ... FAILED",
            "test e ... ok",
            "x",
        ];
        let of = |target: &str, tally, lines: &[&str]| Stage {
            target: target.into(),
            seconds: 1.0,
            tally,
            second_boots: 0,
            parts: Vec::new(),
            failed: lines.iter().filter(|line| is_failure(line)).map(|line| (*line).to_owned()).collect(),
            last: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let stages = [
            of("test-full", Tally { passed: 2, failed: 2, ..Tally::default() }, &lines),
            of("test-fast", Tally::one(true), &lines[..1]),
            of("lint", Tally::one(false), &["error: a", "make: *** [man-check] Error 1"]),
        ];
        assert_eq!(
            failures(&stages),
            "\ntest-full: 2 passed, 2 failed\n  case b ... FAILED (20.0 s): no answer\n  test c::d ... FAILED\n\
             \nlint: 0 passed, 1 failed\n  error: a\n  make: *** [man-check] Error 1\n"
        );
    }

    #[test]
    fn a_stage_that_fails_on_standard_error_is_heard() {
        let mut heard = Vec::new();
        let stage = Stage::run("no-such-target", &[], &mut |line| {
            heard.push(line.to_owned());
            Ok(())
        });
        let stage = stage.unwrap();
        assert_eq!(stage.tally, Tally::one(false));
        assert!(heard.iter().any(|line| line.contains("no-such-target")), "{heard:?}");
        assert!(failures(&[stage]).contains("no-such-target"));
    }
}
