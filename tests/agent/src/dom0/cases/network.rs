//! Network cards, by each kind of interrupt.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{E1000, E1000E},
    fixture::Fixture,
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
pub(super) fn guest(fixture: &mut Fixture) -> Result<Domain> {
    fixture.broker()?;
    fixture.guest_with("network", &[E1000, E1000E])
}

fn by_intx(fixture: &mut Fixture) -> Result<()> {
    pass(fixture, E1000, "e1000", "pcifront", 1)
}

fn by_msix(fixture: &mut Fixture) -> Result<()> {
    // Receiving, sending, and everything else.
    pass(fixture, E1000E, "e1000e", "pcifront-msi-x", 3)
}

/// One card's driver comes, moves data and goes.
fn pass(fixture: &mut Fixture, device: &str, driver: &str, kind: &str, vectors: usize) -> Result<()> {
    let guest = guest(fixture)?;
    fixture.in_guest(&guest, &format!("load {driver}"))?;
    let interface = fixture.interface_in(&guest, device)?;
    fixture.connect(&guest, &interface)?;
    let before: u64 =
        fixture.check_kind(&guest, &interface, kind, vectors)?.iter().map(|interrupt| interrupt.count).sum();
    fixture.ping(&guest, PINGS)?;
    fixture.transfer(&guest, MIB, |_, _| Ok(()))?;
    let after: u64 =
        fixture.check_kind(&guest, &interface, kind, vectors)?.iter().map(|interrupt| interrupt.count).sum();
    println!("agent: {} interrupts by {kind}", after - before);
    // Each ping waits for the one before.
    ensure!(after - before >= u64::from(PINGS), "only {} interrupts", after - before);
    let word = if kind == "pcifront-msi-x" { "msix" } else { "none" };
    let noted = fixture.vectors_of(device)?;
    ensure!(noted.first().is_some_and(|first| first == word), "the broker's table has {noted:?}");
    fixture.in_guest(&guest, &format!("unload {driver}"))?;
    let noted = fixture.vectors_of(device)?;
    ensure!(noted == ["none"], "without a driver the broker's table has {noted:?}");
    Ok(())
}
