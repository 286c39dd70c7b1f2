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

fn crowd(bed: &mut Bed) -> Result<()> {
    let crowd = Crowd::gather(bed)?;
    crowd.expect_own_devices(bed)?;
    let answers = crowd.hammer(bed, 0..usize::from(GUESTS), MILLISECONDS)?;
    println!("agent: the first of {GUESTS}: {}", answers[0]);
    crowd.expect_own_devices(bed)?;
    let listing = bed.pcidom(&["list", "--json"])?;
    let attached = listing.matches("\"virtual_address\"").count();
    ensure!(attached >= usize::from(GUESTS) * 4, "list knows of {attached} devices");
    println!("agent: {}", bed.pcidom(&["status"])?.trim().replace('\n', " | "));
    crowd.leave(bed)?;
    bed.pcidom(&["reclaim"])?;
    let stub = bed.stub()?;
    for bus in 1..=GUESTS / 2 {
        let device = format!("0000:{bus:02x}:00.7");
        ensure!(bed.pool_state(&stub, &device)?.as_deref() == Some("free"), "{device} is not free");
    }
    Ok(())
}
