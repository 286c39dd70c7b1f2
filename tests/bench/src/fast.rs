//! The fast suite: Xen boots the kernel's self-test image as its only domain.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

use crate::{
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

/// Boots the image and shows its cases.
pub(crate) fn run(release: &Release, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    let images = Images::build(release)?;
    let dir = layout::log_dir(&format!("fast-{}", release.number));
    layout::prepare_logs(&dir)?;
    let mut machine = Machine {
        xen: images.xen,
        xen_options: "dom0_mem=16M loglvl=all guest_loglvl=all".into(),
        modules: vec![(PathBuf::from(layout::SELFTEST_IMAGE), String::new())],
        memory: 512,
        clock: Clock::Real,
        // The self-test reads the configuration space of this one, at 00:06.0.
        devices: ["-device", "edu,addr=6"].map(str::to_owned).to_vec(),
        qmp: None,
    };
    let mut report = Report::default();
    let logs = Logs {
        serial: dir.join("console.log"),
        report: None,
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
    let (mut tally, missing) = report.finish(result.is_ok());
    if let Some(missing) = missing {
        println!("{missing}");
    }
    match crash_dump::run(&mut machine, &dir, verbose) {
        Ok(cases) => tally += cases,
        Err(error) => {
            eprintln!("bench: {error:#}");
            tally += Tally::one(false);
        }
    }
    if tally.failed > 0 {
        layout::keep_logs(&dir)?;
        eprintln!("bench: the console is in {}", dir.display());
    }
    println!("{tally}");
    Ok(tally.failed == 0)
}
