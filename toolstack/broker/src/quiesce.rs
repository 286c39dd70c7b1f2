//! Quiesce: stop DMA, wake to D0, restore the header, unmap vectors. Done by the broker at a stub's request, and by
//! commands when a guest has released a device or is gone.

use xen_types::DomId;

use super::interrupts::{self, Settle};
use super::power;
use super::vectors::{self, Noted, Vectors};
use crate::resources::DeviceResources;
use dom0::Dom0;
use dom0::Error;
use pcidom_abi::Capabilities;

/// Quiesces a device of `guest` and forgets its vectors. INTx is off afterwards.
///
/// # Errors
/// Those of Xen, xenstore and sysfs, and those of `settle`.
pub fn quiesce_device<E: From<Error>>(
    host: &Dom0,
    guest: DomId,
    resources: &DeviceResources,
    capabilities: &Capabilities,
    settle: Settle<'_, E>,
) -> Result<(), E> {
    let device = resources.device;
    let config = host.sysfs.config(device)?;
    let noted = Noted::load(host, device)?;
    if noted.vectors != Vectors::None {
        host.commit(&[vectors::store(&Vectors::Busy, device)])?;
    }
    // A function that its guest has just reset decodes nothing, and shall not decode what it is not given.
    power::write_back(host, &config, resources, false)?;
    config.quiesce(resources.decode(), capabilities)?;
    // Before anything that has Xen look into the MSI-X table: in D3hot nobody answers there.
    power::wake(host, &config, capabilities, resources, || Ok(false))?;
    interrupts::clear(host, guest, device, &config, capabilities, &noted, settle)?;
    config.quiesce(resources.decode(), capabilities)?;
    Ok(vectors::remove(host, device)?)
}
