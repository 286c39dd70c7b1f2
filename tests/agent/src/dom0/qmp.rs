//! Asking the host to do something to the machine (`tests/bench/src/qmp.rs`).

use std::{fs, fs::OpenOptions, io::Write, thread, time::Duration};

use anyhow::{Result, bail, ensure};

use super::{
    fixture::Fixture,
    report::{self, BenchError},
    services::SHARE,
};

/// How often the answer is looked for: the shared folder tells nobody of new files.
const STEP: Duration = Duration::from_millis(20);

impl Fixture {
    /// Has QEMU carry out a command, given with its arguments as JSON. What goes wrong here is the bench's error.
    pub(crate) fn qmp(&mut self, command: &str, arguments: &str) -> Result<()> {
        self.ask_host(command, arguments).map_err(|error| BenchError(format!("{error:#}")).into())
    }

    fn ask_host(&mut self, command: &str, arguments: &str) -> Result<()> {
        self.requests += 1;
        let number = self.requests;
        let mut report = OpenOptions::new().append(true).open(report::path())?;
        let request = format!(r#"{{"execute": "{command}", "arguments": {arguments}}}"#);
        report.write_all(format!("qmp {number} {request}\n").as_bytes())?;
        let file = format!("{SHARE}/qmp-{number}");
        while !fs::exists(&file)? {
            ensure!(std::time::Instant::now() < self.deadline, "the host did not answer {request}");
            thread::sleep(STEP);
        }
        let answer = fs::read_to_string(&file)?;
        fs::remove_file(&file)?;
        if !answer.starts_with("{\"return\"") {
            bail!("{request}: {}", answer.trim());
        }
        Ok(())
    }
}
