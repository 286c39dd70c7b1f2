//! What domains and devices of the simulated machine are called.

use xen_types::{DomId, Sbdf};

pub const STUB: DomId = DomId(3);
pub const WEB: DomId = DomId(5);
pub const DB: DomId = DomId(6);
pub const HVM: DomId = DomId(7);

pub const E1000: &str = "0000:00:05.0";
pub const EDU: &str = "0000:00:06.0";
pub const NVME: &str = "0000:00:07.0";
/// The physical function of those that [`crate::Machine::make_virtual`] makes virtual ones.
pub const PHYSICAL: &str = "0000:00:0d.0";
/// dom0's own disk controller.
pub const SATA: &str = "0000:00:1f.2";

pub fn device(text: &str) -> Sbdf {
    text.parse().unwrap()
}
