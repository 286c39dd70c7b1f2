//! Quiescing devices that a guest has let go: no DMA, awake, the header right, no vectors.

use std::time::Duration;

use pcidom_broker::{Vectors, quiesce_device, unmap, vectors};
use xen_types::{DomId, Sbdf};

use crate::device::resources::DeviceResources;
use crate::error::Error;
use crate::host::Host;
use crate::sysfs::ConfigWalk as _;

/// Quiesces `devices` after `guest` has released them, or is gone. `resources` are those of the devices that dom0 still sees; of
/// others there is nothing left but the vectors.
pub(crate) fn release(host: &Host, guest: DomId, devices: &[Sbdf], resources: &[DeviceResources]) -> Result<(), Error> {
    for device in devices {
        // The broker may be at it: then it notices that the device is taken, and unmaps what it has mapped.
        await_rest(host, *device)?;
    }
    let settle = |device: Sbdf| await_rest(host, device);
    // Some may have been pulled out since.
    let seen: Vec<&DeviceResources> = resources.iter().filter(|seen| host.sysfs.exists(seen.device)).collect();
    for resources in seen.iter().copied() {
        let capabilities = host.sysfs.config(resources.device)?.capabilities()?;
        quiesce_device(host, guest, resources, &capabilities, &settle)?;
    }
    for device in devices.iter().copied().filter(|device| seen.iter().all(|seen| seen.device != *device)) {
        let mapped = vectors::load(host, device)?;
        unmap(host, guest, device, &mapped, &settle)?;
        vectors::remove(host, device)?;
    }
    Ok(())
}

/// Gives a broker that is just changing a device's vectors the time to finish: it answers within one second.
pub(crate) fn await_rest(host: &Host, device: Sbdf) -> Result<Vectors, Error> {
    const PATIENCE: Duration = Duration::from_millis(1500);
    let rest = host.wait_for(&[vectors::vectors_node(device)], PATIENCE, || {
        let vectors = vectors::load(host, device)?;
        Ok((vectors != Vectors::Busy).then_some(vectors))
    })?;
    Ok(rest.unwrap_or(Vectors::Busy))
}
