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

pub(super) const CASES: &[Case] =
    &[Case::new("a_disk_behind_a_port_with_a_fatal_error_works_again_for_its_guest", after_a_fatal_error)];

/// Registers of the header: Command and the first two base address registers.
const COMMAND: usize = 4;
const ADDRESSES: std::ops::Range<usize> = 0x10..0x18;
/// Offset of Device Control in the PCI Express capability.
const DEVICE_CONTROL: usize = 8;

/// QEMU injects a Data Link Protocol error (`PCIe 5.0 §6.2.7`) into the port; dom0's kernel resets the bus behind it, and the disk with it.
fn after_a_fatal_error(fixture: &mut Fixture) -> Result<()> {
    const DISK: &str = "/dev/nvme0n1";
    const MIB: u32 = 1;
    fixture.broker()?;
    fixture.in_pool(HOT)?;
    let guest = fixture.guest_with("repaired", &[HOT])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    let seed = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {seed} {MIB}"))?;
    let before = config(HOT)?;
    fixture.qmp("human-monitor-command", r#"{"command-line": "pcie_aer_inject_error outside DLP"}"#)?;
    await_reset()?;
    let said = fixture.pcidom(&["repair", HOT])?;
    ensure!(said.contains("has them again"), "{said}");
    let after = config(HOT)?;
    let control = express(&before)? + DEVICE_CONTROL;
    for (what, registers) in [("addresses", ADDRESSES), ("Device Control", control..control + 2)] {
        let [before, after] = [&before, &after].map(|config| config.get(registers.clone()));
        ensure!(before == after, "{what}: {after:x?}, were {before:x?}");
    }
    ensure!(after.get(COMMAND).is_some_and(|command| command & 2 != 0), "it does not decode");
    // What its driver does when a request was not answered in time.
    fixture.in_guest(&guest, "echo 1 >/sys/class/nvme/nvme0/reset_controller")?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    fixture.detach(&guest, &[HOT])?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["assignable", "remove", HOT]).map(drop)
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
