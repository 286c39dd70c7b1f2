//! The stub's image is started again in the same domain, and no guest notices (docs/restart.md). What crashes it here is an NMI, at whatever it is at.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::{
    dom0::{
        crashes::{self, interrupt, restarts},
        devices::{EDU, NVME},
        fixture::Fixture,
        guests::Domain,
        snapshot::Snapshot,
        stub::NAME,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::within(
        Duration::from_mins(4),
        "guests_read_move_data_and_get_devices_while_the_backend_crashes_a_hundred_times",
        a_hundred_times,
    ),
    Case::within(Duration::from_mins(4), "devices_come_and_go_while_the_backend_is_started_again", while_devices_move),
    Case::within(
        Duration::from_mins(3),
        "the_third_crash_within_a_minute_ends_the_domain_where_the_backend_is_started_again_no_more",
        three_in_a_minute,
    ),
    Case::within(
        Duration::from_mins(4),
        "the_image_is_started_again_and_replaced_by_command_while_a_guest_reads_and_moves_data",
        by_command,
    ),
    Case::within(
        Duration::from_mins(4),
        "an_image_that_does_not_come_up_is_taken_back_and_one_that_does_not_fit_is_refused",
        unfit_images,
    ),
];

/// The image that the stub was built with.
const IMAGE: &str = "/usr/lib/xen/boot/pcidom.elf";

/// A stub with these words on its command line, and a guest with a disk whose driver uses several vectors.
fn begin(fixture: &mut Fixture, words: &str) -> Result<(Domain, Domain)> {
    fixture.clear();
    fixture.set_limit(Duration::from_mins(4));
    fixture.broker()?;
    let stub = fixture.start_stub(NAME, words)?;
    let guest = fixture.guest_with("reader", &[NVME, EDU])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    Ok((stub, guest))
}

/// A hundred crashes under load.
fn a_hundred_times(fixture: &mut Fixture) -> Result<()> {
    crashes::with_few(fixture, 100, &mut |_| Ok(()))
}

fn while_devices_move(fixture: &mut Fixture) -> Result<()> {
    let (stub, guest) = begin(fixture, "restart=always")?;
    for _ in 0..2 {
        interrupt(fixture, &stub)?;
        fixture.detach(&guest, &[NVME])?;
        interrupt(fixture, &stub)?;
        expect("the disk", fixture.pool_state(&stub, NVME)?.as_deref(), "free")?;
        fixture.attach(&guest, &[NVME])?;
        fixture.await_disk(&guest, "/dev/nvme0n1")?;
        fixture.in_guest(&guest, "disk-write /dev/nvme0n1 5 1")?;
        // Beside a command that is under way.
        let name = guest.name.clone();
        let command =
            std::thread::spawn(move || std::process::Command::new("pcidom").args(["detach", &name, NVME]).output());
        sleep(Duration::from_millis(150));
        interrupt(fixture, &stub)?;
        let done = command.join().map_err(|_| anyhow::anyhow!("the command's thread panicked"))??;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fixture.attach(&guest, &[NVME])?;
        fixture.await_disk(&guest, "/dev/nvme0n1")?;
        fixture.in_guest(&guest, "disk-check /dev/nvme0n1 5 1")?;
    }
    // A guest that ends while the stub is down is cleaned up after.
    fixture.destroy(&guest)?;
    interrupt(fixture, &stub)?;
    fixture.pcidom(&["reclaim"])?;
    for device in [NVME, EDU] {
        expect(device, fixture.pool_state(&stub, device)?.as_deref(), "free")?;
    }
    Ok(())
}

fn three_in_a_minute(fixture: &mut Fixture) -> Result<()> {
    fixture.clear();
    fixture.set_limit(Duration::from_mins(3));
    fixture.broker()?;
    let stub = fixture.stub()?;
    for _ in 0..2 {
        interrupt(fixture, &stub)?;
    }
    fixture.xl(&["trigger", NAME, "nmi"])?;
    // on_crash="destroy" of its configuration.
    let deadline = Instant::now() + Duration::from_secs(30);
    while fixture.find(NAME)?.is_some() {
        ensure!(Instant::now() < deadline, "the domain goes on");
        sleep(Duration::from_millis(100));
    }
    fixture.domains.retain(|domain| domain.id != stub.id);
    Ok(())
}

/// Writes an image that is the stub's but for what `change` does to it; where it is.
fn image(name: &str, change: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<String> {
    let mut bytes = std::fs::read(IMAGE)?;
    change(&mut bytes)?;
    let path = format!("/tmp/{name}.elf");
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// Replaces some bytes wherever they are, at least once, by as many others.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) -> Result<()> {
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    ensure!(!places.is_empty() && old.len() == new.len(), "no {old:x?} in the image");
    places.into_iter().for_each(|at| bytes[at..at + new.len()].copy_from_slice(new));
    Ok(())
}

/// Has the image do this instead of calling its main function.
fn instead_of_main(bytes: &mut [u8], code: &[u8]) -> Result<()> {
    // In a start in place, the first code of all: the last of its instructions are a call and ud2.
    let start = bytes.windows(2).position(|pair| pair == [0xfc, 0x48]).context("no cld at the start")?;
    let end = start + bytes[start..].windows(2).position(|pair| pair == [0x0f, 0x0b]).context("no ud2")?;
    ensure!(bytes[end - 5] == 0xe8, "no call before ud2");
    bytes[end - 5..end - 5 + code.len()].copy_from_slice(code);
    Ok(())
}

/// Starts an image by a command: the release that runs then, and how long that took. It serves one frontend.
fn started(fixture: &Fixture, words: &[&str]) -> Result<(String, Duration)> {
    let text = fixture.pcidom(&[words, &["--json"]].concat())?;
    // A field a line.
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("\"{name}\": ")).map(str::to_owned));
        line.map(|value| value.trim_end_matches(',').trim_matches('"').to_owned())
            .with_context(|| format!("no {name} in {text}"))
    };
    ensure!(field("frontends")? == "1", "not one frontend: {text}");
    Ok((field("release")?, Duration::from_nanos(field("took_ns")?.parse()?)))
}

fn by_command(fixture: &mut Fixture) -> Result<()> {
    // As it is by default: starts by command are no crashes, of which the third would end the domain.
    let (stub, guest) = begin(fixture, "")?;
    let address = fixture.virtual_address(&guest, EDU)?;
    let own = fixture.store.text(&stub.node("data/pcidom/version"))?.context("no version")?;
    let release = own.split(' ').next().context("no release")?.to_owned();
    let other: String = release.chars().map(|letter| if letter.is_ascii_digit() { '7' } else { letter }).collect();
    let newer = image("newer", |bytes| replace(bytes, release.as_bytes(), other.as_bytes()))?;
    started(fixture, &["restart"])?; // its node is there from now on
    let before = Snapshot::take(fixture, &stub)?;
    let (mut restarts_took, mut upgrades_took) = (Vec::new(), Vec::new());
    for round in 0..4u64 {
        let reads = fixture.ask(&guest, &format!("read-often /sys/bus/pci/devices/{address}/config 0 3000"))?;
        restarts_took.push(started(fixture, &["restart"])?.1);
        let (image, wanted) = if round % 2 == 0 { (newer.as_str(), &other) } else { (IMAGE, &release) };
        let (told, took) = started(fixture, &["upgrade", image])?;
        upgrades_took.push(took);
        ensure!(told == *wanted, "{told} runs, not {wanted}");
        let announced = fixture.store.text(&stub.node("data/pcidom/version"))?.context("no version")?;
        ensure!(announced.split(' ').next() == Some(wanted), "{announced} is announced, not {wanted}");
        fixture.answer_well(&reads)?;
        let seed = 99 + round;
        fixture.in_guest(&guest, &format!("disk-write /dev/nvme0n1 {seed} 1"))?;
        fixture.in_guest(&guest, &format!("disk-check /dev/nvme0n1 {seed} 1"))?;
        fixture.expect_connected(&guest)?;
    }
    println!("agent: restart by command: {restarts_took:?}");
    println!("agent: upgrade by command: {upgrades_took:?}");
    let status = fixture.pcidom(&["status"])?;
    ensure!(status.contains("pcidom upgrade from"), "status does not tell: {status}");
    let log = String::from_utf8_lossy(&fixture.in_guest(&guest, "dmesg")?).into_owned();
    ensure!(!log.contains("not responding"), "the guest has waited in vain: {log}");
    // The one that the configuration names.
    started(fixture, &["upgrade"])?;
    let after = Snapshot::take(fixture, &stub)?;
    before.compare_but(&after, &["data/pcidom/restarts", "data/pcidom/statistics"])?;
    // Devices move as ever.
    fixture.detach(&guest, &[NVME])?;
    fixture.attach(&guest, &[NVME])?;
    fixture.await_disk(&guest, "/dev/nvme0n1")
}

fn unfit_images(fixture: &mut Fixture) -> Result<()> {
    let (stub, guest) = begin(fixture, "")?;
    let address = fixture.virtual_address(&guest, EDU)?;
    // The layout that images have by now (`drivers/pcidom-abi/src/image.rs`).
    const LAYOUT: u8 = 2;
    let note = |layout: u8, contract: u8| [b"pcidom\0\0", &[layout, 0, 0, 0, contract, 0, 0, 0][..]].concat();
    for (file, why) in [
        (
            image("garbage", |bytes| {
                bytes.fill(0x5a);
                Ok(())
            })?,
            "no ELF file",
        ),
        (
            image("short", |bytes| {
                bytes.truncate(40_000);
                Ok(())
            })?,
            "cut off",
        ),
        (image("layout", |bytes| replace(bytes, &note(LAYOUT, 1), &note(LAYOUT + 1, 1)))?, "its memory has layout"),
        (image("contract", |bytes| replace(bytes, &note(LAYOUT, 1), &note(LAYOUT, 9)))?, "contract 9"),
        ("/usr/lib/xen/boot/malicious-stub.elf".to_owned(), "no image of pcidom"),
    ] {
        fixture.pcidom_fails(&["upgrade", &file], 1, why)?;
        ensure!(restarts(fixture, &stub)?.0 == 0, "{file} was tried");
    }
    for (name, code) in [("crash", &[0x0f, 0x0b][..]), ("hang", &[0xeb, 0xfe])] {
        let (before, _) = restarts(fixture, &stub)?;
        let file = image(name, |bytes| instead_of_main(bytes, code))?;
        // While one hangs, a guest's request is not answered in time.
        let reads = match name {
            "crash" => Some(fixture.ask(&guest, &format!("read-often /sys/bus/pci/devices/{address}/config 0 3000"))?),
            _ => None,
        };
        fixture.pcidom_fails(&["upgrade", &file], 1, "the image before goes on")?;
        ensure!(restarts(fixture, &stub)?.0 == before + 2, "{file} was not tried and taken back");
        fixture.expect_connected(&guest)?;
        if let Some(reads) = reads {
            fixture.answer_well(&reads)?;
        }
    }
    fixture.in_guest(&guest, "disk-write /dev/nvme0n1 6 1")?;
    fixture.in_guest(&guest, "disk-check /dev/nvme0n1 6 1")?;
    let log = String::from_utf8_lossy(&fixture.in_guest(&guest, "dmesg")?).into_owned();
    ensure!(!log.contains("not responding"), "the guest has waited in vain: {log}");
    // Its own image goes on as if nothing had been.
    started(fixture, &["restart"])?;
    fixture.clear();
    fixture.start_stub(NAME, "restart=never")?;
    fixture.pcidom_fails(&["restart"], 1, "restart=never")?;
    fixture.pcidom_fails(&["upgrade", IMAGE], 1, "restart=never")
}
