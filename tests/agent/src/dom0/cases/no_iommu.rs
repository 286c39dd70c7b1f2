//! A host without IOMMU.

use anyhow::Result;

use super::Case;
use crate::dom0::{devices::EDU, fixture::Fixture, guests::GuestOptions};

pub(super) const CASES: &[Case] = &[Case::new("attach_says_that_the_host_has_no_iommu", attach)];

fn attach(fixture: &mut Fixture) -> Result<()> {
    fixture.stub()?;
    // xl refuses to create a guest with passthrough= here.
    let guest = fixture.create_guest("plain", GuestOptions { passthrough: false, ..GuestOptions::default() })?;
    fixture.pcidom_fails(&["attach", &guest.name, EDU], 4, "IOMMU")
}
