//! The dom0 side: brings up Xen's services, then does what the plan says and reports to the host.

mod access_times;
mod attaching;
mod benchmark;
mod broker;
mod cases;
mod crashes;
mod demo;
mod devices;
mod domain;
mod drivers;
mod fixture;
mod guests;
mod hotplug;
pub(crate) mod installed;
mod interrupts;
mod irqs;
mod network;
mod plan;
mod qmp;
mod report;
mod scale;
mod services;
mod small_guests;
mod snapshot;
mod soak;
mod stacks;
mod store_trace;
mod stub;
mod trace;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, bail};

use benchmark::{Clock, Scene};
use fixture::Fixture;
use plan::{is_before, option};
use report::Report;

/// Brings dom0 up and carries out the plan: one line, `demo`, a suite with what is wanted of its cases, as in `full case=PARTS alone=0` (`from=CASE`: beginning with this one), how many cycles, as in
/// `soak CYCLES`, how many crashes, errors or hostile guests, as in `crash-soak CRASHES`, which walk, or what to measure, as in `benchmark ROUNDS GROUPS`.
pub(crate) fn run(plan: &Path) -> Result<()> {
    let plan = fs::read_to_string(plan).context("reading the plan")?;
    let (suite, options) = plan.trim().split_once(' ').unwrap_or((plan.trim(), ""));
    services::start(suite)?;
    // One archive for all guests: the fixed part and this run's agent.
    let archive = [fs::read("/bench/guest.cpio")?, fs::read("/bench/guest-run.cpio")?].concat();
    fs::write("/boot/initrd.img", archive)?;
    let mut report = Report::create()?;
    let mut fixture = Fixture::new()?;
    match suite {
        "demo" => demo::run(&mut fixture, &mut report),
        "soak" => soak::cycles(options, &mut fixture, &mut report),
        "crash-soak" | "scale-crash-soak" => soak::crashes(suite, options, &mut fixture, &mut report),
        "error-soak" => soak::errors(options, &mut fixture, &mut report),
        "hostile-soak" => soak::hostile(options, &mut fixture, &mut report),
        "crash-walk" => soak::walks(options, &mut fixture, &mut report),
        "benchmark" => benchmark::run(&mut fixture, &mut report, Scene::Contest(Clock::Real), options),
        "instructions" => benchmark::run(&mut fixture, &mut report, Scene::Contest(Clock::Instructions), options),
        "scale-benchmark" => benchmark::run(&mut fixture, &mut report, Scene::Scale, options),
        _ => run_cases(suite, options, &mut fixture, &mut report),
    }
}

/// The cases of a suite whose names contain the filter, or one of several with commas between them.
fn wanted<'a>(suite: &str, filter: &'a str) -> Result<impl Iterator<Item = &'static cases::Case> + use<'a>> {
    let groups = match suite {
        "full" => vec![cases::FULL],
        "hotplug" => vec![cases::HOTPLUG],
        "chosen" => vec![cases::FULL, cases::HOTPLUG],
        "no-iommu" => vec![cases::NO_IOMMU],
        "direct" => vec![cases::DIRECT],
        "devices" => vec![cases::DEVICES],
        "scale" => vec![cases::SCALE],
        "neighbours" => vec![cases::NEIGHBOURS],
        "debian-install" => vec![cases::installed::INSTALL],
        "debian" => vec![cases::installed::BOOTED],
        _ => bail!("no suite {suite}"),
    };
    let is_chosen = suite == "chosen";
    let is_wanted = move |case: &&cases::Case| {
        (!is_chosen || cases::CHOSEN.contains(&case.name)) && filter.split(',').any(|part| case.name.contains(part))
    };
    Ok(groups.into_iter().flatten().copied().flatten().filter(is_wanted))
}

/// Prints the names of these cases.
pub(crate) fn list_cases(suite: &str, filter: &str) {
    for case in wanted(suite, filter).into_iter().flatten() {
        println!("{}", case.name);
    }
}

fn run_cases(suite: &str, options: &str, fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let is_alone = option(options, "alone") == Some("1");
    let cases = wanted(suite, option(options, "case").unwrap_or_default())?;
    for case in cases.skip_while(|case| is_before(options, case.name)) {
        report.start(case.name)?;
        let started = Instant::now();
        let prepared = if is_alone { fixture.start_afresh() } else { Ok(()) };
        fixture.set_limit(case.limit);
        let result = prepared.and_then(|()| (case.run)(fixture));
        report.end(case.name, started.elapsed(), &result)?;
        if result.is_err() {
            stacks::print();
            // What an installed host has is systemd's, and the next case wants it.
            if !suite.starts_with("debian") {
                fixture.clear();
            }
        }
    }
    report.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_cases_are_there_and_names_are_told_apart() {
        let chosen: Vec<&str> = wanted("chosen", "").unwrap().map(|case| case.name).collect();
        assert_eq!(chosen.len(), cases::CHOSEN.len(), "not all of {:?} are among {chosen:?}", cases::CHOSEN);
        let mut names: Vec<&str> =
            ["full", "hotplug", "no-iommu", "direct", "devices", "scale", "neighbours", "debian-install", "debian"]
                .iter()
                .flat_map(|suite| wanted(suite, "").unwrap())
                .map(|case| case.name)
                .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two cases have one name");
    }
}
