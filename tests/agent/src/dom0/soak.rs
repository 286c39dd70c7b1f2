//! `make soak`: as many cycles of attach and detach as were asked for. `make crash-soak`: as many crashes of the stub. `make crash-walk`: a crash at each place
//! that it comes to.

use std::time::Instant;

use anyhow::Result;

use super::{
    cases, crashes,
    fixture::Fixture,
    plan::{is_before, option},
    report::Report,
};

/// Something that is done so often and tells how far it has come.
type Often = fn(&mut Fixture, u32, &mut dyn FnMut(&str) -> Result<()>) -> Result<()>;

/// Runs cycles as one case.
pub(crate) fn cycles(count: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let name = format!("nothing_grows_in_{count}_cycles_of_attach_and_detach");
    run(&name, cases::cycles, count, fixture, report)
}

/// The same with crashes: with few guests, or with sixty-four.
pub(crate) fn crashes(suite: &str, count: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let (who, work): (_, Often) =
        if suite == "crash-soak" { ("two", crashes::with_few) } else { ("sixty_four", crashes::with_many) };
    run(&format!("{count}_crashes_of_the_stub_are_not_noticed_by_{who}_guests"), work, count, fixture, report)
}

/// The same with errors of the hardware.
pub(crate) fn errors(count: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    run(&format!("a_guest_that_writes_goes_on_after_{count}_errors"), cases::errors, count, fixture, report)
}

/// The same with hostile frontends.
pub(crate) fn hostile(count: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    run(&format!("{count}_hostile_frontends_disturb_no_other"), cases::hostile, count, fixture, report)
}

/// Crashes at each place that the stub comes to.
pub(crate) fn walks(options: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let filter = option(options, "case").unwrap_or_default();
    let walks = cases::WALKS.into_iter().filter(|(name, _)| name.contains(filter));
    for (name, work) in walks.skip_while(|(name, _)| is_before(options, name)) {
        report.start(name)?;
        let started = Instant::now();
        let result = work(fixture);
        report.end(name, started.elapsed(), &result)?;
    }
    report.close()
}

fn run(name: &str, work: Often, count: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let count = count.parse()?;
    report.start(name)?;
    let started = Instant::now();
    let result = work(fixture, count, &mut |progress| report.line(format_args!("progress {progress}")));
    report.end(name, started.elapsed(), &result)?;
    report.close()
}
