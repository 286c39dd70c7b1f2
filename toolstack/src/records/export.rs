//! How the virtual addresses of a guest's devices are chosen: `docs/architecture.md`, "Addresses that guests see".

use std::collections::BTreeSet;
use std::fmt;

pub(crate) use pcidom_abi::ExportMode;
use pcidom_abi::{EXPORT, paths};
use xen_types::{DomId, Sbdf};
use xenstore::path::{self};

use crate::error::{DomainName, Error};
use crate::host::Host;

/// Slots of a PCI bus.
const SLOTS: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// The mode's name.
    pub(crate) mode: String,
    /// It was chosen for this guest, and is not just what its stub does for everybody.
    pub(crate) is_chosen: bool,
}

impl Export {
    /// For a guest that has directories already, if `has_connection`. Those stay as they are.
    pub(crate) fn find(
        host: &Host,
        stub: DomId,
        guest: &DomainName,
        has_connection: bool,
        wanted: Option<ExportMode>,
    ) -> Result<Self, Error> {
        let stubs = || Ok::<_, Error>(host.read(&paths::export_node(stub))?.unwrap_or_default());
        if !has_connection {
            return Ok(match wanted {
                Some(mode) => Self { mode: mode.name().to_owned(), is_chosen: true },
                None => Self { mode: stubs()?, is_chosen: false },
            });
        }
        let guests = host.read(&path::child(&path::backend_dir(stub, guest.id), EXPORT))?;
        let is_chosen = guests.is_some();
        let mode = guests.map_or_else(stubs, Ok)?;
        match wanted {
            Some(wanted) if wanted.name() != mode => Err(Error::OtherExport { guest: guest.clone(), mode }),
            _ => Ok(Self { mode, is_chosen }),
        }
    }

    /// Number of virtual buses that a guest with these devices can have. Those in `published` stay, whatever is on them.
    pub(crate) fn roots(&self, published: &[String], devices: &[Sbdf]) -> u32 {
        let roots = || devices.iter().map(|device| Root(*device).to_string()).collect::<BTreeSet<_>>();
        let count = match self.mode.as_str() {
            // A bus is begun only when those before it are full.
            "slot" => devices.len().div_ceil(SLOTS),
            "passthrough" => published.len() + roots().iter().filter(|root| !published.contains(root)).count(),
            _ => 1,
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// A device's bus, as `root-N` names it.
struct Root(Sbdf);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}", self.0.segment(), self.0.bus())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::device;

    fn roots(mode: &str, published: &[&str], devices: &[&str]) -> u32 {
        let published = published.iter().map(|root| (*root).to_owned()).collect::<Vec<_>>();
        let devices = devices.iter().map(|text| device(text)).collect::<Vec<_>>();
        Export { mode: mode.to_owned(), is_chosen: false }.roots(&published, &devices)
    }

    #[test]
    fn invented_buses_are_as_many_as_the_devices_can_fill() {
        let devices = vec!["0000:03:00.0"; 33];
        assert_eq!(roots("vpci", &[], &devices), 1);
        assert_eq!(roots("slot", &[], &devices[..32]), 1);
        assert_eq!(roots("slot", &["0000:00"], &devices), 2);
    }

    #[test]
    fn real_buses_come_behind_those_that_were_there() {
        let devices = ["0000:03:00.0", "0000:05:00.0", "0001:03:00.0", "0000:03:01.0"];
        assert_eq!(roots("passthrough", &[], &devices), 3);
        assert_eq!(roots("passthrough", &["0000:05"], &devices), 3);
        assert_eq!(roots("passthrough", &["0000:09"], &devices), 4, "nothing is there any more, but its node stays");
    }
}
