//! The broker, as a process that cases start, stop and kill.

use std::{
    fs::{self, OpenOptions},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{fixture::Fixture, services::SHARE};

/// How often the log is looked at while waiting for the broker.
const STEP: Duration = Duration::from_millis(10);

/// A running `pcidom serve`, which dies with this value.
pub(crate) struct Broker(Child);

impl Broker {
    /// Starts it and waits until it serves.
    fn start(deadline: Instant) -> Result<Self> {
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

/// What all brokers of this boot have said.
fn log_text() -> Result<String> {
    Ok(fs::read_to_string(log_path())?)
}

impl Fixture {
    /// The broker, started where none runs.
    pub(crate) fn broker(&mut self) -> Result<&Broker> {
        let running =
            self.broker.take().and_then(|mut broker| matches!(broker.0.try_wait(), Ok(None)).then_some(broker));
        let broker = match running {
            Some(broker) => broker,
            None => Broker::start(self.deadline)?,
        };
        Ok(self.broker.insert(broker))
    }

    /// The broker's process.
    pub(crate) fn broker_pid(&mut self) -> Result<u32> {
        Ok(self.broker()?.0.id())
    }

    /// Kills the broker with SIGKILL, if one runs.
    pub(crate) fn kill_broker(&mut self) {
        self.broker = None;
    }

    /// What brokers say while `work` is done.
    pub(crate) fn broker_lines(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Vec<String>> {
        self.broker()?;
        let before = log_text()?.len();
        work(self)?;
        Ok(log_text()?.get(before..).unwrap_or_default().lines().map(str::to_owned).collect())
    }
}
