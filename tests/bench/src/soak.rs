//! `make soak`: devices come and go thousands of times, and nothing grows. In a boot of its own.

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
    let _lock = layout::lock()?;
    let tally = full::boot(&Images::build(release)?, release, Kind::Soak, &format!("soak {cycles}\n"), CPUS, verbose)?;
    println!("{}", tally.short());
    Ok(tally.is_good())
}
