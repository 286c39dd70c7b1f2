//! Disk data: one guest writes, the next one that gets the disk reads.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{AHCI, NVME, config},
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
