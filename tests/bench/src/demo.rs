//! `make run`: the main job, shown on the bench.

use anyhow::{Result, ensure};

use crate::{
    boot::{Boot, CPUS, Kind},
    images::Images,
    layout,
    release::Release,
};

/// The line that the agent ends a successful demonstration with.
const DONE: &str = "done";

/// Boots and shows what the agent does.
pub(crate) fn run(release: &Release, verbose: bool) -> Result<bool> {
    println!("Xen with Debian {} in QEMU (emulated, so everything takes its time) …", release.number);
    let _lock = layout::lock()?;
    let images = Images::build(release)?;
    let mut done = false;
    let boot = Boot {
        images: &images,
        name: format!("demo-{}", release.number),
        plan: "demo\n".into(),
        kind: Kind::Full,
        cpus: CPUS,
        verbose,
    };
    let result = boot.run(&mut |line| if line == DONE { done = true } else { println!("{line}") });
    if result.is_err() || !done {
        layout::keep_logs(&boot.log_dir())?;
    }
    result?;
    ensure!(done, "the demonstration stopped early; consoles are in {}", boot.log_dir().display());
    Ok(true)
}
