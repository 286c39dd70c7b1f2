//! Many guests at once.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    fixture::Fixture,
    scale::{GUESTS, Scale},
};

pub(super) const CASES: &[Case] = &[Case::within(
    Duration::from_mins(10),
    "sixty_four_guests_with_four_functions_each_get_right_answers_from_a_stub_of_2_mib",
    scale,
)];

/// How long all of them are at it.
const MILLISECONDS: u32 = 10_000;
/// How many of them are ended; with all of them it would take a minute.
const FEW: u8 = 4;

fn scale(fixture: &mut Fixture) -> Result<()> {
    let scale = Scale::gather(fixture, "")?;
    scale.expect_own_devices(fixture)?;
    let answers = scale.stress(fixture, 0..usize::from(GUESTS), MILLISECONDS)?;
    println!("agent: the first of {GUESTS}: {}", answers[0]);
    scale.expect_own_devices(fixture)?;
    let listing = fixture.pcidom(&["list", "--json"])?;
    let attached = listing.matches("\"vdev\": \"0000:00:00.").count();
    ensure!(attached == usize::from(GUESTS) * 4, "list knows of {attached} devices");
    println!("agent: {}", fixture.pcidom(&["status"])?.trim().replace('\n', " | "));
    scale.end(fixture, FEW)?;
    // The others do not notice.
    scale.stress(fixture, usize::from(FEW)..usize::from(FEW) * 2, 1_000).map(drop)
}
