//! The dom0 side: brings up Xen's services, then does what the plan says and reports to the host.

mod bed;
mod broker;
mod cases;
mod demo;
mod devices;
mod drivers;
mod figures;
mod guests;
mod interrupts;
mod irqs;
mod network;
mod report;
mod services;
mod snapshot;
mod stub;
mod trace;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};

use bed::Bed;
use report::Report;

/// Brings dom0 up and carries out the plan: one line, `demo`, a lane and a filter, as in `full FILTER`, or what to measure, as in
/// `figures ROUNDS GROUPS`.
pub(crate) fn run(plan: &Path) -> Result<()> {
    let plan = fs::read_to_string(plan).context("reading the plan")?;
    services::start()?;
    // One archive for all guests: the fixed part and this run's agent.
    let archive = [fs::read("/bench/guest.cpio")?, fs::read("/bench/guest-run.cpio")?].concat();
    fs::write("/boot/initrd.img", archive)?;
    let mut report = Report::create()?;
    let mut bed = Bed::new()?;
    let (lane, filter) = plan.trim().split_once(' ').unwrap_or((plan.trim(), ""));
    match lane {
        "demo" => demo::run(&mut bed, &mut report),
        "full" => run_cases(cases::FULL, filter, &mut bed, &mut report),
        "no-iommu" => run_cases(cases::NO_IOMMU, filter, &mut bed, &mut report),
        "figures" => figures::run(&mut bed, &mut report, figures::Clock::Real, filter),
        "instructions" => figures::run(&mut bed, &mut report, figures::Clock::Instructions, filter),
        "direct" => run_cases(cases::DIRECT, filter, &mut bed, &mut report),
        _ => bail!("no lane {lane}"),
    }
}

fn run_cases(groups: &[&[cases::Case]], filter: &str, bed: &mut Bed, report: &mut Report) -> Result<()> {
    for case in groups.iter().copied().flatten().filter(|case| case.name.contains(filter)) {
        report.start(case.name)?;
        bed.set_limit(case.limit);
        let started = Instant::now();
        let result = (case.run)(bed);
        report.end(case.name, started.elapsed(), &result)?;
        if result.is_err() {
            bed.clear();
        }
    }
    report.close()
}
