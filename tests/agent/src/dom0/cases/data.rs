//! Disk data: one guest writes, the next one that gets the disk reads.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, config_space::capability};
use crate::dom0::{
    devices::{AHCI, NVME, config, sysfs},
    drivers::vectors_node,
    fixture::Fixture,
    guests::Domain,
    irqs::Irqs,
    network,
    snapshot::{debug_key, rights},
};

pub(super) const CASES: &[Case] = &[
    Case::new("nvme_gets_more_than_one_msix_vector", several_vectors),
    Case::new("nvme_reads_back_16_mib_as_they_were_written", written_and_read),
    Case::new("nvme_is_reset_by_its_guest_and_has_its_data_and_interrupts", reset_by_its_guest),
    Case::new("nvme_leaves_no_vectors_rights_or_bus_mastering_with_its_first_guest", nothing_left),
    Case::new("nvme_gives_the_next_guest_the_data_of_the_first", read_by_the_next),
    Case::new("a_sata_disk_moves_16_mib_by_msi", by_msi),
];

const DISK: &str = "/dev/nvme0n1";
const MIB: u32 = 16;
/// Same data for both guests.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The guest of the first three cases, with its driver.
fn first(fixture: &mut Fixture) -> Result<Domain> {
    guest(fixture, "first")
}

fn guest(fixture: &mut Fixture, name: &str) -> Result<Domain> {
    fixture.broker()?;
    let guest = fixture.guest_with(name, &[NVME])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    Ok(guest)
}

fn several_vectors(fixture: &mut Fixture) -> Result<()> {
    let guest = first(fixture)?;
    let found = fixture.check_kind(&guest, "nvme0q", "pcifront-msi-x", 2)?;
    // The queue for commands to the controller itself was used to find the disk.
    ensure!(
        found.iter().any(|interrupt| interrupt.name == "nvme0q0" && interrupt.count > 0),
        "no interrupt: {found:?}"
    );
    let vectors = fixture.vectors_of(NVME)?;
    ensure!(vectors.first().is_some_and(|word| word == "msix") && vectors.len() == 1 + found.len(), "{vectors:?}");
    let bound = Irqs::now(fixture)?.bound_to(guest.id);
    ensure!(bound.len() == found.len(), "Xen has {bound:?} for {found:?}");
    Ok(())
}

fn written_and_read(fixture: &mut Fixture) -> Result<()> {
    let guest = first(fixture)?;
    let data_queue = |fixture: &mut Fixture| -> Result<u64> {
        Ok(fixture.interrupts_in(&guest, "nvme0q1")?.first().context("no queue for data")?.count)
    };
    let before = data_queue(fixture)?;
    // What an earlier run left must not pass for what this one writes.
    let other = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {other} {MIB}"))?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {other} {MIB}"))?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {SEED} {MIB}"))?;
    fixture.disk_seed = Some(SEED);
    let written = data_queue(fixture)?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {SEED} {MIB}"))?;
    let read = data_queue(fixture)?;
    println!("agent: {} interrupts for writes, {} for reads", written - before, read - written);
    ensure!(before < written && written < read, "interrupts: {before}, then {written}, then {read}");
    Ok(())
}

/// A function level reset, as the guest's kernel does it: what the device loses in it comes back within the time that the kernel waits.
fn reset_by_its_guest(fixture: &mut Fixture) -> Result<()> {
    const RESETS: u32 = 3;
    let guest = first(fixture)?;
    let device = sysfs(&fixture.virtual_address(&guest, NVME)?);
    let seed = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {seed} {MIB}"))?;
    let before = config(NVME)?;
    fixture.in_guest(&guest, &format!("grep -w flr {device}/reset_method"))?;
    fixture.in_guest(&guest, &format!("echo flr >{device}/reset_method"))?;
    for round in 0..RESETS {
        // Without addresses and decoding: that it was reset, nobody else would have it so.
        let lost = thread::spawn(|| {
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end {
                if config(NVME)?.get(4).is_some_and(|command| command & 3 == 0) {
                    return Ok(true);
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok::<_, anyhow::Error>(false)
        });
        let begun = Instant::now();
        fixture.in_guest(&guest, &format!("echo 1 >{device}/reset"))?;
        println!("agent: reset {round} by the guest took {} ms", begun.elapsed().as_millis());
        ensure!(lost.join().ok().context("a panic")??, "the device was not reset");
        fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    }
    let after = config(NVME)?;
    // All that firmware and dom0's kernel have set up: BARs, and Device Control behind PCI Express's header.
    let control = capability(&before, 0x10)?.context("no PCI Express")? + 8;
    for registers in [0x10..0x18, control..control + 2] {
        let [before, after] = [&before, &after].map(|config| config.get(registers.clone()));
        ensure!(before == after, "{registers:x?}: {after:x?}, were {before:x?}");
    }
    fixture.check_kind(&guest, "nvme0q", "pcifront-msi-x", 2)?;
    let slow = fixture.in_guest(&guest, "dmesg | grep -c 'not ready.*after FLR' || true")?;
    ensure!(slow.trim_ascii() == b"0", "the guest had to wait longer than it likes to");
    let other = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {other} {MIB}"))?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {other} {MIB}"))?;
    // As the cases behind this one expect it.
    fixture.in_guest(&guest, &format!("disk-write {DISK} {SEED} {MIB}"))?;
    fixture.disk_seed = Some(SEED);
    Ok(())
}

fn nothing_left(fixture: &mut Fixture) -> Result<()> {
    let guest = first(fixture)?;
    let messages = Irqs::now(fixture)?.messages();
    let mapped = fixture.vectors_of(NVME)?.len() - 1;
    ensure!(is_bus_master()?, "it was not a bus master before");
    ensure!(has_rights(fixture, &guest)?, "its guest had no rights before");
    fixture.pcidom(&["detach", &guest.name, NVME])?;
    ensure!(!is_bus_master()?, "it is still a bus master");
    ensure!(!has_rights(fixture, &guest)?, "its guest still has rights");
    let irqs = Irqs::now(fixture)?;
    ensure!(irqs.bound_to(guest.id).is_empty(), "Xen still has {:?} for its guest", irqs.bound_to(guest.id));
    let (bound, unbound) = irqs.messages();
    ensure!(
        (bound, unbound) == (messages.0 - mapped, messages.1),
        "{bound} and {unbound} messages, before {messages:?}"
    );
    let node = fixture.store.text(&vectors_node(NVME))?.unwrap_or_else(|| "none".into());
    ensure!(node == "none", "the table still has {node}");
    Ok(())
}

/// Bit 2 of the command register.
fn is_bus_master() -> Result<bool> {
    Ok(config(NVME)?.get(4).context("an empty configuration space")? & 4 != 0)
}

/// Whether a domain may use any memory, port or interrupt of the host.
fn has_rights(fixture: &Fixture, guest: &Domain) -> Result<bool> {
    let owner = format!("rights of domain {}:", guest.id);
    let all = rights(&debug_key(fixture, "q")?);
    let mut own = all.iter().filter_map(|line| line.strip_prefix(&owner)).peekable();
    ensure!(own.peek().is_some(), "no rights of domain {} in {all:?}", guest.id);
    // `I/O Memory { f0000-f0003 }`, or empty braces.
    Ok(own.any(|line| line.split_once('{').is_some_and(|(_, rest)| rest.contains(|c: char| c.is_ascii_hexdigit()))))
}

fn read_by_the_next(fixture: &mut Fixture) -> Result<()> {
    if fixture.disk_seed != Some(SEED) {
        // The case that writes has not run.
        end_of(fixture, &["first"])?;
        written_and_read(fixture)?;
    }
    let second = guest(fixture, "second")?;
    fixture.check_kind(&second, "nvme0q", "pcifront-msi-x", 2)?;
    fixture.in_guest(&second, &format!("disk-check {DISK} {SEED} {MIB}"))?;
    end_of(fixture, &["first", "second"])
}

/// Ends guests of these names, those that there are.
fn end_of(fixture: &mut Fixture, names: &[&str]) -> Result<()> {
    for guest in fixture.domains.clone().iter().filter(|domain| names.contains(&&*domain.name)) {
        fixture.destroy(guest)?;
    }
    fixture.pcidom(&["reclaim"]).map(drop)
}

/// The one device that has a driver with MSI and without MSI-X.
fn by_msi(fixture: &mut Fixture) -> Result<()> {
    const DISK: &str = "/dev/sda";
    fixture.broker()?;
    let guest = fixture.guest_with("sata", &[AHCI])?;
    fixture.in_guest(&guest, "load sd_mod")?;
    fixture.in_guest(&guest, "load ahci")?;
    fixture.await_disk(&guest, DISK)?;
    let count = |fixture: &mut Fixture| -> Result<u64> {
        Ok(fixture.check_kind(&guest, "ahci", "pcifront-msi", 1)?.first().context("no interrupt")?.count)
    };
    let before = count(fixture)?;
    let seed = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {seed} {MIB}"))?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    let after = count(fixture)?;
    ensure!(before < after, "interrupts: {before}, then {after}");
    let noted = fixture.vectors_of(AHCI)?;
    ensure!(noted.first().is_some_and(|word| word == "msi") && noted.len() == 2, "the broker's table has {noted:?}");
    fixture.pcidom(&["detach", &guest.name, AHCI])?;
    ensure!(Irqs::now(fixture)?.bound_to(guest.id).is_empty(), "Xen still has an interrupt for the guest");
    fixture.destroy(&guest)
}
