//! A disk with a file system moves from one running guest to another.

use anyhow::{Result, ensure};

use super::{Case, ONE, TWO};
use crate::dom0::{devices::NVME, fixture::Fixture, guests::Domain, network};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_disk_attached_to_a_running_guest_holds_a_file_system", with_file_system),
    Case::new("another_running_guest_finds_the_file_that_the_first_wrote", next_guest),
];

const DISK: &str = "/dev/nvme0n1";
const FILE: &str = "/mnt/file";
const MIB: u32 = 8;
/// Same data for both guests.
const SEED: u64 = 0x517c_c1b7_2722_0a95;

/// A running guest gets the disk.
fn plugged_in(fixture: &mut Fixture, name: &str) -> Result<Domain> {
    let guest = fixture.having(name, &[])?;
    for module in ["nvme", "crc32c_generic", "ext4"] {
        fixture.in_guest(&guest, &format!("load {module}"))?;
    }
    fixture.having(name, &[NVME])?;
    fixture.await_disk(&guest, DISK)?;
    fixture.check_kind(&guest, "nvme0q", "pcifront-msi-x", 2)?;
    Ok(guest)
}

/// The guest gives the disk back, and its kernel has forgotten it.
fn plugged_out(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    fixture.detach(guest, &[NVME])?;
    fixture.in_guest(guest, &format!("! test -e {DISK}"))?;
    let left = fixture.addresses_in(guest)?;
    ensure!(left.is_empty(), "the guest still has {left:?}");
    ensure!(fixture.interrupts_in(guest, "nvme")?.is_empty(), "the guest still has interrupts of it");
    Ok(())
}

fn with_file_system(fixture: &mut Fixture) -> Result<()> {
    let guest = plugged_in(fixture, ONE)?;
    let other = network::seed()?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} {other} {MIB}"))?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} {other} {MIB}"))?;
    fixture
        .in_guest(&guest, &format!("mke2fs -F {DISK} && mkdir -p /mnt && mount -t ext2 {DISK} /mnt && touch {FILE}"))?;
    fixture.in_guest(&guest, &format!("disk-write {FILE} {SEED} {MIB}"))?;
    fixture.in_guest(&guest, &format!("disk-check {FILE} {SEED} {MIB}"))?;
    fixture.in_guest(&guest, "umount /mnt")?;
    fixture.disk_seed = Some(SEED);
    plugged_out(fixture, &guest)
}

fn next_guest(fixture: &mut Fixture) -> Result<()> {
    if fixture.disk_seed != Some(SEED) {
        // The case that writes has not run.
        with_file_system(fixture)?;
    }
    let guest = plugged_in(fixture, TWO)?;
    fixture.in_guest(&guest, &format!("mkdir -p /mnt && mount -t ext2 {DISK} /mnt"))?;
    fixture.in_guest(&guest, &format!("disk-check {FILE} {SEED} {MIB}"))?;
    fixture.in_guest(&guest, "umount /mnt")?;
    plugged_out(fixture, &guest)
}
