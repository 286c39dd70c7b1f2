//! What an error has taken from a device's configuration, it gets back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, config_space::capability};
use crate::dom0::{
    devices::{HOT, config},
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
