//! The command is killed at every other of its steps, and the next command finishes or undoes it. (On the host it is killed at each:
//! `toolstack/src/tests/killed.rs`.)

use std::{
    fmt,
    fs::File,
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::{Case, ONE};
use crate::{
    dom0::{
        devices::{E1000, EDU},
        fixture::Fixture,
        guests::Domain,
    },
    process::wait_readable,
};

pub(in super::super) const CASES: &[Case] =
    &[Case::within(Duration::from_mins(8), "an_attach_and_a_detach_killed_at_every_other_step_are_put_right", killed)];

/// Lines from one kill to the next.
const EVERY: usize = 2;

/// How a command that was to be killed ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    /// It had no more to say.
    Done,
}

/// The guest keeps a device that nothing happens to, and another one comes and goes. Where a killed command left the device decides which one is killed next, so that there is seldom
/// a whole attach or detach between two that are killed.
fn killed(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000])?;
    fixture.in_pool(EDU)?;
    let mut attach = Sweep::new("attach");
    let mut detach = Sweep::new("detach");
    let mut is_attached = false;
    while !attach.is_over || !detach.is_over {
        let sweep = if is_attached { &mut detach } else { &mut attach };
        if sweep.is_over {
            // The other one is to be killed at later steps.
            let wanted: &[&str] = if is_attached { &[E1000] } else { &[E1000, EDU] };
            fixture.having(ONE, wanted).with_context(|| format!("after a kill: {sweep}"))?;
            is_attached = !is_attached;
            continue;
        }
        let (end, line) = kill_at(fixture, &guest, sweep.command, sweep.line)?;
        is_attached = recovered(fixture, &guest).with_context(|| format!("{sweep} was killed"))?;
        sweep.is_over = end == End::Done;
        sweep.kills += u32::from(end == End::Killed);
        sweep.line = line + EVERY;
    }
    println!("agent: attach killed at {} steps, detach at {}: all were put right", attach.kills, detach.kills);
    ensure!(attach.kills > 6 && detach.kills > 6, "the tool hardly says what it does");
    fixture.having(ONE, &[E1000])?;
    fixture.expect_in_guest(&guest, &[E1000])?;
    fixture.expect_free(EDU)
}

/// A command that is killed behind one after the other of its lines that tell of a change. (Before its first line it has done nothing, and behind its last it
/// is done.)
struct Sweep {
    command: &'static str,
    /// Lines behind which it is killed next, at the earliest.
    line: usize,
    kills: u32,
    is_over: bool,
}

impl Sweep {
    fn new(command: &'static str) -> Self {
        Self { command, line: 0, kills: 0, is_over: false }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}", self.command, self.line)
    }
}

/// Whether a line of `pcidom -v` tells of something that was looked at: the first sight of a state, or a remark. What comes next begins where the line
/// before it has ended.
fn tells_no_change(line: &str) -> bool {
    let is_state = line.split_once(" ms  ").is_some_and(|(_, text)| text.starts_with('/'));
    line.starts_with("pcidom: note: ") || (is_state && !line.contains(" -> "))
}

/// Starts `pcidom -v COMMAND` for the device and kills it when it has said so many lines, or a few more until one tells of a change, and begins another.
/// How many lines it had said.
fn kill_at(fixture: &Fixture, guest: &Domain, command: &str, lines: usize) -> Result<(End, usize)> {
    // In a pipe of packets with room for one, each write waits until the one before was read: it cannot run ahead.
    let (reader, writer) = pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&reader, 4096)?;
    let mut reader = File::from(reader);
    let mut child = Command::new("pcidom")
        .args(["-v", command, &guest.name, EDU])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(writer))
        .spawn()?;
    let (mut said, mut text, mut buffer) = (0, String::new(), [0; 4096]);
    let result = loop {
        if !wait_readable(&reader, fixture.deadline)? {
            break Err(anyhow!("it says nothing after {said} lines"));
        }
        // A line comes in several packets.
        let is_whole = text.is_empty() || text.ends_with('\n');
        if said >= lines && is_whole && !text.lines().last().is_some_and(tells_no_change) {
            break Ok(End::Killed);
        }
        let packet = match reader.read(&mut buffer)? {
            0 => break Ok(End::Done),
            count => buffer.get(..count).unwrap_or_default(),
        };
        said += packet.iter().filter(|byte| **byte == b'\n').count();
        text += &String::from_utf8_lossy(packet);
    };
    if matches!(result, Ok(End::Done)) {
        ensure!(child.wait()?.success(), "{command} failed: {text}");
    } else {
        child.kill()?;
        // It may have said its last line.
        if child.wait()?.success() {
            return Ok((End::Done, said));
        }
        // What stands in the pipe is where it was.
        let count = reader.read(&mut buffer)?;
        let next = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
        println!("agent: {command} killed behind {:?}, before {next:?}", text.lines().last().unwrap_or_default());
    }
    Ok((result?, said))
}

/// The next command has put everything right: the guest has the device (then true), or the pool has it, and the other one works.
fn recovered(fixture: &mut Fixture, guest: &Domain) -> Result<bool> {
    fixture.pcidom(&["reclaim"])?;
    fixture.expect_connected(guest)?;
    let devices: Vec<String> = fixture.entries(guest)?.into_iter().map(|entry| entry.device).collect();
    if devices == [E1000, EDU] {
        fixture.expect_in_guest(guest, &[E1000, EDU])?;
        return Ok(true);
    }
    fixture.expect_in_guest(guest, &[E1000])?;
    fixture.expect_free(EDU)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_tell_of_changes_are_told_from_others() {
        for line in [
            "    558 ms  reserve 0000:00:06.0 for one (domain 4)",
            "    785 ms  /local/domain/1/backend/pci/4/0/state: 4 Connected -> 7 Reconfiguring",
            "   1177 ms  /local/domain/1/pool/0000-00-06-0/state: assigned 4 -> free",
        ] {
            assert!(!tells_no_change(line), "{line}");
        }
        for line in [
            "    365 ms  /local/domain/4/device/pci/0/state: 4 Connected",
            "    630 ms  /local/domain/1/pool/0000-00-06-0/state: assigned 4",
            "pcidom: note: waiting for another pcidom command to end",
        ] {
            assert!(tells_no_change(line), "{line}");
        }
    }
}
