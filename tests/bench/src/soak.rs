//! `make soak`: devices come and go thousands of times, and nothing grows. `make crash-soak`: the stub crashes thousands of times, and no guest notices.
//! `make crash-walk`: it crashes at each place that it comes to. Each in a boot of its own.

use anyhow::Result;

use crate::{
    boot::{CPUS, Kind},
    full,
    images::Images,
    layout,
    release::Release,
};

/// Runs so many cycles and shows the figures of each hundred.
pub(crate) fn run(release: &Release, cycles: u32, verbose: bool) -> Result<bool> {
    println!("{cycles} cycles of attach and detach in QEMU …");
    boot(release, Kind::Soak, &format!("soak {cycles}\n"), verbose)
}

/// Crashes the stub so often, with two guests at work or with `many`, and shows the figures of each hundred.
pub(crate) fn crash(release: &Release, crashes: u32, many: bool, verbose: bool) -> Result<bool> {
    println!("{crashes} crashes of the stub in QEMU …");
    let (kind, plan) = if many { (Kind::ScaleSoak, "scale-crash-soak") } else { (Kind::Soak, "crash-soak") };
    boot(release, kind, &format!("{plan} {crashes}\n"), verbose)
}

/// Crashes the stub at each place, in the walks that `filter` is in the names of.
pub(crate) fn walk(release: &Release, filter: &str, verbose: bool) -> Result<bool> {
    println!("a crash of the stub at each place in QEMU …");
    boot(release, Kind::Soak, &format!("crash-walk {filter}\n"), verbose)
}

fn boot(release: &Release, kind: Kind, plan: &str, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    let tally = full::boot(&Images::build(release)?, release, kind, plan, CPUS, verbose)?;
    println!("{}", tally.short());
    Ok(tally.is_good())
}
