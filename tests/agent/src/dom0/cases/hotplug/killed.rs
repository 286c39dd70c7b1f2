//! The command is killed at each of its steps, and the next command finishes or undoes it.

use std::{
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
    &[Case::within(Duration::from_mins(8), "an_attach_and_a_detach_killed_at_any_step_are_put_right", killed)];

/// How a command ended that was to be killed.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    /// It had no more to say.
    Done,
}

/// The guest keeps a device that nothing happens to, and another one comes and goes.
fn killed(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000])?;
    fixture.in_pool(EDU)?;
    let (mut at_attach, mut at_detach) = (0, 0);
    let (mut attaching, mut detaching) = (true, true);
    // Before its first line it has done nothing, and behind its last it is done.
    for step in 0.. {
        if !attaching && !detaching {
            break;
        }
        if attaching {
            attaching = kill_at(fixture, &guest, "attach", step)? == End::Killed;
            recovered(fixture, &guest).with_context(|| format!("attach killed at line {step}"))?;
            at_attach += u32::from(attaching);
        }
        fixture.having(ONE, &[E1000, EDU]).with_context(|| format!("attach after a kill at line {step}"))?;
        if detaching {
            detaching = kill_at(fixture, &guest, "detach", step)? == End::Killed;
            recovered(fixture, &guest).with_context(|| format!("detach killed at line {step}"))?;
            at_detach += u32::from(detaching);
        }
        fixture.having(ONE, &[E1000]).with_context(|| format!("detach after a kill at line {step}"))?;
    }
    println!("agent: attach killed at {at_attach} steps, detach at {at_detach}: all were put right");
    ensure!(at_attach > 5 && at_detach > 5, "the tool hardly says what it does");
    fixture.expect_in_guest(&guest, &[E1000])?;
    fixture.expect_free(EDU)
}

/// Starts `pcidom -v COMMAND` for the device and kills it when it has said so many lines and begins another.
fn kill_at(fixture: &Fixture, guest: &Domain, command: &str, lines: usize) -> Result<End> {
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
        if said == lines {
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
            return Ok(End::Done);
        }
        // What stands in the pipe is where it was.
        let count = reader.read(&mut buffer)?;
        let next = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
        println!("agent: {command} killed behind {:?}, before {next:?}", text.lines().last().unwrap_or_default());
    }
    result
}

/// The next command has put everything right: the guest has the device, or the pool has it, and the other one works.
fn recovered(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    fixture.pcidom(&["reclaim"])?;
    fixture.expect_connected(guest)?;
    fixture.expect_readable(guest, E1000)?;
    let devices: Vec<String> = fixture.entries(guest)?.into_iter().map(|entry| entry.device).collect();
    if devices == [E1000, EDU] {
        return fixture.expect_in_guest(guest, &[E1000, EDU]);
    }
    fixture.expect_in_guest(guest, &[E1000])?;
    fixture.expect_free(EDU)
}
