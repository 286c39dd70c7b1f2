//! What an error has taken from a device's configuration, it gets back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Case, config_space::capability};
use crate::dom0::{
    access_times,
    devices::{EDU, HOT, PORT, config, sysfs},
    fixture::Fixture,
    network,
};

pub(super) const CASES: &[Case] = &[
    Case::new("a_disk_behind_a_port_with_a_fatal_error_works_again_for_its_guest", after_a_fatal_error),
    Case::new("a_guest_that_does_not_answer_to_an_error_has_its_disk_isolated", a_silent_guest),
];

const DISK: &str = "/dev/nvme0n1";
const MIB: u32 = 1;

/// Registers of the header: Command and the first two base address registers.
const COMMAND: usize = 4;
const ADDRESSES: std::ops::Range<usize> = 0x10..0x18;
/// Offset of Device Control in the PCI Express capability.
const DEVICE_CONTROL: usize = 8;

/// QEMU injects a Data Link Protocol error (`PCIe 5.0 §6.2.7`) into the port; dom0's kernel resets the bus behind it, and the disk with it.
fn after_a_fatal_error(fixture: &mut Fixture) -> Result<()> {
    fixture.broker()?;
    fixture.in_pool(HOT)?;
    let guest = fixture.guest_with("repaired", &[HOT])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    let seed = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {seed} {MIB}"))?;
    let before = config(HOT)?;
    inject(fixture)?;
    let said = fixture.pcidom(&["repair", HOT])?;
    ensure!(said.contains("has them again; its guest's driver has set it up anew"), "{said}");
    let after = config(HOT)?;
    let control = express(&before)? + DEVICE_CONTROL;
    for (what, registers) in [("addresses", ADDRESSES), ("Device Control", control..control + 2)] {
        let [before, after] = [&before, &after].map(|config| config.get(registers.clone()));
        ensure!(before == after, "{what}: {after:x?}, were {before:x?}");
    }
    ensure!(after.get(COMMAND).is_some_and(|command| command & 2 != 0), "it does not decode");
    fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    fixture.in_guest(&guest, "dmesg | grep 'nvme.*frozen state error detected'")?;
    // Without a driver there is nobody to tell, and the device is as it should be for the next one.
    fixture.in_guest(&guest, "unload nvme")?;
    inject(fixture)?;
    let said = fixture.pcidom(&["repair", HOT])?;
    ensure!(said.contains("has no driver that handles errors"), "{said}");
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    fixture.detach(&guest, &[HOT])?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["assignable", "remove", HOT]).map(drop)
}

/// A guest that stands still answers nothing.
fn a_silent_guest(fixture: &mut Fixture) -> Result<()> {
    fixture.broker()?;
    fixture.in_pool(HOT)?;
    let guest = fixture.guest_with("silent", &[HOT])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    let seed = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {seed} {MIB}"))?;
    fixture.xl(&["pause", &guest.name])?;
    inject(fixture)?;
    let said = fixture.pcidom(&["repair", HOT])?;
    ensure!(said.contains("is isolated: its guest does not answer"), "{said}");
    let command = config(HOT)?.get(COMMAND).copied().unwrap_or_default();
    ensure!(command & 7 == 2, "it has bus mastering, or does not decode: {command:x}");
    for what in [&["list"][..], &["status"]] {
        let said = fixture.pcidom(what)?;
        ensure!(said.contains("its guest does not answer to an error"), "{what:?}: {said}");
    }
    // It lives on without the device, which comes back with another attach.
    fixture.xl(&["unpause", &guest.name])?;
    fixture.in_guest(&guest, "true")?;
    fixture.detach(&guest, &[HOT])?;
    fixture.pcidom(&["attach", &guest.name, HOT])?;
    fixture.await_disk(&guest, DISK)?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    fixture.detach(&guest, &[HOT])?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["assignable", "remove", HOT]).map(drop)
}

/// Kinds of errors that QEMU injects into the port: a non-fatal one (Completion Timeout), and a fatal one (Data Link Protocol), which costs the disk its registers
/// (`PCIe 5.0 §6.2.7`). A correctable one it sets in the port's status without a message, so that nobody hears of it.
const KINDS: [(&str, &str); 2] = [("COMP_TIME", "nonfatal"), ("DLP", "fatal")];
/// How much it writes meanwhile: nearly all of the disk.
const WRITTEN_MIB: u32 = 60;

/// So many errors, of each kind in turn, while a guest writes. It goes on and has its data. `progress` hears of each hundred. (`make error-soak`: the NVMe drive of QEMU 7.2 answers
/// no more I/O after a reset in the middle of some, and QEMU 10 itself hangs in one of some forty.)
pub(crate) fn errors(fixture: &mut Fixture, count: u32, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    const LIMIT: Duration = Duration::from_mins(2);
    fixture.clear();
    fixture.broker()?;
    fixture.in_pool(HOT)?;
    let other = fixture.guest_with("other", &[EDU])?;
    let guest = fixture.guest_with("writer", &[HOT])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    let seed = network::seed()?;
    let reads = format!("time-access read {}/config 4 4 2000", sysfs("0000:00:00.0"));
    let mut beside = [Times::default(), Times::default()];
    let mut longest = Duration::ZERO;
    for number in 0..count {
        fixture.set_limit(LIMIT);
        let (name, counter) = KINDS.iter().cycle().nth(number as usize).context("no kind")?;
        let seed = seed.wrapping_add(number.into());
        beside[0].add(&fixture.in_guest(&other, &reads)?)?;
        let write = fixture.ask(&guest, &format!("disk-write {DISK} {seed} {WRITTEN_MIB}"))?;
        let reads = fixture.ask(&other, &reads)?;
        let before = total(counter)?;
        fixture
            .qmp("human-monitor-command", &format!(r#"{{"command-line": "pcie_aer_inject_error outside {name}"}}"#))?;
        let is_fatal = *counter == "fatal";
        if is_fatal {
            await_reset()?;
        } else {
            await_counted(fixture, counter, before)?;
        }
        let said = fixture.pcidom(&["repair", HOT])?;
        let repaired = Instant::now();
        let expected = if is_fatal { "its guest's driver has set it up anew" } else { "has lost nothing" };
        ensure!(said.contains(expected), "{name}: {said}");
        fixture.answer_well(&write).with_context(|| format!("{name}, error {number}"))?;
        longest = longest.max(repaired.elapsed());
        fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {WRITTEN_MIB}"))?;
        beside[1].add(&fixture.answer_well(&reads)?)?;
        let done = number + 1;
        if done % 100 == 0 {
            progress(&told(done, longest, &mut beside))?;
        }
    }
    println!("agent: {}", told(count, longest, &mut beside));
    let said = fixture.in_guest(&guest, "dmesg | grep -E 'Oops|BUG|WARNING|I/O error' || true")?;
    ensure!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    fixture.detach(&guest, &[HOT])?;
    fixture.destroy(&guest)?;
    fixture.destroy(&other)?;
    fixture.pcidom(&["assignable", "remove", HOT]).map(drop)
}

/// What was measured so far: another guest's reads before errors, and meanwhile.
fn told(done: u32, longest: Duration, [before, meanwhile]: &mut [Times; 2]) -> String {
    let longest = longest.as_millis();
    format!(
        "{done} errors; all was written {longest} ms after the repair at most; p99 of another guest's reads {} us before and {} us meanwhile, in the median",
        before.median() / 1000,
        meanwhile.median() / 1000
    )
}

/// 99th percentiles in nanoseconds, as `time-access` prints them.
#[derive(Default)]
struct Times(Vec<u64>);

impl Times {
    fn add(&mut self, printed: &[u8]) -> Result<()> {
        let [.., p99] = access_times::parse(printed)?;
        self.0.push(p99);
        Ok(())
    }

    fn median(&mut self) -> u64 {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

/// How many errors of this kind the port has reported.
fn total(counter: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("{}/aer_rootport_total_err_{counter}", sysfs(PORT)))?;
    text.trim().parse().with_context(|| format!("{counter}: {text:?}"))
}

fn await_counted(fixture: &Fixture, counter: &str, before: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while total(counter)? == before {
        if Instant::now() >= end {
            let port = fixture.run("lspci", &["-vvs", PORT]).unwrap_or_default();
            bail!("dom0's kernel has not heard of the error ({counter}): {port}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Injects the error and waits until the kernel has recovered from it.
fn inject(fixture: &mut Fixture) -> Result<()> {
    fixture.qmp("human-monitor-command", r#"{"command-line": "pcie_aer_inject_error outside DLP"}"#)?;
    await_reset()
}

/// Waits until the disk has lost its registers and answers again.
fn await_reset() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(20);
    let end = Instant::now() + LIMIT;
    loop {
        let now = config(HOT)?;
        if now.get(COMMAND).is_some_and(|command| command & 3 == 0) && now.get(8) != Some(&0xff) {
            // The kernel gives the bus a second, and then says that it was recovered.
            thread::sleep(Duration::from_secs(2));
            return Ok(());
        }
        ensure!(Instant::now() < end, "dom0's kernel has not reset the bus: Command is {:x?}", now.get(COMMAND));
        thread::sleep(Duration::from_millis(20));
    }
}

/// Where the PCI Express capability is.
fn express(config: &[u8]) -> Result<usize> {
    capability(config, 0x10)?.context("no PCI Express")
}
