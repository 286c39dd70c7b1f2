//! The full suite: cases that need Xen, a Linux dom0, the stub and Linux guests.

use std::{
    process::{Command, ExitStatus},
    time::Instant,
};

use anyhow::{Result, ensure};

use crate::{
    boot::{Boot, Kind},
    command,
    images::Images,
    layout,
    release::Release,
    report::Report,
    stages,
    tally::Tally,
};

/// Runs the cases whose names contain `filter`, in a boot for each of these kinds of host that has such, one after the other: two machines at a
/// time on two CPUs would take as long together, and guests would lose patience.
pub(crate) fn run(release: &Release, kinds: &[Kind], filter: &str, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    let images = Images::build(release)?;
    let mut sum = Tally::default();
    for &kind in kinds {
        let list = command::text(Command::new(layout::AGENT).args(["cases", kind.name(), filter]))?;
        if list.is_empty() {
            continue;
        }
        sum += boot(&images, release, kind, &format!("{} {filter}\n", kind.name()), verbose)?;
    }
    ensure!(sum != Tally::default(), "no case has {filter:?} in its name");
    println!("{sum}");
    Ok(sum.failed == 0)
}

/// One boot with its cases, and with what they print for their users. A machine that ends before the first of them is the bench's error and none of
/// the cases': QEMU's emulation does that to a dom0 of Debian 13 now and then, whose kernel patches its code while the other CPU runs it.
pub(crate) fn boot(images: &Images, release: &Release, kind: Kind, plan: &str, verbose: bool) -> Result<Tally> {
    let name = format!("{}-{}", kind.name(), release.number);
    let boot = Boot { images, name, plan: plan.to_owned(), kind, verbose };
    let started = Instant::now();
    let (mut report, mut result) = once(&boot);
    if result.as_ref().is_ok_and(ExitStatus::success) && !report.has_begun() {
        layout::keep_logs(&boot.log_dir())?;
        println!("{}{} ended before its first case, and is booted once more", stages::BENCH_ERROR, boot.name);
        (report, result) = once(&boot);
    }
    if let Err(error) = &result {
        eprintln!("bench: {error:#}");
    }
    let (tally, missing) = report.finish(result.is_ok());
    if let Some(missing) = missing {
        println!("{missing}");
    }
    println!("boot {} took {} s", boot.name, started.elapsed().as_secs());
    if tally.failed > 0 {
        let dir = boot.log_dir();
        eprintln!("bench: consoles are in {}", dir.display());
        layout::keep_logs(&dir)?;
    }
    Ok(tally)
}

/// One boot, whatever comes of it.
fn once(boot: &Boot<'_>) -> (Report, Result<ExitStatus>) {
    let mut report = Report::default();
    let result = boot.run(&mut |line| match line.strip_prefix("figures ") {
        Some(figures) => println!("{figures}"),
        None => report.line(line).iter().for_each(|line| println!("{line}")),
    });
    (report, result)
}
