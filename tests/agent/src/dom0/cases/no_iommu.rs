//! A host without IOMMU.

use anyhow::Result;

use super::Case;
use crate::dom0::{bed::Bed, devices::EDU, guests::GuestOptions};

pub(super) const CASES: &[Case] = &[Case::new("attach_says_that_the_host_has_no_iommu", attach)];

fn attach(bed: &mut Bed) -> Result<()> {
    bed.stub()?;
    // xl refuses to create a guest with passthrough= here.
    let guest = bed.create_guest("plain", GuestOptions { passthrough: false, ..GuestOptions::default() })?;
    bed.pcidom_fails(&["attach", &guest.name, EDU], 4, "IOMMU")
}
