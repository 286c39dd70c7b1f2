//! Whose a device is: the broker's only source is the table that no guest can write.

use xen_types::{DomId, Sbdf};
use xenstore::path;

use super::failure::Failure;
use crate::host::Host;
use crate::table::{self, Phase};

/// A device that a stub serves to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) device: Sbdf,
    pub(crate) stub: DomId,
    pub(crate) guest: DomId,
}

impl Lent {
    /// Looks the device up for a stub that asks about it.
    pub(crate) fn find(host: &Host, stub: DomId, device: Sbdf) -> Result<Self, Failure> {
        let lent = Self::from_table(host, stub, device)?;
        // Domain ids come again: another domain with the dead stub's number cannot have this directory.
        if host.exists(&path::pool_dir(stub, device))? { Ok(lent) } else { Err(Failure::NotYours) }
    }

    /// Looks again: has nobody taken the device back meanwhile?
    pub(crate) fn check_still(&self, host: &Host) -> Result<(), Failure> {
        if Self::from_table(host, self.stub, self.device)? == *self { Ok(()) } else { Err(Failure::NotYours) }
    }

    fn from_table(host: &Host, stub: DomId, device: Sbdf) -> Result<Self, Failure> {
        let record = table::load_one(host, device)?.ok_or(Failure::NotYours)?;
        match (record.phase, record.frontend) {
            (Phase::Attaching | Phase::Attached, Some(guest)) if record.stub == stub => {
                Ok(Self { device, stub, guest })
            }
            _ => Err(Failure::NotYours),
        }
    }
}
