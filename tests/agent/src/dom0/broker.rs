//! The broker, as a process that cases start, stop and kill.

use std::{
    fs::{self, OpenOptions},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::services::SHARE;

/// How often the log is looked at while waiting for the broker.
const STEP: Duration = Duration::from_millis(10);

/// A running `pcidom serve`, which dies with this value.
pub(crate) struct Broker(Child);

impl Broker {
    /// Starts it and waits until it serves.
    pub(super) fn start(deadline: Instant) -> Result<Self> {
        let path = log_path();
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let before = log_text()?.len();
        let child =
            Command::new("pcidom").arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let mut broker = Self(child);
        while !log_text()?.get(before..).unwrap_or_default().contains("serving") {
            if let Some(status) = broker.0.try_wait()? {
                bail!("`pcidom serve` ended with {status}: {}", log_text()?.get(before..).unwrap_or_default().trim());
            }
            ensure!(Instant::now() < deadline, "`pcidom serve` does not say that it serves");
            thread::sleep(STEP);
        }
        Ok(broker)
    }

    /// Whether it has not ended.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process as well; one that has ended already needs nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_path() -> String {
    format!("{SHARE}/broker.log")
}

/// Log of all brokers of this boot.
pub(super) fn log_text() -> Result<String> {
    Ok(fs::read_to_string(log_path())?)
}
