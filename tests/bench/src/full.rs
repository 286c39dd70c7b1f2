//! The full lane: cases that need Xen, a Linux dom0, the stub and Linux guests.

use anyhow::{Result, ensure};

use crate::{boot::Boot, layout, release::Release, report::Report, tally::Tally};

/// Runs the cases whose names contain `filter`: most of them in one boot, and those for a host without IOMMU in another.
pub(crate) fn run(release: &Release, filter: &str, verbose: bool) -> Result<bool> {
    let mut sum = Tally::default();
    for (lane, iommu) in [("full", true), ("no-iommu", false)] {
        sum += boot(release, lane, iommu, filter, verbose)?;
    }
    ensure!(sum != Tally::default(), "no case has {filter:?} in its name");
    println!("{sum}");
    Ok(sum.failed == 0)
}

fn boot(release: &Release, lane: &str, iommu: bool, filter: &str, verbose: bool) -> Result<Tally> {
    let mut report = Report::default();
    let name = format!("{lane}-{}", release.number);
    let boot = Boot { release, name, plan: format!("{lane} {filter}\n"), iommu, verbose };
    let result = boot.run(&mut |line| {
        if let Some(line) = report.line(line) {
            println!("{line}");
        }
    });
    if let Err(error) = &result {
        eprintln!("bench: {error:#}");
    }
    let (tally, missing) = report.finish(result.is_ok());
    if let Some(missing) = missing {
        println!("{missing}");
    }
    if tally.failed > 0 {
        let dir = boot.log_dir();
        eprintln!("bench: consoles are in {}", dir.display());
        layout::keep_logs(&dir)?;
    }
    Ok(tally)
}
