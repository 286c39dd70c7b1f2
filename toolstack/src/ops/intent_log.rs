//! What a command is about to do with a device between dom0's drivers, xen-pciback and the stub, written down before it begins
//! (`/tool/pcidom/work/BDF`), so that the next command undoes or finishes it if this one is killed. Of a device that
//! is on its way to or from a guest the table says it (`device_table.rs`).

use xen_types::{DomId, Sbdf};
use xenstore::{Permission, path};

use crate::error::{Error, HostError};
use crate::host::Host;
use crate::store::Change;

const DIR: &str = "/tool/pcidom/work";
/// Stands for nobody.
const NONE: &str = "-";

/// One device's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It comes from this driver of dom0 (from xen-pciback, if it is parked already) and goes to the stub, if there is one: undone.
    Add { from: Option<String>, stub: Option<DomId> },
    /// It goes back to dom0, and to the driver it came from if that is wanted: finished.
    Remove { rebind: bool },
}

impl Work {
    fn parse(text: &str) -> Option<Self> {
        let known = |word: &str| (word != NONE).then(|| word.to_owned());
        match text.splitn(3, ' ').collect::<Vec<_>>()[..] {
            ["add", stub, from] => {
                let stub = known(stub).map(|id| id.parse().map(DomId)).transpose().ok()?;
                Some(Self::Add { from: known(from), stub })
            }
            ["remove"] => Some(Self::Remove { rebind: false }),
            ["remove", "rebind"] => Some(Self::Remove { rebind: true }),
            _ => None,
        }
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Add { from, stub } => {
                let stub = stub.map_or_else(|| NONE.to_owned(), |stub| stub.to_string());
                write!(f, "add {stub} {}", from.as_deref().unwrap_or(NONE))
            }
            Self::Remove { rebind: false } => f.write_str("remove"),
            Self::Remove { rebind: true } => f.write_str("remove rebind"),
        }
    }
}

/// Writes down what is going to be done. That it is done, [`done`] says: in the transaction that ends it all.
pub(crate) fn begin(works: &[(Sbdf, Work)]) -> Vec<Change> {
    let mut changes = Change::directory("/tool/pcidom", &[Permission::none(DomId::DOM0)]).to_vec();
    changes.extend(Change::directory(DIR, &[Permission::none(DomId::DOM0)]));
    changes.extend(works.iter().map(|(device, work)| Change::write(node(*device), work)));
    changes
}

fn override_node(device: Sbdf) -> String {
    path::child(&node(device), "override")
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
    changes.push(Change::remove_if_empty(DIR));
    changes.push(Change::remove_if_empty("/tool/pcidom"));
    changes
}

/// What commands have left that were killed, device by device.
///
/// # Errors
/// [`HostError::Nonsense`] where something else stands there; xenstore's.
pub(crate) fn load(host: &Host) -> Result<Vec<(Sbdf, Work)>, Error> {
    let read = |name: String| {
        let device = Sbdf::parse_path_component(&name)
            .map_err(|_| HostError::Nonsense { place: DIR.to_owned(), value: name.clone() })?;
        let place = node(device);
        let value = host.read(&place)?.unwrap_or_default();
        let work = Work::parse(&value).ok_or(HostError::Nonsense { place, value })?;
        Ok((device, work))
    };
    host.list(DIR)?.into_iter().map(read).collect()
}

/// What [`note_override`] noted.
pub(crate) fn noted_override(host: &Host, device: Sbdf) -> Result<Option<String>, Error> {
    host.read(&override_node(device))
}

fn node(device: Sbdf) -> String {
    path::child(DIR, &device.path_component().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for (work, text) in [
            (Work::Add { from: Some("ahci".to_owned()), stub: Some(DomId(3)) }, "add 3 ahci"),
            (Work::Add { from: None, stub: None }, "add - -"),
            (Work::Remove { rebind: false }, "remove"),
            (Work::Remove { rebind: true }, "remove rebind"),
        ] {
            assert_eq!(work.to_string(), text);
            assert_eq!(Work::parse(text), Some(work));
        }
        for text in ["", "add", "add x ahci", "remove 3", "remove rebind now"] {
            assert_eq!(Work::parse(text), None, "{text:?}");
        }
    }
}
