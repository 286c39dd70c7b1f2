//! `make test`: the stages one after the other, all of them even when one fails, with one sum at the end.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow};

use crate::tally::Tally;

/// In front of a target that can wait for CPUs that the others leave idle.
const BESIDE: char = '+';

/// In front of a line about an error that is the bench's own: it counts as none of the cases, and is told at the end.
pub(crate) const BENCH_ERROR: &str = "bench error: ";

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
    let mut sum = Tally::default();
    println!();
    let width = stages.iter().map(|stage| stage.target.len()).max().unwrap_or_default();
    for Stage { target, seconds, tally, bench_errors } in stages {
        let errors = match bench_errors {
            0 => String::new(),
            1 => ", 1 error of the bench".to_owned(),
            errors => format!(", {errors} errors of the bench"),
        };
        println!("{target:width$} {seconds:6.0} s  {tally}{errors}");
        sum += tally;
    }
    println!("{sum}");
    Ok(sum.failed == 0)
}

/// How one target went.
struct Stage {
    target: String,
    seconds: f64,
    tally: Tally,
    bench_errors: u32,
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
        let (mut tally, mut bench_errors) = (Tally::default(), 0);
        for line in BufReader::new(make.stdout.take().context("no pipe")?).split(b'\n') {
            // Consoles say what they like.
            let line = String::from_utf8_lossy(&line?).into_owned();
            on_line(&line)?;
            tally += Tally::of_line(&line).unwrap_or_default();
            bench_errors += u32::from(line.starts_with(BENCH_ERROR));
        }
        let succeeded = make.wait()?.success();
        if tally == Tally::default() || (!succeeded && tally.failed == 0) {
            tally += Tally::one(succeeded);
        }
        Ok(Self { target: target.to_owned(), seconds: started.elapsed().as_secs_f64(), tally, bench_errors })
    }
}
