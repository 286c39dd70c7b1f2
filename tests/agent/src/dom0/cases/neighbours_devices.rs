//! What a guest may use of devices whose files in sysfs say more than their registers do.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{IDE, VGA, attribute},
    fixture::Fixture,
    snapshot::{debug_key, rights},
};

pub(super) const CASES: &[Case] = &[Case::within(
    Duration::from_mins(4),
    "a_guest_may_use_what_is_in_the_registers_of_a_vga_and_of_legacy_ide_alone",
    own_registers,
)];

/// The guest, which the other cases on this host have too.
const GUEST: &str = "one";

fn own_registers(fixture: &mut Fixture) -> Result<()> {
    let shadow = attribute(VGA, "resource")?;
    ensure!(shadow.contains("0x00000000000c0000 "), "the ROM of {VGA} is not the copy in memory: {shadow}");
    let legacy = attribute(IDE, "resource")?;
    ensure!(legacy.contains("0x00000000000003f6 0x00000000000003f6 "), "{IDE} is not in legacy mode: {legacy}");
    let guest = fixture.having(GUEST, &[VGA, IDE])?;
    let owner = format!("rights of domain {}:", guest.id);
    let all = rights(&debug_key(fixture, "q")?);
    let own: Vec<&str> = all.iter().filter_map(|line| line.strip_prefix(&owner)).map(str::trim).collect();
    let range = |kind: &str| own.iter().find(|line| line.starts_with(kind)).copied().unwrap_or_default();
    let (memory, ports) = (range("I/O Memory"), range("I/O Ports"));
    ensure!(!firsts(memory).is_empty() && !firsts(ports).is_empty(), "the guest has nothing: {all:?}");
    ensure!(firsts(memory).iter().all(|frame| *frame > 0xff), "the guest may map what is below 1 MiB: {memory}");
    ensure!(firsts(ports).iter().all(|port| *port >= 0x1000), "the guest may use legacy ports: {ports}");
    fixture.detach(&guest, &[VGA, IDE])
}

/// Where the ranges begin: `I/O Memory { fd000-fdfff, febf0 }`.
fn firsts(line: &str) -> Vec<u64> {
    let ranges = line.split_once('{').map_or("", |(_, ranges)| ranges).trim_end_matches(['}', ' ']);
    let first = |range: &str| u64::from_str_radix(range.trim().split('-').next()?, 16).ok();
    ranges.split(',').filter_map(first).collect()
}
