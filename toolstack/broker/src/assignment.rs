//! Looks up a device's owner in the device database, which no guest can write. It is the broker's only source; what was read of it is good until
//! somebody begins a change ([`dom0::changes`]).

use pcidom_abi::paths;
use xen_types::{DomId, Sbdf};

use super::failure::Failure;
use crate::records::{self, Phase, Record};
use dom0::Dom0;
use dom0::Error;

/// A device that a stub serves to a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assigned {
    pub(crate) device: Sbdf,
    pub(crate) stub: DomId,
    pub(crate) guest: DomId,
    /// The count of changes with which that was so, and no clean-up of vectors was under way; `None` where nobody can say that it still is.
    pub(crate) changes: Option<u64>,
}

impl Assigned {
    /// Looks the device up for a stub that asks about it, and reads three more nodes with the same question.
    pub(crate) fn find(
        host: &Dom0,
        stub: DomId,
        device: Sbdf,
        more: &[String; 3],
    ) -> Result<(Self, [Option<String>; 3]), Failure> {
        let (nodes, pool) = (records::record_nodes(device), paths::pool_dir(stub, device));
        let [a, b, c] = nodes.each_ref().map(String::as_str);
        let [d, e, f] = more.each_ref().map(String::as_str);
        let changes = host.changes.as_ref().and_then(|changes| changes.settled());
        let [a, b, c, pool, cleanups, d, e, f] = host.read_many([a, b, c, &pool, paths::VECTOR_CLEANUPS, d, e, f])?;
        let mut assigned = Self::from_record(stub, records::parse_record(device, nodes, [a, b, c])?)?;
        assigned.changes = changes.filter(|_| cleanups.is_none());
        // Domain ids come again: another domain with the dead stub's number cannot have this directory.
        if pool.is_some() { Ok((assigned, [d, e, f])) } else { Err(Failure::NotYours) }
    }

    /// Whether nobody has begun to change anything of the database since. Who begins now makes the device quiet later than what was done here.
    pub(crate) fn is_unchanged(&self, host: &Dom0) -> bool {
        self.changes.is_some() && host.changes.as_ref().and_then(|changes| changes.begun()) == self.changes
    }

    /// Whether nobody has taken the device back meanwhile.
    pub(crate) fn is_current(&self, host: &Dom0) -> Result<bool, Error> {
        if self.is_unchanged(host) {
            return Ok(true);
        }
        let record = records::load_one(host, self.device)?;
        Ok(Self::from_record(self.stub, record).is_ok_and(|current| current.guest == self.guest))
    }

    fn from_record(stub: DomId, record: Option<Record>) -> Result<Self, Failure> {
        let record = record.ok_or(Failure::NotYours)?;
        match (record.phase, record.frontend) {
            (Phase::Attaching | Phase::Attached, Some(guest)) if record.stub == stub => {
                Ok(Self { device: record.device, stub, guest, changes: None })
            }
            _ => Err(Failure::NotYours),
        }
    }
}
