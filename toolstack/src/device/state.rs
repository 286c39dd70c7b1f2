//! In which state a device is found.

use dom0::sysfs::Config;
use pci_config::id;

use crate::error::HostError;
use crate::sysfs::{Decode, Width};

/// Registers of the header (`PCI Local Bus 3.0 §6.1`), and bits of the latter (§6.2.2).
const CLASS_REVISION: u64 = 0x08;
const COMMAND: u64 = 0x04;
const BUS_MASTER: u32 = 1 << 2;
const INTX_DISABLE: u32 = 1 << 10;
/// Bits of the interrupts' control words (§6.8.1.3, §6.8.2.3).
const MSI_ENABLE: u32 = 1 << 0;
const MSIX_ENABLE: u32 = 1 << 15;

/// Whether the device is as [`Config::quiesce`] leaves it: nobody has used it since.
pub(crate) fn is_quiet(config: &Config, decode: Decode) -> Result<bool, HostError> {
    let wanted = INTX_DISABLE | u32::from(decode.bits());
    if config.read(COMMAND, Width::Word)? & (BUS_MASTER | wanted) != wanted {
        return Ok(false);
    }
    let [msi, msix] = config.find_capabilities([id::MSI, id::MSI_X])?;
    for (control, enable) in [(msi, MSI_ENABLE), (msix, MSIX_ENABLE)] {
        if let Some(at) = control
            && config.read(at + 2, Width::Word)? & enable != 0
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether nothing answers any more: the device was pulled out. Its ids alone do not tell, a virtual function's read as ones too
/// (PCIe 5.0 §9.3.4.1.1); its class does not.
pub(crate) fn is_gone(config: &Config) -> Result<bool, HostError> {
    Ok(config.read(0, Width::Dword)? == u32::MAX && config.read(CLASS_REVISION, Width::Dword)? == u32::MAX)
}
