//! An attach that runs in the background of a case.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::guests::Domain;

/// The command while it waits for a frontend.
pub(crate) struct Attaching(Child);

impl Attaching {
    /// Starts it.
    pub(crate) fn start(guest: &Domain, device: &str) -> Result<Self> {
        let mut command = Command::new("pcidom");
        command.args(["attach", &guest.name, device]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn()?))
    }

    /// It goes on waiting.
    pub(crate) fn expect_waiting(&mut self) -> Result<()> {
        let ended = self.0.try_wait()?;
        ensure!(ended.is_none(), "attach ended with {ended:?}");
        Ok(())
    }

    /// It ends well.
    pub(crate) fn finish(mut self, deadline: Instant) -> Result<()> {
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("attach ended with {status}"),
                None => ensure!(Instant::now() < deadline, "attach does not end"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
