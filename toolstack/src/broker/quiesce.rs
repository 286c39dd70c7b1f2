//! A device that nobody may be hurt by: no DMA, awake, its header right, no vectors. The broker does it when a stub asks, a command
//! when a guest has let go or is gone.

use xen_types::{DomId, Sbdf};

use super::capabilities::Capabilities;
use super::interrupts;
use super::power;
use super::vectors::{self, Noted, Vectors};
use crate::device::resources::DeviceResources;
use crate::error::Error;
use crate::host::Host;

/// What a command does when `guest` has let go of `devices`, or is gone. `facts` are those of the devices that dom0 still sees; of
/// others there is nothing left but the vectors.
pub(crate) fn let_go(host: &Host, guest: DomId, devices: &[Sbdf], facts: &[DeviceResources]) -> Result<(), Error> {
    for device in devices {
        // The broker may be at it: then it notices that the device is taken, and unmaps what it has mapped.
        vectors::await_rest(host, *device)?;
    }
    facts.iter().try_for_each(|facts| make_quiet(host, guest, facts))?;
    for device in devices.iter().copied().filter(|device| facts.iter().all(|facts| facts.device != *device)) {
        let mapped = Vectors::load(host, device)?;
        interrupts::unmap(host, guest, device, &mapped)?;
        vectors::remove(host, device)?;
    }
    Ok(())
}

/// Makes a device of `guest` quiet and forgets its vectors. INTx is off afterwards.
pub(crate) fn make_quiet(host: &Host, guest: DomId, facts: &DeviceResources) -> Result<(), Error> {
    let device = facts.device;
    let config = host.sysfs.config(device)?;
    let capabilities = Capabilities::read(&config)?;
    let noted = Noted::load(host, device)?;
    if noted.vectors != Vectors::None {
        host.commit(&[Vectors::Busy.store(device)])?;
    }
    config.quiesce(facts.decode())?;
    // Before anything that has Xen look into the MSI-X table: in D3hot nobody answers there.
    power::wake(host, &config, &capabilities, facts, || Ok(false))?;
    interrupts::clear(host, guest, device, &config, &capabilities, &noted)?;
    config.quiesce(facts.decode())?;
    vectors::remove(host, device)
}
