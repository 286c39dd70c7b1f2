//! QMP commands to the running machine on behalf of a case (`docs/interop/qmp-spec.txt` in QEMU's source).
//!
//! A line `qmp NUMBER COMMAND` of the agent's report asks; QEMU's answer goes to the file `qmp-NUMBER` of the shared folder. Commands and
//! answers are QEMU's, one JSON object a line, and pass through as they are.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

/// QEMU answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connection to a machine, made when something is asked for.
pub(crate) struct Qmp {
    socket: PathBuf,
    share: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Qmp {
    /// For the machine that listens at `socket` and has the folder `share`.
    pub(crate) fn new(socket: &Path, share: &Path) -> Self {
        Self { socket: socket.to_owned(), share: share.to_owned(), stream: None }
    }

    /// Has QEMU do what `NUMBER COMMAND` asks for. What goes wrong here is an answer, too.
    pub(crate) fn obey(&mut self, request: &str) {
        let (number, command) = request.split_once(' ').unwrap_or((request, ""));
        let answer = self.execute(command).unwrap_or_else(|error| format!("bench: {error:#}"));
        if let Err(error) = self.reply(number, &answer) {
            eprintln!("bench: answering {request:?}: {error:#}");
        }
    }

    fn execute(&mut self, command: &str) -> Result<String> {
        if self.stream.is_none() {
            let stream = UnixStream::connect(&self.socket).context("connecting to QEMU")?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut stream = BufReader::new(stream);
            // It greets, and takes nothing else before this.
            stream.read_line(&mut String::new())?;
            send(&mut stream, r#"{"execute": "qmp_capabilities"}"#)?;
            self.stream = Some(stream);
        }
        send(self.stream.as_mut().context("no stream")?, command)
    }

    /// The file appears whole.
    fn reply(&self, number: &str, answer: &str) -> Result<()> {
        let (part, whole) = (self.share.join("qmp-part"), self.share.join(format!("qmp-{number}")));
        fs::write(&part, answer)?;
        Ok(fs::rename(part, whole)?)
    }
}

/// Sends a command and returns the answer to it. Events, which come at any time, are left out.
fn send(stream: &mut BufReader<UnixStream>, command: &str) -> Result<String> {
    stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).with_context(|| format!("QEMU does not answer {command}"))?;
        if ["{\"return\"", "{\"error\""].iter().any(|start| line.starts_with(start)) {
            return Ok(line);
        }
        anyhow::ensure!(!line.is_empty(), "QEMU has gone");
    }
}
