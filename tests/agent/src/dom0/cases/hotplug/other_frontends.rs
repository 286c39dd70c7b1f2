//! Frontends that are not Linux' and do what it never does (`tests/agent/src/frontend.rs`).

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    attaching::Attaching,
    devices::{self, E1000, EDU},
    fixture::Fixture,
    guests::{Domain, GuestOptions},
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_frontend_that_starts_anew_without_a_word_is_connected_again", starts_anew),
    Case::new("a_frontend_that_ignores_reconfiguring_runs_into_the_time_out_and_may_learn_it", ignores_reconfiguring),
    Case::new("a_frontend_that_stops_half_way_does_not_leave_the_backend_at_7", stops_half_way),
];

/// A guest with this frontend and one device.
fn guest(fixture: &mut Fixture) -> Result<Domain> {
    const NAME: &str = "other";
    fixture.broker()?;
    let stub = fixture.stub()?;
    if let Some(guest) = fixture.domains.iter().find(|domain| domain.name == NAME) {
        return Ok(guest.clone());
    }
    fixture.in_pool(E1000)?;
    let guest =
        fixture.create_guest(NAME, GuestOptions { modules: "xen-gntalloc,xen-evtchn", ..GuestOptions::default() })?;
    fixture.unpause(&guest)?;
    let attaching = Attaching::start(&guest, E1000)?;
    fixture.await_backend(&guest, "3")?;
    open(fixture, &guest, stub.id)?;
    attaching.finish(fixture.deadline)?;
    Ok(guest)
}

/// New page, new port: from 3 to 4.
fn open(fixture: &mut Fixture, guest: &Domain, stub: u16) -> Result<()> {
    fixture.in_guest(guest, &format!("front-open {stub}"))?;
    fixture.in_guest(guest, "front-state 3")?;
    fixture.await_backend(guest, "4")?;
    fixture.in_guest(guest, "front-state 4")?;
    reads(fixture, guest, "0000:00:00.0", E1000)
}

fn reads(fixture: &mut Fixture, guest: &Domain, address: &str, device: &str) -> Result<()> {
    let found = fixture.in_guest(guest, &format!("front-read {address} 0"))?;
    let wanted = format!("{:08x}", devices::ids(device)?);
    ensure!(found == wanted.as_bytes(), "it reads {:?}, not {wanted}", String::from_utf8_lossy(&found));
    Ok(())
}

/// As after a kexec: with the backend at 4, the next kernel begins at 1, or publishes new keys at once.
fn starts_anew(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture)?;
    let stub = fixture.stub()?;
    let before = fixture.entries(&guest)?;
    fixture.in_guest(&guest, "front-state 1")?;
    fixture.await_backend(&guest, "3")?;
    open(fixture, &guest, stub.id)?;
    fixture.in_guest(&guest, &format!("front-open {}", stub.id))?;
    fixture.in_guest(&guest, "front-state 3")?;
    // The backend was at 4 and may be so again before we look: that it connects shows in what the new page answers.
    fixture.in_guest(&guest, "sleep 1")?;
    fixture.await_backend(&guest, "4")?;
    fixture.in_guest(&guest, "front-state 4")?;
    reads(fixture, &guest, "0000:00:00.0", E1000)?;
    let after = fixture.entries(&guest)?;
    ensure!(before == after, "{before:?}, then {after:?}");
    Ok(())
}

/// As FreeBSD's of old.
fn ignores_reconfiguring(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture)?;
    fixture.in_pool(EDU)?;
    fixture.pcidom_fails(&["attach", "--timeout", "2", &guest.name, EDU], 3, "did not answer")?;
    fixture.expect_connected(&guest)?;
    fixture.expect_free(EDU)?;
    reads(fixture, &guest, "0000:00:00.0", E1000)?;
    // It learns.
    let attaching = Attaching::start(&guest, EDU)?;
    fixture.await_backend(&guest, "7")?;
    fixture.in_guest(&guest, "front-state 7")?;
    fixture.await_backend(&guest, "8")?;
    fixture.in_guest(&guest, "front-state 4")?;
    attaching.finish(fixture.deadline)?;
    reads(fixture, &guest, "0000:00:01.0", EDU)?;
    // And forgets again. By force, the device goes all the same, and is not there any more.
    fixture.pcidom_fails(&["detach", "--timeout", "2", &guest.name, EDU], 3, "did not answer")?;
    fixture.expect_connected(&guest)?;
    reads(fixture, &guest, "0000:00:01.0", EDU)?;
    fixture.pcidom(&["detach", "--force", "--timeout", "2", &guest.name, EDU])?;
    fixture.expect_connected(&guest)?;
    fixture.expect_free(EDU)?;
    let request = fixture.ask(&guest, "front-read 0000:00:01.0 0")?;
    let (code, said) = fixture.answer(&request)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(code != 0 || said == "ffffffff", "it still reads {said}");
    reads(fixture, &guest, "0000:00:00.0", E1000)
}

/// It goes to 7 and no further.
fn stops_half_way(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture)?;
    fixture.in_pool(EDU)?;
    let timed_out = Command::new("pcidom")
        .args(["attach", "--timeout", "4", &guest.name, EDU])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    fixture.await_backend(&guest, "7")?;
    fixture.in_guest(&guest, "front-state 7")?;
    fixture.await_backend(&guest, "8")?;
    let outcome = timed_out.wait_with_output()?;
    println!("agent: {}", String::from_utf8_lossy(&outcome.stderr).trim().replace('\n', " | "));
    ensure!(outcome.status.code() == Some(3), "{outcome:?}");
    // Once it moves on, everything is as it was.
    fixture.in_guest(&guest, "front-state 4")?;
    fixture.await_backend(&guest, "4").context("after it has moved on")?;
    // The device may still have to be asked back; the frontend answers now.
    let mut reclaim = Command::new("pcidom").arg("reclaim").spawn()?;
    for _ in 0..2 {
        let (back, front) = fixture.ends(&guest)?;
        if (&*back, &*front) == ("7", "4") {
            fixture.in_guest(&guest, "front-state 7")?;
            fixture.await_backend(&guest, "8")?;
            fixture.in_guest(&guest, "front-state 4")?;
            fixture.await_backend(&guest, "4")?;
        }
        fixture.in_guest(&guest, "sleep 1")?;
    }
    ensure!(reclaim.wait()?.success(), "reclaim failed");
    fixture.expect_connected(&guest)?;
    fixture.expect_free(EDU)?;
    reads(fixture, &guest, "0000:00:00.0", E1000)?;
    fixture.destroy(&guest)
}
