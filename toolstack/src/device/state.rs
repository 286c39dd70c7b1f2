//! In which state a device is found.

use dom0::sysfs::Config;
use pci_registers::{command, header, msi, msix};

use crate::error::HostError;
use crate::sysfs::{ConfigWalk as _, Decode, Width};

/// Whether the device is as [`Config::quiesce`] leaves it: nobody has used it since.
pub(crate) fn is_quiesced(config: &Config, decode: Decode) -> Result<bool, HostError> {
    let wanted = u32::from(command::INTX_DISABLE | decode.bits());
    let is_set = |offset, bits: u16| Ok::<_, HostError>(config.read(offset, Width::Word)? & u32::from(bits) != 0);
    if config.read(header::COMMAND, Width::Word)? & (u32::from(command::BUS_MASTER) | wanted) != wanted {
        return Ok(false);
    }
    let capabilities = config.capabilities()?;
    let is_msi_on = capabilities.msi.map_or(Ok(false), |msi| is_set(msi.at + msi::CONTROL, msi::ENABLE))?;
    Ok(!is_msi_on && !capabilities.msix.map_or(Ok(false), |msix| is_set(msix.at + msix::CONTROL, msix::ENABLE))?)
}

/// Whether nothing answers any more: the device was pulled out. Its ids alone do not tell, a virtual function's read as ones too
/// (PCIe 5.0 §9.3.4.1.1); its class does not.
pub(crate) fn is_gone(config: &Config) -> Result<bool, HostError> {
    let is_absent = |offset| Ok::<_, HostError>(config.read(offset, Width::Dword)? == u32::MAX);
    Ok(is_absent(header::VENDOR_ID)? && is_absent(header::REVISION_ID)?)
}
