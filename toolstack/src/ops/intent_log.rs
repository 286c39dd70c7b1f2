//! What a command is about to do with a device between dom0's drivers, xen-pciback and the stub, written down before it begins
//! (`/tool/pcidom/work/BDF`), so that the next command undoes or finishes it if this one is killed. Of a device that
//! is on its way to or from a guest the table says it (`device_table.rs`).

use pcidom_abi::{Intent, paths};
use xen_types::{DomId, Sbdf};
use xenstore::{Permission, path};

use crate::error::Error;
use crate::host::Host;
use crate::store::Change;

/// Writes down what is going to be done. That it is done, [`done`] says: in the transaction that ends it all.
pub(crate) fn begin(intents: &[(Sbdf, Intent)]) -> Vec<Change> {
    let mut changes = Change::directory(paths::TOOL, &[Permission::none(DomId::DOM0)]).to_vec();
    changes.extend(Change::directory(paths::INTENTS, &[Permission::none(DomId::DOM0)]));
    changes.extend(intents.iter().map(|(device, intent)| Change::write(node(*device), intent)));
    changes
}

fn override_node(device: Sbdf) -> String {
    paths::override_node(device)
}

/// Notes what an admin has in the device's `driver_override`, while something else stands there.
pub(crate) fn note_override(device: Sbdf, wanted: &str) -> Change {
    Change::write(override_node(device), wanted)
}

/// Nothing needs to be done any more.
pub(crate) fn done(devices: &[Sbdf]) -> Vec<Change> {
    if devices.is_empty() {
        return Vec::new();
    }
    let mut changes: Vec<Change> = devices.iter().map(|device| Change::remove(node(*device))).collect();
    changes.push(Change::remove_if_empty(paths::INTENTS));
    changes.push(Change::remove_if_empty(paths::TOOL));
    changes
}

/// Entries of the intent log, left by killed commands, by device. One that cannot be read is told and left: it keeps no other device waiting.
///
/// # Errors
/// Xenstore's.
pub(crate) fn load(host: &Host) -> Result<Vec<(Sbdf, Intent)>, Error> {
    let mut intents = Vec::new();
    for name in host.list(paths::INTENTS)? {
        let value = host.read(&path::child(paths::INTENTS, &name))?.unwrap_or_default();
        match (Sbdf::parse_path_component(&name), value.parse()) {
            (Ok(device), Ok(intent)) => intents.push((device, intent)),
            _ => host.note(&format!(
                "{}/{name} holds {value:?}, which makes no sense: nothing is done about it",
                paths::INTENTS
            )),
        }
    }
    Ok(intents)
}

/// What [`note_override`] noted.
pub(crate) fn noted_override(host: &Host, device: Sbdf) -> Result<Option<String>, Error> {
    host.read(&override_node(device))
}

fn node(device: Sbdf) -> String {
    paths::intent_node(device)
}
