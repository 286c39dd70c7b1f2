//! The drivers of other systems (`tests/drivers`) in guests of their own. Linux' is in all other cases.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    attaching::Attaching,
    bed::Bed,
    devices::{E1000, EDU, config},
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
fn free(bed: &mut Bed) -> Result<()> {
    bed.broker()?;
    for device in [E1000, EDU] {
        bed.in_pool(device)?;
    }
    Ok(())
}

fn expect(bed: &mut Bed, guest: &Domain, devices: &[(&str, &str)]) -> Result<()> {
    let wanted =
        devices.iter().map(|(device, address)| Found::expected(device, address)).collect::<Result<Vec<_>>>()?;
    let found = bed.found_by(guest)?;
    ensure!(found == wanted, "{} finds {found:x?}, not {wanted:x?}", guest.name);
    Ok(())
}

/// A register that a guest reads as a number.
fn read(bed: &mut Bed, guest: &Domain, register: &str) -> Result<u32> {
    let text = String::from_utf8(bed.in_guest(guest, &format!("read {register}"))?)?;
    Ok(u32::from_str_radix(&text, 16)?)
}

/// What a guest's request fails with.
fn refused(bed: &mut Bed, guest: &Domain, request: &str) -> Result<String> {
    let asked = bed.ask(guest, request)?;
    let (code, said) = bed.answer(&asked)?;
    let said = String::from_utf8(said)?;
    ensure!(code != 0, "{request} is answered with {said:?}");
    Ok(said)
}

/// Command and Status of a device in hardware.
fn command_and_status(device: &str) -> Result<u32> {
    let dword = config(device)?.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    dword.context("a short configuration space")
}

fn netbsd(bed: &mut Bed) -> Result<()> {
    const BUS_MASTER: u32 = 4;
    free(bed)?;
    let guest = bed.create_small("netbsd", "netbsd")?;
    bed.pcidom(&["attach", "netbsd", E1000, EDU])?;
    bed.unpause(&guest)?;
    bed.await_frontend(&guest, "4")?;
    expect(bed, &guest, &[(E1000, "0000:00:00.0"), (EDU, "0000:00:01.0")])?;
    ensure!(refused(bed, &guest, "read 0000:00:1f.7 0 4")?.contains("answers -1"), "a function that is not there");

    // Every write to Command is one over Status, where ones clear errors.
    let before = command_and_status(E1000)?;
    let seen = read(bed, &guest, "0000:00:00.0 4 4")?;
    bed.in_guest(&guest, &format!("write 0000:00:00.0 4 4 {}", seen | 0xffff_0000 | BUS_MASTER))?;
    let after = command_and_status(E1000)?;
    ensure!(after == before | BUS_MASTER, "Command and Status were {before:#x} and are {after:#x}");
    let seen = read(bed, &guest, "0000:00:00.0 4 4")?;
    ensure!(seen & BUS_MASTER != 0, "it reads {seen:#x}");
    bed.in_guest(&guest, &format!("write 0000:00:00.0 4 4 {}", seen & !BUS_MASTER))?;
    ensure!(command_and_status(E1000)? == before, "bus mastering is still on");
    // Cache line size, with latency timer, header type and BIST.
    let line = read(bed, &guest, "0000:00:00.0 12 4")? & !0xff | 0x10;
    bed.in_guest(&guest, &format!("write 0000:00:00.0 12 4 {line}"))?;
    ensure!(read(bed, &guest, "0000:00:00.0 12 4")? == line, "the cache line size");
    let answers = String::from_utf8(bed.in_guest(&guest, "hammer 1000")?)?;
    ensure!(answers.contains(" 0 wrong"), "{answers}");

    // It panics at Reconfiguring, and takes nobody with it.
    let asked = bed.try_pcidom(&["detach", "netbsd", EDU])?;
    println!("agent: detach from NetBSD ends with {}: {}", asked.code(), asked.stderr.trim());
    ensure!(bed.find("netbsd")?.is_none(), "it knows Reconfiguring");
    bed.domains.retain(|domain| *domain != guest);
    bed.pcidom(&["reclaim"])?;
    bed.expect_free(E1000)?;
    bed.expect_free(EDU)
}

fn freebsd(bed: &mut Bed) -> Result<()> {
    free(bed)?;
    let stub = bed.stub()?;
    // It takes the backend's domain for the segment of its buses, finds none, and closes.
    let guest = bed.create_small("freebsd", "freebsd")?;
    bed.unpause(&guest)?;
    bed.pcidom_fails(&["attach", "--timeout", "20", "freebsd", E1000], 1, "clos")?;
    bed.expect_free(E1000)?;
    bed.destroy(&guest)?;
    // A driver that finds its buses names them in the same way: the backend's domain for the segment.
    let guest = bed.create_small("mini", "mini-os")?;
    bed.pcidom(&["attach", "mini", E1000])?;
    bed.unpause(&guest)?;
    bed.await_frontend(&guest, "4")?;
    let ids = Found::expected(E1000, "0000:00:00.0")?.ids;
    for segment in [0, stub.id] {
        let seen = read(bed, &guest, &format!("0000:00:00.0 0 4 {segment}"))?;
        ensure!(seen == ids, "in segment {segment} it reads {seen:#x}");
    }
    refused(bed, &guest, &format!("read 0000:00:00.0 0 4 {}", stub.id + 1))?;
    bed.destroy(&guest)?;
    bed.pcidom(&["reclaim"])?;
    bed.expect_free(E1000)
}

fn mini_os(bed: &mut Bed) -> Result<()> {
    free(bed)?;
    let guest = bed.create_small("mini", "mini-os")?;
    bed.unpause(&guest)?;
    bed.attach(&guest, &[E1000])?;
    expect(bed, &guest, &[(E1000, "0000:00:00.0")])?;
    // 7 is echoed, and 4 after 8.
    bed.attach(&guest, &[EDU])?;
    expect(bed, &guest, &[(E1000, "0000:00:00.0"), (EDU, "0000:00:01.0")])?;
    bed.detach(&guest, &[E1000])?;
    expect(bed, &guest, &[(EDU, "0000:00:01.0")])?;
    ensure!(refused(bed, &guest, "read 0000:00:00.0 0 4")?.contains("answers -1"), "a device that has left");
    // A program of it closes the driver, and opens it again: nobody asks the toolstack.
    for _ in 0..2 {
        bed.in_guest(&guest, "shut-down")?;
        bed.await_backend(&guest, "3")?;
        bed.in_guest(&guest, "start")?;
        bed.await_frontend(&guest, "4")?;
        bed.await_backend(&guest, "4")?;
        expect(bed, &guest, &[(EDU, "0000:00:01.0")])?;
    }
    bed.detach(&guest, &[EDU])?;
    bed.destroy(&guest)
}

/// One guest does not load its driver, and the attach waits for it. Meanwhile another guest gets and loses a device.
fn two_attaches(bed: &mut Bed) -> Result<()> {
    free(bed)?;
    let (late, other) = (bed.create_small("late", "mini-os-later")?, bed.create_small("other", "mini-os")?);
    bed.unpause(&late)?;
    bed.unpause(&other)?;
    let mut attaching = Attaching::start(&late, E1000)?;
    bed.await_backend(&late, "3")?;
    bed.attach(&other, &[EDU])?;
    expect(bed, &other, &[(EDU, "0000:00:00.0")])?;
    bed.detach(&other, &[EDU])?;
    bed.pcidom(&["reclaim"])?;
    attaching.expect_waiting()?;
    bed.in_guest(&late, "start")?;
    attaching.finish(bed.deadline)?;
    bed.expect_connected(&late)?;
    expect(bed, &late, &[(E1000, "0000:00:00.0")])?;
    bed.detach(&late, &[E1000])?;
    bed.destroy(&late)?;
    bed.destroy(&other)
}
