//! A device that nobody may be hurt by: no DMA, awake, its header right, no vectors. The broker does it when a stub asks, a command
//! when a guest has let go or is gone.

use xen_types::DomId;

use super::capabilities::Capabilities;
use super::interrupts;
use super::power;
use super::vectors::{self, Vectors};
use crate::error::Error;
use crate::facts::Facts;
use crate::host::Host;

/// Makes a device of `guest` quiet and forgets its vectors. INTx is off afterwards.
pub(crate) fn make_quiet(host: &Host, guest: DomId, facts: &Facts) -> Result<(), Error> {
    let device = facts.device;
    let config = host.sysfs.config(device)?;
    let capabilities = Capabilities::read(&config)?;
    let mapped = Vectors::load(host, device)?;
    if mapped != Vectors::None {
        host.commit(&[Vectors::Busy.store(device)])?;
    }
    config.quiesce(facts.decode())?;
    // Before anything that has Xen look into the MSI-X table: in D3hot nobody answers there.
    power::wake(host, &config, &capabilities, facts)?;
    interrupts::clear(host, guest, device, &config, &capabilities, &mapped)?;
    config.quiesce(facts.decode())?;
    vectors::remove(host, device)
}
