//! Commands interrupted by signals while they have a guest paused, or wait for one: the guest is unpaused, and the
//! operation is finished or undone by the command or by the broker.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Case;
use crate::dom0::{
    devices::{E1000, EDU, component},
    fixture::Fixture,
    guests::Domain,
};

pub(super) const CASES: &[Case] = &[
    case("a_detach_stops_no_guest_but_the_one_that_had_the_device", stops_no_other),
    case("a_detach_does_not_fill_the_messages_of_xen", fills_no_messages),
    case("a_detach_told_to_stop_while_its_guest_stands_still_lets_it_go_on", told_to_stop),
    case("a_detach_told_to_stop_while_it_waits_for_its_guest_did_not_happen", told_while_waiting),
    case("a_guest_goes_on_by_itself_when_the_command_that_stopped_it_was_killed", killed),
    case("a_guest_that_the_admin_stopped_stays_so_whatever_is_killed", admins_stop),
];

/// They may have to boot guests.
const fn case(name: &'static str, run: fn(&mut Fixture) -> Result<()>) -> Case {
    Case::within(Duration::from_mins(4), name, run)
}

const NAME: &str = "one";
/// Two more, which have no device.
const OTHERS: [&str; 2] = ["two", "three"];

/// Whether a domain stands still, by the letters that `xl list` shows: `r-----`, `-b----`, `--p---`.
fn stands(fixture: &Fixture, guest: &Domain) -> Result<bool> {
    let list = fixture.xl(&["list", &guest.name])?;
    let line = list.lines().last().context("xl lists nothing")?;
    let state = line.split_whitespace().nth(4).with_context(|| format!("no state in {line:?}"))?;
    Ok(state.contains('p'))
}

/// Begins to detach the device, and waits until the guest stands still because it is looked through.
fn looking_through(fixture: &mut Fixture, guest: &Domain) -> Result<Child> {
    let node = paused_node(guest);
    let child = begin(&["detach", NAME, EDU])?;
    let deadline = fixture.deadline;
    let is_paused = |value: Option<&str>| value.is_some_and(|value| value.contains(" paused "));
    fixture.store.wait_for(&node, deadline, is_paused).context("it was not stopped")?;
    Ok(child)
}

fn paused_node(guest: &Domain) -> String {
    format!("/tool/pcidom/paused/{}", guest.id)
}

fn begin(arguments: &[&str]) -> Result<Child> {
    let command = Command::new("pcidom").args(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    command.context("starting pcidom")
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill_process(Pid::from_child(child), signal)?)
}

/// How a command ended, and what it said.
fn end(child: Child) -> Result<(ExitStatus, String)> {
    let output = child.wait_with_output()?;
    Ok((output.status, String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn ended_by(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    status.signal()
}

fn stops_no_other(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(NAME, &[E1000, EDU])?;
    for name in OTHERS {
        fixture.running(name)?;
    }
    let looked = |fixture: &Fixture, options: &[&str]| -> Result<Vec<String>> {
        let outcome = fixture.try_pcidom(&[&["-v", "detach"], options, &[NAME, EDU]].concat())?;
        ensure!(outcome.code() == 0, "detach ended with {}: {}", outcome.code(), outcome.stderr);
        let lines = outcome.stderr.lines().filter(|line| line.contains("looked through"));
        Ok(lines.inspect(|line| println!("agent: {}", line.trim())).map(str::to_owned).collect())
    };
    let lines = looked(fixture, &[])?;
    ensure!(lines.len() == 1 && lines[0].contains(&format!("through {NAME} (domain {})", guest.id)), "{lines:?}");
    fixture.attach(&guest, &[EDU])?;
    let lines = looked(fixture, &["--audit=all"])?;
    for name in OTHERS {
        ensure!(lines.iter().any(|line| line.contains(&format!("through {name} "))), "not {name}: {lines:?}");
    }
    fixture.attach(&guest, &[EDU])?;
    ensure!(looked(fixture, &["--audit=none"])?.is_empty(), "somebody was looked through");
    fixture.expect_free(EDU)
}

/// With every message of Xen's about guests printed.
fn fills_no_messages(fixture: &mut Fixture) -> Result<()> {
    /// A guest may have mapped a frame of somebody else's.
    const FEW: usize = 8;
    fixture.having(NAME, &[E1000, EDU])?;
    fixture.xl(&["set-parameters", "guest_loglvl=all"])?;
    fixture.xl(&["dmesg", "-c"])?;
    let detached = fixture.pcidom(&["detach", NAME, EDU]);
    let messages = fixture.xl(&["dmesg"]);
    fixture.xl(&["set-parameters", "guest_loglvl=warning"])?;
    detached?;
    let messages = messages?;
    let count = messages.lines().filter(|line| line.contains("Error mfn")).count();
    println!("agent: a detach had Xen print {count} lines about frames, of {} in all", messages.lines().count());
    ensure!(count <= FEW, "{count} lines about frames: {messages}");
    Ok(())
}

fn told_to_stop(fixture: &mut Fixture) -> Result<()> {
    for (which, name) in
        [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM"), (Signal::HUP, "SIGHUP"), (Signal::QUIT, "SIGQUIT")]
    {
        let guest = fixture.having(NAME, &[E1000, EDU])?;
        let child = looking_through(fixture, &guest)?;
        signal(&child, which)?;
        let (status, said) = end(child)?;
        ensure!(status.success(), "{name}: detach ended with {status}: {said}");
        ensure!(said.contains(&format!("{name} came too late")), "{name}: it says {said:?}");
        ensure!(!stands(fixture, &guest)?, "{name}: the guest stands still");
        fixture.expect_free(EDU)?;
        fixture.expect_readable(&guest, E1000)?;
    }
    Ok(())
}

/// The admin has stopped the guest, so it cannot answer.
fn told_while_waiting(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(NAME, &[E1000, EDU])?;
    fixture.xl(&["pause", NAME])?;
    let child = begin(&["detach", NAME, EDU])?;
    fixture.await_backend(&guest, "7")?;
    let told = Instant::now();
    signal(&child, Signal::INT)?;
    let (status, said) = end(child)?;
    let took = told.elapsed();
    println!("agent: a detach that waited stopped {} ms after SIGINT: {said:?}", took.as_millis());
    ensure!(ended_by(status) == Some(2) && said.contains("interrupted by SIGINT"), "it ended with {status}: {said}");
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    ensure!(stands(fixture, &guest)?, "the guest runs, which the admin had stopped");
    fixture.xl(&["unpause", NAME])?;
    fixture.await_backend(&guest, "4")?;
    fixture.expect_connected(&guest)?;
    fixture.expect_in_guest(&guest, &[E1000, EDU])
}

fn killed(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(NAME, &[E1000, EDU])?;
    let child = looking_through(fixture, &guest)?;
    signal(&child, Signal::KILL)?;
    let died = Instant::now();
    let (status, said) = end(child)?;
    ensure!(ended_by(status) == Some(9), "it was not killed in time: {status}: {said}");
    // No command is given from here on. The note goes when the guest was let go on. On an idle machine that takes less than a second; the limit is for
    // one that has much else to do.
    let deadline = fixture.deadline;
    fixture.store.wait_for(&paused_node(&guest), deadline, |value| value.is_none())?;
    let took = died.elapsed();
    println!("agent: the guest ran again {} ms after the command was killed", took.as_millis());
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    // Whoever takes the device back looks through it once more, and may be at that.
    while stands(fixture, &guest)? {
        ensure!(died.elapsed() < Duration::from_secs(10), "the guest stands still");
    }
    // The rest is finished too.
    let phase = format!("/tool/pcidom/device/{}/phase", component(EDU));
    fixture.store.wait_for(&phase, deadline, |phase| phase == Some("pool"))?;
    fixture.store.wait_for("/tool/pcidom/command", deadline, |value| value.is_none())?;
    fixture.expect_free(EDU)?;
    fixture.expect_readable(&guest, E1000)
}

fn admins_stop(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(NAME, &[E1000, EDU])?;
    // Before the command has stopped it, and then after it was killed.
    let child = looking_through(fixture, &guest)?;
    signal(&child, Signal::KILL)?;
    fixture.xl(&["pause", NAME])?;
    let (status, said) = end(child)?;
    ensure!(ended_by(status) == Some(9), "it was not killed in time: {status}: {said}");
    let deadline = fixture.deadline;
    fixture.store.wait_for(&paused_node(&guest), deadline, |value| value.is_none())?;
    fixture.store.wait_for("/tool/pcidom/command", deadline, |value| value.is_none())?;
    fixture.pcidom(&["reclaim"])?;
    ensure!(stands(fixture, &guest)?, "the guest runs, which the admin had stopped");
    fixture.xl(&["unpause", NAME])?;
    ensure!(!stands(fixture, &guest)?, "the guest still stands");
    fixture.expect_free(EDU)?;
    fixture.expect_readable(&guest, E1000)
}
