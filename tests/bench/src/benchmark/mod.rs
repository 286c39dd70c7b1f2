//! `make bench`: pcidom and Linux's xen-pciback measured in turn on one machine, as a table and a file.
//!
//! The agent in dom0 measures and reports (`tests/agent/src/dom0/benchmark/`); here the samples become figures. What they mean and how far
//! they can be trusted is in `docs/performance.md`.

mod chart;
mod file;
mod goals;
mod host;
mod reference;
mod samples;
mod series;
mod table;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{
    boot::{Boot, CPUS, Kind},
    images::Images,
    layout,
    release::Release,
};
pub(crate) use chart::run as chart;
use file::FigureFile;
use samples::Samples;

/// Which time to measure in.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Clocks {
    /// Real time, then the instruction clock.
    Both,
    /// Real time on two CPUs.
    Real,
    /// The instruction clock on one CPU: the same figures each time.
    Instructions,
}

/// What to measure.
pub(crate) struct Plan<'a> {
    /// In which time.
    pub(crate) clocks: Clocks,
    /// How often each of the two is measured in real time.
    pub(crate) rounds: u32,
    /// Groups of figures, with commas between them; all if empty.
    pub(crate) only: &'a str,
    /// What the instruction clock gives becomes what later runs are compared with.
    pub(crate) keep: bool,
}

impl Plan<'_> {
    fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.split(',').any(|wanted| wanted == group)
    }
}

/// Most rounds where more would tell little: by the instruction clock, which gives the same each time but for how timers fall, and with a scale.
const FEW_ROUNDS: u32 = 3;

/// Measures; true when everything that was asked for was measured.
pub(crate) fn run(release: &Release, plan: &Plan<'_>, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    let images = Images::build(release)?;
    let mut samples = Samples::default();
    let mut complete = true;
    let few = plan.rounds.min(FEW_ROUNDS);
    let scenes = [
        ("instructions", Kind::Instructions, few),
        ("benchmark", Kind::Benchmark, plan.rounds),
        ("scale-benchmark", Kind::Scale, few),
    ];
    for (scene, kind, rounds) in scenes {
        let left_out = if kind == Kind::Instructions { Clocks::Real } else { Clocks::Instructions };
        if plan.clocks == left_out
            || kind == Kind::Scale && !plan.wants("scale") && !plan.wants("restart")
            || plan.only == "scale" && kind != Kind::Scale
        {
            continue;
        }
        let name = format!("{scene}-{}", release.number);
        println!("bench: {scene} with Debian {}, {rounds} rounds (minutes) …", release.number);
        let plan_line = format!("{scene} {rounds} {}\n", plan.only);
        let boot = Boot { images: &images, name, plan: plan_line, kind, cpus: CPUS, verbose };
        complete &= measure(&boot, &mut samples)?;
    }
    let figures = FigureFile { metrics: samples.figures(), host: host::describe(release)? };
    ensure!(!figures.metrics.is_empty(), "nothing was measured");
    let path = Path::new(layout::FIGURES);
    figures.write(path)?;
    println!("\n{}", table::of(&figures.metrics));
    let reference = Path::new(layout::REFERENCE);
    if reference.exists() {
        print!("{}", reference::difference(&FigureFile::read(reference)?, &figures));
    }
    if plan.keep {
        reference::of(&figures).write(reference)?;
    }
    println!("{} figures, also in {}", figures.metrics.len(), path.display());
    Ok(complete)
}

/// One boot. False when it did not measure everything; what it did measure counts.
fn measure(boot: &Boot<'_>, samples: &mut Samples) -> Result<bool> {
    let (mut done, mut problems) = (false, 0);
    let result = boot.run(&mut |line| {
        if line == "done" {
            done = true;
        } else if let Some(problem) = line.strip_prefix("problem ") {
            problems += 1;
            println!("  not measured: {problem}");
        } else if let Some(progress) = line.strip_prefix("round ") {
            println!("  round {progress}");
        } else {
            samples.line(line);
        }
    });
    let complete = result.is_ok() && done && problems == 0;
    if let Err(error) = &result {
        eprintln!("bench: {error:#}");
    }
    if !complete {
        let dir = boot.log_dir();
        eprintln!("bench: consoles are in {}", dir.display());
        layout::keep_logs(&dir).context("keeping the logs")?;
    }
    Ok(complete)
}
