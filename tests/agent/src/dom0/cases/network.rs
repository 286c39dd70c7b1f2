//! Network cards, by each kind of interrupt.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    bed::Bed,
    devices::{E1000, E1000E},
    guests::Domain,
};

pub(super) const CASES: &[Case] = &[
    Case::within(LIMIT, "e1000_answers_1000_pings_and_moves_20_mib_by_intx", by_intx),
    Case::within(LIMIT, "e1000e_answers_1000_pings_and_moves_20_mib_by_msix", by_msix),
];

const LIMIT: Duration = Duration::from_mins(5);
const PINGS: u32 = 1000;
const MIB: u64 = 20;

/// The guest of these cases and of those about the broker.
pub(super) fn guest(bed: &mut Bed) -> Result<Domain> {
    bed.broker()?;
    bed.guest_with("network", &[E1000, E1000E])
}

fn by_intx(bed: &mut Bed) -> Result<()> {
    pass(bed, E1000, "e1000", "pcifront", 1)
}

fn by_msix(bed: &mut Bed) -> Result<()> {
    // Receiving, sending, and everything else.
    pass(bed, E1000E, "e1000e", "pcifront-msi-x", 3)
}

/// One card's driver comes, moves data and goes.
fn pass(bed: &mut Bed, device: &str, driver: &str, kind: &str, vectors: usize) -> Result<()> {
    let guest = guest(bed)?;
    bed.in_guest(&guest, &format!("load {driver}"))?;
    let interface = bed.interface_in(&guest, device)?;
    bed.connect(&guest, &interface)?;
    let before: u64 = bed.check_kind(&guest, &interface, kind, vectors)?.iter().map(|interrupt| interrupt.count).sum();
    bed.ping(&guest, PINGS)?;
    bed.transfer(&guest, MIB, |_, _| Ok(()))?;
    let after: u64 = bed.check_kind(&guest, &interface, kind, vectors)?.iter().map(|interrupt| interrupt.count).sum();
    println!("agent: {} interrupts by {kind}", after - before);
    // Each ping waits for the one before.
    ensure!(after - before >= u64::from(PINGS), "only {} interrupts", after - before);
    let word = if kind == "pcifront-msi-x" { "msix" } else { "none" };
    let noted = bed.vectors_of(device)?;
    ensure!(noted.first().is_some_and(|first| first == word), "the broker's table has {noted:?}");
    bed.in_guest(&guest, &format!("unload {driver}"))?;
    let noted = bed.vectors_of(device)?;
    ensure!(noted == ["none"], "without a driver the broker's table has {noted:?}");
    Ok(())
}
