//! Many guests at once.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    bed::Bed,
    crowd::{Crowd, GUESTS},
};

pub(super) const CASES: &[Case] = &[Case::within(
    Duration::from_mins(10),
    "sixty_four_guests_with_four_functions_each_get_right_answers_from_a_stub_of_2_mib",
    crowd,
)];

/// How long all of them are at it.
const MILLISECONDS: u32 = 10_000;
/// How many of them are ended; with all of them it would take a minute.
const FEW: u8 = 4;

fn crowd(bed: &mut Bed) -> Result<()> {
    let crowd = Crowd::gather(bed)?;
    crowd.expect_own_devices(bed)?;
    let answers = crowd.hammer(bed, 0..usize::from(GUESTS), MILLISECONDS)?;
    println!("agent: the first of {GUESTS}: {}", answers[0]);
    crowd.expect_own_devices(bed)?;
    let listing = bed.pcidom(&["list", "--json"])?;
    let attached = listing.matches("\"vdev\": \"0000:00:00.").count();
    ensure!(attached == usize::from(GUESTS) * 4, "list knows of {attached} devices");
    println!("agent: {}", bed.pcidom(&["status"])?.trim().replace('\n', " | "));
    crowd.end(bed, FEW)?;
    // The others do not notice.
    crowd.hammer(bed, usize::from(FEW)..usize::from(FEW) * 2, 1_000).map(drop)
}
