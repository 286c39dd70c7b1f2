//! The list of what the broker may write to a device, as a guest gets it: the policy's table over what the device says by then.

use pci_config::{Policy, permitted_writes};
use pcidom_abi::{DeviceNode, PermittedWrites};
use xen_types::Sbdf;

use crate::error::Error;
use crate::host::Host;
use crate::store::Change;
use crate::sysfs::ConfigWalk as _;

/// Makes the list.
fn compile(host: &Host, device: Sbdf, policy: &Policy) -> Result<PermittedWrites, Error> {
    let mut list = host.sysfs.config(device)?.look(|space| permitted_writes(space, policy))?;
    if let Some(physical) = host.sysfs.physical_function(device) {
        list.capabilities.sr_iov = host.sysfs.sr_iov(physical)?;
    }
    Ok(list)
}

/// Makes the list, and the change that notes it for the broker.
pub(crate) fn note(host: &Host, device: Sbdf, policy: &Policy) -> Result<Change, Error> {
    Ok(Change::write(DeviceNode::PermittedWrites.of(device), node(host, device, policy)?))
}

/// Refuses a policy whose list no node of xenstore holds.
pub(crate) fn check(host: &Host, device: Sbdf, policy: &Policy) -> Result<(), Error> {
    node(host, device, policy).map(drop)
}

fn node(host: &Host, device: Sbdf, policy: &Policy) -> Result<String, Error> {
    let too_long = |error| Error::Usage(format!("{device}: {error}; quirks open less than permissive=1"));
    compile(host, device, policy)?.to_node().map_err(too_long)
}
