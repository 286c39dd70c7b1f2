//! SR-IOV (PCIe 5.0 §9): virtual functions and the physical ones that they belong to. What a virtual function does not say itself dom0's kernel
//! knows from its physical function's capability: its ids, and its address registers in `resource`.

use std::fs;

use ::dom0::Error as HostError;
use pci_config::{Walk, extended_id};
use xen_types::Sbdf;

use super::{ConfigWalk as _, Sysfs};

impl Sysfs {
    /// Number of virtual functions of this one.
    pub(crate) fn virtual_functions(&self, device: Sbdf) -> u32 {
        let count = fs::read_to_string(self.device_dir(device).join("sriov_numvfs")).unwrap_or_default();
        count.trim().parse().unwrap_or(0)
    }

    /// Where a physical function has its SR-IOV capability.
    pub(crate) fn sr_iov(&self, physical: Sbdf) -> Result<Option<u16>, HostError> {
        self.config(physical)?.look(|space| {
            Walk::extended(space).find(|capability| capability.id == extended_id::SR_IOV).map(|found| found.offset)
        })
    }
}
