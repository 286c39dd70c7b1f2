//! `make test`: the stages one after the other, all of them even when one fails, with one sum at the end.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};

use crate::tally::Tally;

/// Runs make targets, passes on what they print and adds up the cases in it. A target without any case (lint) counts as one.
pub(crate) fn run(targets: &[String]) -> Result<bool> {
    let mut sum = Tally::default();
    let mut rows = Vec::new();
    for target in targets {
        println!("\n== {target}");
        let started = Instant::now();
        let tally = stage(target)?;
        rows.push(format!("{target:12} {:6.0} s  {tally}", started.elapsed().as_secs_f64()));
        sum += tally;
    }
    println!("\n{}\n{sum}", rows.join("\n"));
    Ok(sum.failed == 0)
}

fn stage(target: &str) -> Result<Tally> {
    let mut make = Command::new("make")
        .args(["--no-print-directory", target])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting make")?;
    let mut tally = Tally::default();
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(make.stdout.take().context("no pipe")?).lines() {
        let line = line?;
        writeln!(out, "{line}")?;
        out.flush()?;
        tally += Tally::of_line(&line).unwrap_or_default();
    }
    let succeeded = make.wait()?.success();
    if tally == Tally::default() || (!succeeded && tally.failed == 0) {
        tally += Tally::one(succeeded);
    }
    Ok(tally)
}
