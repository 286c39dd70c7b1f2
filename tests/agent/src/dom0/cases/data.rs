//! A disk moves data, and is another guest's afterwards.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    bed::Bed,
    devices::{AHCI, NVME, config},
    drivers::vectors_node,
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
fn first(bed: &mut Bed) -> Result<Domain> {
    guest(bed, "first")
}

fn guest(bed: &mut Bed, name: &str) -> Result<Domain> {
    bed.broker()?;
    let guest = bed.guest_with(name, &[NVME])?;
    bed.in_guest(&guest, "load nvme")?;
    bed.await_disk(&guest, DISK)?;
    Ok(guest)
}

fn several_vectors(bed: &mut Bed) -> Result<()> {
    let guest = first(bed)?;
    let found = bed.check_kind(&guest, "nvme0q", "pcifront-msi-x", 2)?;
    // The queue for commands to the controller itself was used to find the disk.
    ensure!(
        found.iter().any(|interrupt| interrupt.name == "nvme0q0" && interrupt.count > 0),
        "no interrupt: {found:?}"
    );
    let vectors = bed.vectors_of(NVME)?;
    ensure!(vectors.first().is_some_and(|word| word == "msix") && vectors.len() == 1 + found.len(), "{vectors:?}");
    let bound = Irqs::now(bed)?.bound_to(guest.id);
    ensure!(bound.len() == found.len(), "Xen has {bound:?} for {found:?}");
    Ok(())
}

fn written_and_read(bed: &mut Bed) -> Result<()> {
    let guest = first(bed)?;
    let data_queue = |bed: &mut Bed| -> Result<u64> {
        Ok(bed.interrupts_in(&guest, "nvme0q1")?.first().context("no queue for data")?.count)
    };
    let before = data_queue(bed)?;
    // What an earlier run left must not pass for what this one writes.
    let other = network::seed()?;
    bed.in_guest(&guest, &format!("disk-write {DISK} {other} {MIB}"))?;
    bed.in_guest(&guest, &format!("disk-check {DISK} {other} {MIB}"))?;
    bed.in_guest(&guest, &format!("disk-write {DISK} {SEED} {MIB}"))?;
    let written = data_queue(bed)?;
    bed.in_guest(&guest, &format!("disk-check {DISK} {SEED} {MIB}"))?;
    let read = data_queue(bed)?;
    println!("agent: {} interrupts for writes, {} for reads", written - before, read - written);
    ensure!(before < written && written < read, "interrupts: {before}, then {written}, then {read}");
    Ok(())
}

fn nothing_left(bed: &mut Bed) -> Result<()> {
    let guest = first(bed)?;
    let messages = Irqs::now(bed)?.messages();
    let mapped = bed.vectors_of(NVME)?.len() - 1;
    ensure!(is_bus_master()?, "it was not a bus master before");
    ensure!(has_rights(bed, &guest)?, "its guest had no rights before");
    bed.pcidom(&["detach", &guest.name, NVME])?;
    ensure!(!is_bus_master()?, "it is still a bus master");
    ensure!(!has_rights(bed, &guest)?, "its guest still has rights");
    let irqs = Irqs::now(bed)?;
    ensure!(irqs.bound_to(guest.id).is_empty(), "Xen still has {:?} for its guest", irqs.bound_to(guest.id));
    let (bound, unbound) = irqs.messages();
    ensure!(
        (bound, unbound) == (messages.0 - mapped, messages.1),
        "{bound} and {unbound} messages, before {messages:?}"
    );
    let node = bed.store.text(&vectors_node(NVME))?.unwrap_or_else(|| "none".into());
    ensure!(node == "none", "the table still has {node}");
    Ok(())
}

/// Bit 2 of the command register.
fn is_bus_master() -> Result<bool> {
    Ok(config(NVME)?.get(4).context("an empty configuration space")? & 4 != 0)
}

/// Whether a domain may use any memory, port or interrupt of the host.
fn has_rights(bed: &Bed, guest: &Domain) -> Result<bool> {
    let owner = format!("rights of domain {}:", guest.id);
    let all = rights(&debug_key(bed, "q")?);
    let mut own = all.iter().filter_map(|line| line.strip_prefix(&owner)).peekable();
    ensure!(own.peek().is_some(), "no rights of domain {} in {all:?}", guest.id);
    // `I/O Memory { f0000-f0003 }`, or empty braces.
    Ok(own.any(|line| line.split_once('{').is_some_and(|(_, rest)| rest.contains(|c: char| c.is_ascii_hexdigit()))))
}

fn read_by_the_next(bed: &mut Bed) -> Result<()> {
    let first = bed.domains.iter().find(|domain| domain.name == "first").cloned();
    let second = guest(bed, "second")?;
    bed.check_kind(&second, "nvme0q", "pcifront-msi-x", 2)?;
    bed.in_guest(&second, &format!("disk-check {DISK} {SEED} {MIB}"))?;
    for guest in first.iter().chain([&second]) {
        bed.destroy(guest)?;
    }
    Ok(())
}

/// The one device that has a driver with MSI and without MSI-X.
fn by_msi(bed: &mut Bed) -> Result<()> {
    const DISK: &str = "/dev/sda";
    bed.broker()?;
    let guest = bed.guest_with("sata", &[AHCI])?;
    bed.in_guest(&guest, "load sd_mod")?;
    bed.in_guest(&guest, "load ahci")?;
    bed.await_disk(&guest, DISK)?;
    let count = |bed: &mut Bed| -> Result<u64> {
        Ok(bed.check_kind(&guest, "ahci", "pcifront-msi", 1)?.first().context("no interrupt")?.count)
    };
    let before = count(bed)?;
    let seed = network::seed()?;
    bed.in_guest(&guest, &format!("disk-write {DISK} {seed} {MIB}"))?;
    bed.in_guest(&guest, &format!("disk-check {DISK} {seed} {MIB}"))?;
    let after = count(bed)?;
    ensure!(before < after, "interrupts: {before}, then {after}");
    let noted = bed.vectors_of(AHCI)?;
    ensure!(noted.first().is_some_and(|word| word == "msi") && noted.len() == 2, "the broker's table has {noted:?}");
    bed.pcidom(&["detach", &guest.name, AHCI])?;
    ensure!(Irqs::now(bed)?.bound_to(guest.id).is_empty(), "Xen still has an interrupt for the guest");
    bed.destroy(&guest)
}
