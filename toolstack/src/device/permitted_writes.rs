//! The list of what the broker may write to a device, as a guest gets it: the policy's table over what the device says by then.

use pci_config::{Policy, PolicyFlags, permitted_writes};
use pcidom_abi::pool::{self, PolicyNumbers};
use pcidom_abi::{DeviceNode, PermittedWrites, paths};
use pcidom_broker::records::record_nodes;
use xen_types::Sbdf;
use xenstore::path;

use crate::error::Error;
use crate::host::Host;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{self, Record};
use crate::store::Change;
use crate::sysfs::ConfigWalk as _;

/// The policy, with the function level resets that dom0's kernel would use itself. None where it knows of something that the device needs besides (`device_specific`,
/// which comes before them), or has been told to use other methods.
pub(crate) fn with_resets(host: &Host, device: Sbdf, policy: &Policy) -> Policy {
    let methods = host.sysfs.reset_methods_in_turn(device);
    let has =
        |name| methods.iter().any(|method| method == name) && !methods.iter().any(|method| method == "device_specific");
    policy.with_resets(has("flr"), has("af_flr"))
}

/// The policy, with the resets that the guest is shown: whatever dom0's kernel says by now.
fn with_shown_resets(host: &Host, device: Sbdf, policy: &Policy) -> Result<Policy, Error> {
    let Some(record) = device_table::load_one(host, device)? else { return Ok(*policy) };
    let numbers = host.read(&policy_node(&record))?.and_then(|text| PolicyNumbers::parse(text.as_bytes()));
    let flags = numbers.map_or_else(PolicyFlags::default, |numbers| PolicyFlags::new(numbers.0));
    Ok(policy.with_resets(flags.shows_express_reset(), flags.shows_features_reset()))
}

/// Makes the list.
fn compile(host: &Host, device: Sbdf, policy: &Policy) -> Result<PermittedWrites, Error> {
    let mut list = host.sysfs.config(device)?.look(|space| permitted_writes(space, policy))?;
    if let Some(physical) = host.sysfs.physical_function(device) {
        list.capabilities.sr_iov = host.sysfs.sr_iov(physical)?;
    }
    Ok(list)
}

/// Makes the lists, and the changes that note them for the broker.
pub(crate) fn note(host: &Host, devices: &[DeviceSpec]) -> Result<Vec<Change>, Error> {
    host.looking_ahead(devices.iter().flat_map(|spec| record_nodes(spec.device)), || {
        let mut nodes = Vec::new();
        for spec in devices {
            nodes.extend(device_table::load_one(host, spec.device)?.map(|record| policy_node(&record)));
        }
        host.read_all(&nodes)?;
        let note = |DeviceSpec { device, policy, .. }: &DeviceSpec| {
            let shown = with_shown_resets(host, *device, policy)?;
            Ok(Change::write(DeviceNode::PermittedWrites.of(*device), node(host, *device, &shown)?))
        };
        devices.iter().map(note).collect()
    })
}

/// Where the stub reads it.
fn policy_node(record: &Record) -> String {
    path::child(&paths::pool_dir(record.stub, record.device), pool::POLICY)
}

/// Refuses a policy whose list no node of xenstore holds.
pub(crate) fn check(host: &Host, device: Sbdf, policy: &Policy) -> Result<(), Error> {
    node(host, device, &with_resets(host, device, policy)).map(drop)
}

fn node(host: &Host, device: Sbdf, policy: &Policy) -> Result<String, Error> {
    let too_long = |error| Error::Usage(format!("{device}: {error}; quirks open less than permissive=1"));
    compile(host, device, policy)?.to_node().map_err(too_long)
}
