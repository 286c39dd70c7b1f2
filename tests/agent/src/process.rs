//! Runs programs with a deadline.

use std::{
    io::Read,
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Output and exit status of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit status.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its error output, as text.
    pub(crate) stderr: String,
}

impl Outcome {
    /// The exit code; a program killed by a signal has 128 and the signal's number, as in a shell.
    pub(crate) fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Whether the console is told how long each program took.
static TELLS: AtomicBool = AtomicBool::new(true);

/// From now on the console is told nothing: a line takes time too, which is not that of what is measured.
pub(crate) fn tell_nothing() {
    TELLS.store(false, Ordering::Relaxed);
}

/// Runs `command` until it ends or `deadline` comes; then it is killed, which is an error.
pub(crate) fn run(command: &mut Command, deadline: Instant) -> Result<Outcome> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let stdout = child.stdout.take().map(read_all).context("no pipe")?;
    let stderr = child.stderr.take().map(read_all).context("no pipe")?;
    // Sleeping on the process itself: polling would show in what some cases measure.
    let pid = Pid::from_child(&child);
    let ended = wait_readable(pidfd_open(pid, PidfdFlags::empty())?, deadline)?;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    if !ended {
        bail!("{command:?} did not end in time");
    }
    if TELLS.load(Ordering::Relaxed) {
        println!("agent: {command:?} took {} ms", started.elapsed().as_millis());
    }
    let collect = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (collect(stdout), String::from_utf8_lossy(&collect(stderr)).into_owned());
    Ok(Outcome { status, stdout, stderr })
}

/// Runs `command`, which must succeed, and returns its output.
pub(crate) fn check(command: &mut Command, deadline: Instant) -> Result<String> {
    let outcome = run(command, deadline)?;
    if !outcome.status.success() {
        bail!("{command:?}: {}: {}", outcome.status, outcome.stderr.trim());
    }
    Ok(outcome.text())
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error ends the output like its end does.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits until `fd` can be read; false when `deadline` came first.
pub(crate) fn wait_readable(fd: impl std::os::fd::AsFd, deadline: Instant) -> std::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
