//! `make soak`: as many cycles of attach and detach as were asked for.

use std::time::Instant;

use anyhow::Result;

use super::{cases::cycles, fixture::Fixture, report::Report};

/// Runs them as one case.
pub(crate) fn run(cycles: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let name = format!("nothing_grows_in_{cycles}_cycles_of_attach_and_detach");
    let cycles = cycles.parse()?;
    report.start(&name)?;
    let started = Instant::now();
    let result = self::cycles(fixture, cycles, &mut |progress| report.line(format_args!("progress {progress}")));
    report.end(&name, started.elapsed(), &result)?;
    report.close()
}
