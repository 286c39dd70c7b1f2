//! Where the bench keeps its files, all relative to the repository's root, which is the current directory: paths stay short
//! in logs, and QEMU's `-initrd` list, which splits at commas and blanks, sees none of those.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

use crate::release::Release;

/// The stub's image.
pub(crate) const STUB_IMAGE: &str = "build/pcidom.elf";
/// The kernel's self-test image.
pub(crate) const SELFTEST_IMAGE: &str = "build/selftest.elf";
/// The image of a stub that misbehaves.
pub(crate) const MALICIOUS_STUB_IMAGE: &str = "build/malicious-stub.elf";
/// The image of a small guest with the driver of another system.
pub(crate) const FRONTEND_IMAGE: &str = "build/frontend.elf";
/// The stub's image with counters of its hypercalls and its own time.
pub(crate) const COUNTING_IMAGE: &str = "build/pcidom-counting.elf";
/// The stub's image that crashes where a case wants it.
pub(crate) const FAULTS_IMAGE: &str = "build/pcidom-faults.elf";
/// The figures of the last `make bench`.
pub(crate) const FIGURES: &str = "build/bench.json";
/// The chart made of them.
pub(crate) const CHART: &str = "build/bench.svg";
/// Figures by the instruction clock to compare with.
pub(crate) const REFERENCE: &str = "tests/bench/reference.json";
/// The `pcidom` command.
pub(crate) const TOOL: &str = "build/pcidom";
/// The program that drives the cases in dom0 and answers in guests.
pub(crate) const AGENT: &str = "build/bench/agent";

/// The folder for everything of one Debian release.
pub(crate) fn release_dir(release: &Release) -> PathBuf {
    PathBuf::from(format!("build/bench/debian-{}", release.number))
}

/// The folder for one run's logs.
pub(crate) fn log_dir(run: &str) -> PathBuf {
    PathBuf::from("build/bench/logs").join(run)
}

/// Makes a folder for logs empty. What an earlier run left there is dropped, unless that run failed: then it moves aside and
/// is kept until `make clean`.
pub(crate) fn prepare_logs(dir: &Path) -> Result<()> {
    if dir.join(FAILED).exists() {
        let when = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        std::fs::rename(dir, dir.with_extension(format!("failed-{when}")))?;
    } else if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

/// Marks a run's logs as worth keeping.
pub(crate) fn keep_logs(dir: &Path) -> Result<()> {
    Ok(std::fs::write(dir.join(FAILED), "")?)
}

const FAILED: &str = "failed";

/// Lets one run at a time use the bench's files (and the machine, for what it measures). Held until dropped.
pub(crate) fn lock() -> Result<File> {
    std::fs::create_dir_all("build/bench")?;
    let file = File::create("build/bench/lock")?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        eprintln!("bench: waiting for another run to end");
        file.lock()?;
    }
    Ok(file)
}

/// Checks that the current directory is the repository's root.
pub(crate) fn check_current_dir() -> Result<()> {
    ensure!(Path::new("tests/bench/Cargo.toml").exists(), "run the bench from the repository's root (or use make)");
    Ok(())
}
