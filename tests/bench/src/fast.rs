//! The fast suite: Xen boots the kernel's self-test image as its only domain.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    boot::BENCH_ERROR,
    crash_dump,
    images::Images,
    layout,
    qemu::{Clock, Line, Logs, Machine},
    release::Release,
    report::Report,
    tally::Tally,
};

/// A run takes seconds.
const LIMIT: Duration = Duration::from_mins(1);

/// The list of the self-test's cases: `("NAME", function),` a line.
const CASES: &str = "tests/guests/selftest/src/cases/mod.rs";

/// The names of the image's own cases that have one of these in their names, and those about images that crash.
pub(crate) fn cases(filter: &str) -> Result<Vec<String>> {
    let source = fs::read_to_string(CASES).with_context(|| format!("reading {CASES}"))?;
    let names = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"').map(|(name, _)| name.to_owned()));
    let crashes = crash_dump::cases();
    Ok(names.chain(crashes).filter(|name| filter.split(',').any(|part| name.contains(part))).collect())
}

/// Boots the image and shows its cases.
pub(crate) fn run(release: &Release, filter: &str, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    let listed = cases(filter)?;
    ensure!(!listed.is_empty(), "no case has {filter:?} in its name");
    let (crashes, own): (Vec<String>, Vec<String>) =
        listed.into_iter().partition(|name| crash_dump::cases().contains(name));
    let images = Images::build(release)?;
    let dir = layout::log_dir(&format!("fast-{}", release.number));
    layout::prepare_logs(&dir)?;
    let mut machine = Machine {
        xen: images.xen,
        xen_options: "dom0_mem=16M loglvl=all guest_loglvl=all".into(),
        modules: vec![(PathBuf::from(layout::SELFTEST_IMAGE), format!("case={filter}"))],
        memory: 512,
        cpus: 2,
        clock: Clock::Real,
        // The self-test reads the configuration space of this one, at 00:06.0.
        devices: ["-device", "edu,addr=6"].map(str::to_owned).to_vec(),
        qmp: None,
    };
    let mut tally = Tally::default();
    if !own.is_empty() {
        let (mut report, mut ended) = boot(&machine, &dir, verbose);
        if !report.has_begun() {
            println!("{BENCH_ERROR}fast-{} ended before its first case, and is booted once more", release.number);
            (report, ended) = boot(&machine, &dir, verbose);
        }
        let (counted, missing) = report.finish(ended);
        tally += counted;
        if let Some(missing) = missing {
            println!("{missing}");
        } else if usize::try_from(counted.passed + counted.failed)? != own.len() {
            println!("case list ... FAILED: `make cases` knows {} of them", own.len());
            tally += Tally::one(false);
        }
    }
    tally += crash_dump::run(&mut machine, &crashes, &dir, verbose)?;
    if !tally.is_good() {
        layout::keep_logs(&dir)?;
        eprintln!("bench: the console is in {}", dir.display());
    }
    println!("{tally}");
    Ok(tally.is_good())
}

/// One boot: what it reported, and whether it ended by itself.
fn boot(machine: &Machine, dir: &Path, verbose: bool) -> (Report, bool) {
    let mut report = Report::default();
    let logs = Logs {
        serial: dir.join("console.log"),
        report: None,
        until: None,
        on_line: &mut |line| {
            let (Line::Serial(line) | Line::Report(line)) = line;
            if verbose {
                println!("| {line}");
            }
            if let Some(line) = report.line(&line) {
                println!("{line}");
            }
        },
    };
    let result = machine.run(LIMIT, verbose, logs);
    if let Err(error) = &result {
        eprintln!("bench: {error:#}");
    }
    (report, result.is_ok())
}
