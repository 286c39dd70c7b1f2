//! `make soak`: devices come and go thousands of times, and nothing grows. `make crash-soak`: the stub crashes thousands of times, and no guest notices.
//! `make error-soak`: a port reports a hundred errors, and a guest goes on. `make crash-walk`: it crashes at each place that it comes to. Each in a boot of its own.

use anyhow::{Context as _, Result};

use crate::{
    boot::{CPUS, Kind},
    full::{self, Rest},
    images::Images,
    layout,
    release::Release,
};

/// How many machines a soak may lose to crashes of QEMU 7.2, which come once in some minutes of it.
const MACHINES_LOST: u32 = 100;

/// Runs so many cycles and shows the figures of each hundred.
pub(crate) fn run(release: &Release, cycles: u32, verbose: bool) -> Result<bool> {
    println!("{cycles} cycles of attach and detach in QEMU …");
    boot(release, Kind::Soak, &format!("soak {cycles}\n"), what_is_left, verbose)
}

/// Crashes the stub so often, with two guests at work or with `many`, and shows the figures of each hundred.
pub(crate) fn crash(release: &Release, crashes: u32, many: bool, verbose: bool) -> Result<bool> {
    println!("{crashes} crashes of the stub in QEMU …");
    let (kind, plan) = if many { (Kind::ScaleSoak, "scale-crash-soak") } else { (Kind::Soak, "crash-soak") };
    boot(release, kind, &format!("{plan} {crashes}\n"), what_is_left, verbose)
}

/// Injects so many errors into a port, and shows the figures of each hundred.
pub(crate) fn errors(release: &Release, errors: u32, verbose: bool) -> Result<bool> {
    println!("{errors} errors of the hardware in QEMU …");
    boot(release, Kind::Soak, &format!("error-soak {errors}\n"), what_is_left, verbose)
}

/// Starts so many hostile frontends, and shows the figures of each ten.
pub(crate) fn hostile(release: &Release, guests: u32, verbose: bool) -> Result<bool> {
    println!("{guests} hostile frontends in QEMU …");
    boot(release, Kind::Soak, &format!("hostile-soak {guests}\n"), what_is_left, verbose)
}

/// Crashes the stub at each place, in the walks that `filter` is in the names of.
pub(crate) fn walk(release: &Release, filter: &str, verbose: bool) -> Result<bool> {
    println!("a crash of the stub at each place in QEMU …");
    boot(release, Kind::Soak, &format!("crash-walk case={filter}\n"), full::from_case, verbose)
}

/// The plan for what is left after so many were told of, the first word of `progress`.
fn what_is_left(plan: &str, _: &str, progress: Option<&str>) -> Result<String> {
    let Some(progress) = progress else { return Ok(plan.to_owned()) };
    let (kind, count) = plan.trim_end().split_once(' ').context("a plan without a count")?;
    let (count, done): (u32, u32) = (count.parse()?, progress.split(' ').next().unwrap_or_default().parse()?);
    Ok(format!("{kind} {}\n", count.saturating_sub(done)))
}

fn boot(release: &Release, kind: Kind, plan: &str, rest: Rest, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    let tally = full::boot(&Images::build(release)?, release, kind, plan, (MACHINES_LOST, rest), CPUS, verbose)?;
    println!("{}", tally.short());
    Ok(tally.is_good())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_does_what_is_left() {
        let left = |progress| what_is_left("crash-soak 1000\n", "case", progress).unwrap();
        assert_eq!(left(Some("400 crashes survived, one each 419 ms")), "crash-soak 600\n");
        assert_eq!(left(None), "crash-soak 1000\n");
        assert!(what_is_left("crash-soak 1000\n", "case", Some("no number")).is_err());
    }
}
