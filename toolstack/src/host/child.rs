//! Child processes with deadlines.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::host::terminal;

/// Time that a killed program may take to end. One that hangs in the kernel does not.
const UNTIL_KILLED: Duration = Duration::from_secs(5);

/// How often it is told that a program is still at work.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// A program at work. What it says goes to files without names, so that nobody waits for whoever inherits its output.
pub(crate) struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

/// A program that did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late;

impl Running {
    /// Starts it, in a process group of its own: what is typed at the terminal is for the command, which decides at its next safe point.
    ///
    /// # Errors
    /// Those of the kernel: no such program, no memory.
    pub(crate) fn start(command: &mut Command, input: Stdio) -> io::Result<Self> {
        let [stdout, stderr] = [output_file()?, output_file()?];
        let child =
            command.process_group(0).stdin(input).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).spawn()?;
        Ok(Self { child, stdout, stderr })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The outer ones are the kernel's.
    pub(crate) fn wait(&mut self, limit: Duration) -> io::Result<Result<Output, Late>> {
        let Some(status) = self.ended(limit)? else { return Ok(Err(Late)) };
        let read = |mut file: &File| {
            let mut content = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut content)?;
            Ok::<_, io::Error>(content)
        };
        Ok(Ok(Output { status, stdout: read(&self.stdout)?, stderr: read(&self.stderr)? }))
    }

    /// Ends it.
    pub(crate) fn kill(mut self) {
        // It may have ended by itself just now; one that is inside of the kernel goes on until it comes out.
        let _ = self.child.kill();
        let _ = self.ended(UNTIL_KILLED);
    }

    fn ended(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        // Without a file for it, waiting is without end: Linux has had them since 5.3.
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            terminal::still_waiting();
            let left = left.min(SHOWN_EVERY);
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn output_file() -> io::Result<File> {
    Ok(File::from(memfd_create("pcidom-output", MemfdFlags::CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", script]), Stdio::null()).unwrap()
    }

    #[test]
    fn what_a_program_says_is_there_at_its_end() {
        let output = start("echo out; echo err >&2; exit 3").wait(Duration::from_mins(1)).unwrap().unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(output.status.code(), Some(3));
        // Nor is one waited for that goes on in its name.
        let output = start("sleep 30 & echo $!").wait(Duration::from_secs(20)).unwrap().unwrap();
        let pid = String::from_utf8(output.stdout).unwrap();
        assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    }

    #[test]
    fn one_that_does_not_end_is_late_and_can_be_ended() {
        let mut program = start("exec sleep 30");
        let pid = program.child.id();
        assert_eq!(program.wait(Duration::from_millis(10)).unwrap().unwrap_err(), Late);
        program.kill();
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
