//! Devices of which a guest has leaked mappings. Xen does not undo mappings when it takes a right back, so a device
//! of which a living guest has kept something is assigned to no other (`audit/`).

use pcidom_abi::DeviceNode;
use xen_types::{DomId, Sbdf};

use crate::audit;
use crate::device::resources::DeviceResources;
use crate::error::{DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::device_model::Shown;
use crate::records::device_table::{self, Phase, Target};
use crate::store::Change;

/// The devices of which a guest still has something, and what.
#[derive(Debug, Default)]
pub(crate) struct Leaks(Vec<(Sbdf, String)>);

impl Leaks {
    pub(crate) fn has(&self, device: Sbdf) -> bool {
        self.0.iter().any(|(other, _)| *other == device)
    }

    /// # Errors
    /// [`Error::Leaked`] for the first of them.
    pub(crate) fn into_result(self, guest: &DomainName) -> Result<(), Error> {
        let Some((device, what)) = self.0.into_iter().next() else { return Ok(()) };
        Err(Error::Leaked { device, guest: guest.clone(), what })
    }
}

/// Looks, and puts those devices into the phase `leaked` of which the guest has leaked mappings, or may have.
pub(crate) fn note_leaks(host: &Host, guest: &DomainName, devices: &[DeviceResources]) -> Result<Leaks, Error> {
    let mut leaks = Leaks::default();
    let mut shown = Vec::new();
    let found = find(host, guest, devices)?;
    let targets =
        host.looking_ahead(devices.iter().map(|resources| DeviceNode::Target.of(resources.device)), || {
            let target = |resources: &DeviceResources| device_table::target(host, resources.device);
            devices.iter().map(target).collect::<Result<Vec<_>, _>>()
        })?;
    for ((resources, target), what) in devices.iter().zip(targets).zip(found) {
        if let Some(what) = what.or_else(|| in_target(host, resources.device, target?, &mut shown)) {
            host.commit(&[
                device_table::set_phase(resources.device, Phase::Leaked),
                Change::write(node(resources.device), &what),
            ])?;
            leaks.0.push((resources.device, what));
        }
    }
    Ok(leaks)
}

/// Whether an HVM guest that is alive may still have a device: Xen has no call that reads its memory map, and none takes a mapping from it, so its device
/// model's word counts. One that does not answer, or is gone, has not said that the guest let go. `shown`: what device models said; each is asked once, as one
/// that is silent takes its time.
fn in_target(host: &Host, device: Sbdf, target: Target, shown: &mut Vec<(DomId, Shown)>) -> Option<String> {
    let Target { guest, is_alive: true } = target else { return None };
    if !shown.iter().any(|(asked, _)| *asked == guest.id) {
        shown.push((guest.id, Shown::by(host, &guest)));
    }
    let may_have = shown.iter().any(|(asked, shown)| *asked == guest.id && shown.may_have(device));
    may_have.then(|| format!("{guest}, perhaps: its device model has not removed the device"))
}

/// Leaked mappings of each device. A search that failed counts as a leak.
fn find(host: &Host, guest: &DomainName, devices: &[DeviceResources]) -> Result<Vec<Option<String>>, Error> {
    match audit::find_leaks(host, guest, devices) {
        Ok(leaks) => Ok(leaks.iter().map(|leaks| (!leaks.is_empty()).then(|| leaks.to_string())).collect()),
        Err(error @ Error::Host(HostError::Hypercall { .. })) => {
            Ok(devices.iter().map(|_| Some(format!("{guest}, perhaps: {error}"))).collect())
        }
        Err(error) => Err(error),
    }
}

/// The leaked mappings of a device, as text.
pub(crate) fn what(host: &Host, device: Sbdf) -> Result<String, Error> {
    Ok(host.read(&node(device))?.unwrap_or_else(|| "an unknown domain".to_owned()))
}

/// Why the device cannot be assigned now.
pub(crate) fn refusal(host: &Host, device: Sbdf, holder: DomId) -> Result<Error, Error> {
    Ok(Error::Leaked { device, guest: domain::named(host, holder)?, what: what(host, device)? })
}

fn node(device: Sbdf) -> String {
    DeviceNode::Leaked.of(device)
}
