//! Reports to the host through a file that it follows (`tests/bench/src/report.rs` has the lines' meaning).

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::Write,
    time::Duration,
};

use anyhow::{Context, Result};

use super::services::SHARE;

/// The file, which requests to the host go to as well (`qmp.rs`).
pub(crate) fn path() -> String {
    format!("{SHARE}/report")
}

/// Why a case cannot be tried on this host. (With an error of this type it counts neither as passed nor as failed.)
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Skipped {}

/// An error of the bench itself, and not of what is tested.
#[derive(Debug)]
pub(crate) struct BenchError(pub(crate) String);

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BenchError {}

/// The report of one boot.
pub(crate) struct Report {
    file: File,
    passed: u32,
    failed: u32,
    skipped: u32,
    bench_errors: u32,
}

impl Report {
    /// Starts an empty report.
    pub(crate) fn create() -> Result<Self> {
        let path = path();
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self {
            file: file.with_context(|| format!("creating {path}"))?,
            passed: 0,
            failed: 0,
            skipped: 0,
            bench_errors: 0,
        })
    }

    /// Writes a line, also to the console, so that it stands among the messages of the kernel and Xen.
    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) -> Result<()> {
        println!("{line}");
        Ok(self.file.write_all(format!("{line}\n").as_bytes())?)
    }

    /// A case starts.
    pub(crate) fn start(&mut self, name: &str) -> Result<()> {
        self.line(format_args!("start {name}"))
    }

    /// A case has ended.
    pub(crate) fn end(&mut self, name: &str, took: Duration, result: &Result<()>) -> Result<()> {
        match result {
            Ok(()) => {
                self.passed += 1;
                self.line(format_args!("case {name} ... ok ({:.1} s)", took.as_secs_f64()))
            }
            Err(error) => {
                let word = if error.is::<Skipped>() {
                    self.skipped += 1;
                    "skipped"
                } else if error.is::<BenchError>() {
                    self.bench_errors += 1;
                    "bench error"
                } else {
                    self.failed += 1;
                    "FAILED"
                };
                // One line a case: what programs printed may have several.
                let why = format!("{error:#}").trim_end().replace('\n', " | ");
                self.line(format_args!("case {name} ... {word} ({:.1} s): {why}", took.as_secs_f64()))
            }
        }
    }

    /// All cases have ended.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Self { passed, failed, skipped, bench_errors, .. } = *self;
        self.line(format_args!("{passed} passed, {failed} failed, {skipped} skipped, {bench_errors} bench errors"))
    }
}
