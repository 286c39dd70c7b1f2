//! SR-IOV (PCIe 5.0 §9): virtual functions and the physical ones that they belong to. What a virtual function does not say itself dom0's kernel
//! knows from its physical function's capability: its ids, and its address registers in `resource`.

use std::fs;

use pci_config::{ConfigSpace as _, Walk};
use xen_types::Sbdf;

use super::{Sysfs, Width};
use crate::error::Error;

/// Id of the SR-IOV extended capability, its control word and bits of it (§9.3.3.3).
const SR_IOV: u16 = 0x0010;
const CONTROL: u16 = 8;
const ENABLE: u32 = 1 << 0;
const MEMORY_ENABLE: u32 = 1 << 3;
const COMMAND: u16 = 4;
const MEMORY_DECODE: u32 = 1 << 1;

impl Sysfs {
    /// The physical function that this is a virtual one of; `None` where it is none.
    pub(crate) fn physical_function(&self, device: Sbdf) -> Option<Sbdf> {
        fs::read_link(self.device_dir(device).join("physfn")).ok()?.file_name()?.to_str()?.parse().ok()
    }

    /// How many virtual functions of this one there are.
    pub(crate) fn virtual_functions(&self, device: Sbdf) -> u32 {
        let count = fs::read_to_string(self.device_dir(device).join("sriov_numvfs")).unwrap_or_default();
        count.trim().parse().unwrap_or(0)
    }

    /// Vendor and device id as dom0's kernel knows them, as their dword.
    pub(crate) fn ids(&self, device: Sbdf) -> Result<u32, Error> {
        let id = |name| {
            let path = self.device_dir(device).join(name);
            let text = self.read(&path)?;
            u16::from_str_radix(text.trim().trim_start_matches("0x"), 16)
                .map_err(|_| Error::Nonsense { place: path.display().to_string(), value: text.clone() })
        };
        Ok(u32::from(id("device")?) << 16 | u32::from(id("vendor")?))
    }

    /// Whether the registers of a function's virtual ones answer. Their own decode bits are hard-wired (§9.3.4.1.3), and Xen looks for the physical
    /// function's besides (`memory_decoded`, `xen/arch/x86/msi.c`).
    pub(crate) fn decodes_virtual_functions(&self, physical: Sbdf) -> Result<bool, Error> {
        const ON: u32 = ENABLE | MEMORY_ENABLE;
        self.config(physical)?.look(|space| {
            let capability = Walk::extended(space).find(|capability| capability.id == SR_IOV);
            let control = capability.map(|capability| space.read_config(capability.offset + CONTROL, Width::Word));
            let is_on = control.is_some_and(|control| control & ON == ON);
            is_on && space.read_config(COMMAND, Width::Word) & MEMORY_DECODE != 0
        })
    }
}
