//! `make test`: the stages one after the other, all of them even when one fails, with one sum at the end.

use std::{
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
    println!("\n{}", summary(&mut stages));
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
}

impl Stage {
    /// Makes a target (which may have settings in front: `DEBIAN=13 test-fast`), through another program if that is given, and hands out what it prints line by line.
    fn run(target: &str, through: &[&str], on_line: &mut dyn FnMut(&str) -> Result<()>) -> Result<Self> {
        let started = Instant::now();
        let words: Vec<&str> = target.split(' ').collect();
        let line = [through, &["make", "--no-print-directory"], &words].concat();
        let (program, arguments) = line.split_first().context("no program")?;
        let mut make = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting make")?;
        let (mut tally, mut second_boots, mut parts) = (Tally::default(), 0, Vec::new());
        for line in BufReader::new(make.stdout.take().context("no pipe")?).split(b'\n') {
            // Consoles say what they like.
            let line = String::from_utf8_lossy(&line?).into_owned();
            on_line(&line)?;
            tally += Tally::of_line(&line).unwrap_or_default();
            second_boots += u32::from(line.starts_with(BENCH_ERROR));
            parts.extend(Part::of_line(&line));
        }
        let succeeded = make.wait()?.success();
        if tally == Tally::default() || (!succeeded && tally.is_good()) {
            tally += Tally::one(succeeded);
        }
        Ok(Self { target: target.to_owned(), seconds: started.elapsed().as_secs_f64(), tally, second_boots, parts })
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
        let mut stages = [Stage { target: "test".into(), seconds: 301.0, tally, second_boots: 1, parts }];
        assert_eq!(
            summary(&mut stages),
            "test    301 s  1 passed, 1 failed, 1 skipped, 1 bench error: a machine was booted once more\n\
             boots:\n   300.0 s  full-12\n\
             the longest cases:\n    20.0 s  crash dump: b\n     1.5 s  a\n"
        );
    }
}
