//! The drivers of other systems (`tests/drivers`) in guests of their own. Linux' is in all other cases.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    attaching::Attaching,
    devices::{E1000, EDU, config},
    fixture::Fixture,
    guests::Domain,
    small_guests::Found,
};

pub(super) const CASES: &[Case] = &[
    Case::new("netbsd_s_driver_reads_and_writes_by_dwords_and_finds_no_ghosts", netbsd),
    Case::new("freebsd_s_driver_closes_and_its_idea_of_segments_is_understood", freebsd),
    Case::new("mini_os_s_driver_sees_devices_come_and_go_and_opens_again", mini_os),
    Case::new("an_attach_does_not_wait_for_another_guest_s_that_waits_for_its_guest", two_attaches),
];

/// Both devices are free.
fn free(fixture: &mut Fixture) -> Result<()> {
    fixture.broker()?;
    for device in [E1000, EDU] {
        fixture.in_pool(device)?;
    }
    Ok(())
}

fn expect(fixture: &mut Fixture, guest: &Domain, devices: &[(&str, &str)]) -> Result<()> {
    let wanted =
        devices.iter().map(|(device, address)| Found::expected(device, address)).collect::<Result<Vec<_>>>()?;
    let found = fixture.found_by(guest)?;
    ensure!(found == wanted, "{} finds {found:x?}, not {wanted:x?}", guest.name);
    Ok(())
}

/// A register that a guest reads as a number.
fn read(fixture: &mut Fixture, guest: &Domain, register: &str) -> Result<u32> {
    let text = String::from_utf8(fixture.in_guest(guest, &format!("read {register}"))?)?;
    Ok(u32::from_str_radix(&text, 16)?)
}

/// The error of a guest's request that must fail.
fn refused(fixture: &mut Fixture, guest: &Domain, request: &str) -> Result<String> {
    let asked = fixture.ask(guest, request)?;
    let (code, said) = fixture.answer(&asked)?;
    let said = String::from_utf8(said)?;
    ensure!(code != 0, "{request} is answered with {said:?}");
    Ok(said)
}

/// Command and Status of a device in hardware.
fn command_and_status(device: &str) -> Result<u32> {
    let dword = config(device)?.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    dword.context("a short configuration space")
}

fn netbsd(fixture: &mut Fixture) -> Result<()> {
    const BUS_MASTER: u32 = 4;
    free(fixture)?;
    let guest = fixture.create_small("netbsd", "netbsd")?;
    fixture.pcidom(&["attach", "netbsd", E1000, EDU])?;
    fixture.unpause(&guest)?;
    fixture.await_frontend(&guest, "4")?;
    expect(fixture, &guest, &[(E1000, "0000:00:00.0"), (EDU, "0000:00:01.0")])?;
    ensure!(refused(fixture, &guest, "read 0000:00:1f.7 0 4")?.contains("answers -1"), "a function that is not there");

    // Every write to Command is one over Status, where ones clear errors.
    let before = command_and_status(E1000)?;
    let seen = read(fixture, &guest, "0000:00:00.0 4 4")?;
    fixture.in_guest(&guest, &format!("write 0000:00:00.0 4 4 {}", seen | 0xffff_0000 | BUS_MASTER))?;
    let after = command_and_status(E1000)?;
    ensure!(after == before | BUS_MASTER, "Command and Status were {before:#x} and are {after:#x}");
    let seen = read(fixture, &guest, "0000:00:00.0 4 4")?;
    ensure!(seen & BUS_MASTER != 0, "it reads {seen:#x}");
    fixture.in_guest(&guest, &format!("write 0000:00:00.0 4 4 {}", seen & !BUS_MASTER))?;
    ensure!(command_and_status(E1000)? == before, "bus mastering is still on");
    // Cache line size, with latency timer, header type and BIST.
    let line = read(fixture, &guest, "0000:00:00.0 12 4")? & !0xff | 0x10;
    fixture.in_guest(&guest, &format!("write 0000:00:00.0 12 4 {line}"))?;
    ensure!(read(fixture, &guest, "0000:00:00.0 12 4")? == line, "the cache line size");
    let answers = String::from_utf8(fixture.in_guest(&guest, "stress 1000")?)?;
    ensure!(answers.contains(" 0 wrong"), "{answers}");

    // It panics at Reconfiguring, and takes nobody with it.
    let asked = fixture.try_pcidom(&["detach", "netbsd", EDU])?;
    println!("agent: detach from NetBSD ends with {}: {}", asked.code(), asked.stderr.trim());
    ensure!(fixture.find("netbsd")?.is_none(), "it knows Reconfiguring");
    fixture.domains.retain(|domain| *domain != guest);
    fixture.pcidom(&["reclaim"])?;
    fixture.expect_free(E1000)?;
    fixture.expect_free(EDU)
}

fn freebsd(fixture: &mut Fixture) -> Result<()> {
    free(fixture)?;
    let stub = fixture.stub()?;
    // It takes the backend's domain for the segment of its buses, finds none, and closes.
    let guest = fixture.create_small("freebsd", "freebsd")?;
    fixture.unpause(&guest)?;
    let outcome = fixture.try_pcidom(&["attach", "--timeout", "20", "freebsd", E1000])?;
    if outcome.code() == 0 {
        // It says that it is connected before it looks, and the command may come to see that.
        fixture.await_frontend(&guest, "5")?;
    } else {
        ensure!(outcome.stderr.to_lowercase().contains("clos"), "{} and {:?}", outcome.code(), outcome.stderr);
        fixture.expect_free(E1000)?;
    }
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"])?;
    fixture.expect_free(E1000)?;
    // A driver that finds its buses names them in the same way: the backend's domain for the segment.
    let guest = fixture.create_small("mini", "mini-os")?;
    fixture.pcidom(&["attach", "mini", E1000])?;
    fixture.unpause(&guest)?;
    fixture.await_frontend(&guest, "4")?;
    let ids = Found::expected(E1000, "0000:00:00.0")?.ids;
    for segment in [0, stub.id] {
        let seen = read(fixture, &guest, &format!("0000:00:00.0 0 4 {segment}"))?;
        ensure!(seen == ids, "in segment {segment} it reads {seen:#x}");
    }
    refused(fixture, &guest, &format!("read 0000:00:00.0 0 4 {}", stub.id + 1))?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"])?;
    fixture.expect_free(E1000)
}

fn mini_os(fixture: &mut Fixture) -> Result<()> {
    free(fixture)?;
    let guest = fixture.create_small("mini", "mini-os")?;
    fixture.unpause(&guest)?;
    fixture.attach(&guest, &[E1000])?;
    expect(fixture, &guest, &[(E1000, "0000:00:00.0")])?;
    // 7 is echoed, and 4 after 8.
    fixture.attach(&guest, &[EDU])?;
    expect(fixture, &guest, &[(E1000, "0000:00:00.0"), (EDU, "0000:00:01.0")])?;
    fixture.detach(&guest, &[E1000])?;
    expect(fixture, &guest, &[(EDU, "0000:00:01.0")])?;
    ensure!(refused(fixture, &guest, "read 0000:00:00.0 0 4")?.contains("answers -1"), "a device that has left");
    // A program of it closes the driver, and opens it again: nobody asks the toolstack.
    for _ in 0..2 {
        fixture.in_guest(&guest, "shut-down")?;
        fixture.await_backend(&guest, "3")?;
        fixture.in_guest(&guest, "start")?;
        fixture.await_frontend(&guest, "4")?;
        fixture.await_backend(&guest, "4")?;
        expect(fixture, &guest, &[(EDU, "0000:00:01.0")])?;
    }
    fixture.detach(&guest, &[EDU])?;
    fixture.destroy(&guest)
}

/// One guest does not load its driver, and the attach waits for it. Meanwhile another guest gets and loses a device.
fn two_attaches(fixture: &mut Fixture) -> Result<()> {
    free(fixture)?;
    let (late, other) = (fixture.create_small("late", "mini-os-later")?, fixture.create_small("other", "mini-os")?);
    fixture.unpause(&late)?;
    fixture.unpause(&other)?;
    let mut attaching = Attaching::start(&late, E1000)?;
    fixture.await_backend(&late, "3")?;
    fixture.attach(&other, &[EDU])?;
    expect(fixture, &other, &[(EDU, "0000:00:00.0")])?;
    fixture.detach(&other, &[EDU])?;
    fixture.pcidom(&["reclaim"])?;
    attaching.expect_waiting()?;
    fixture.in_guest(&late, "start")?;
    attaching.finish(fixture.deadline)?;
    fixture.expect_connected(&late)?;
    expect(fixture, &late, &[(E1000, "0000:00:00.0")])?;
    fixture.detach(&late, &[E1000])?;
    fixture.destroy(&late)?;
    fixture.destroy(&other)
}
