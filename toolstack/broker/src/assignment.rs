//! Looks up a device's owner in the device database, which no guest can write. It is the broker's only source.

use pcidom_abi::paths;
use xen_types::{DomId, Sbdf};

use super::failure::Failure;
use crate::records::{self, Phase, Record};
use dom0::Dom0;
use dom0::Error;
use dom0::store::Change;

/// A device that a stub serves to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) device: Sbdf,
    pub(crate) stub: DomId,
    pub(crate) guest: DomId,
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
        let [a, b, c, pool, d, e, f] = host.read_many([a, b, c, &pool, d, e, f])?;
        let assigned = Self::from_record(stub, records::parse_record(device, nodes, [a, b, c])?)?;
        // Domain ids come again: another domain with the dead stub's number cannot have this directory.
        if pool.is_some() { Ok((assigned, [d, e, f])) } else { Err(Failure::NotYours) }
    }

    /// Writes a node and looks again, after that is done: has nobody taken the device back meanwhile?
    pub(crate) fn check_after(&self, host: &Dom0, change: &Change) -> Result<(), Failure> {
        let nodes = records::record_nodes(self.device);
        let values = host.write_and_read(change, nodes.each_ref().map(String::as_str))?;
        let record = records::parse_record(self.device, nodes, values)?;
        if Self::from_record(self.stub, record)? == *self { Ok(()) } else { Err(Failure::NotYours) }
    }

    /// Whether nobody has taken the device back meanwhile.
    pub(crate) fn is_current(&self, host: &Dom0) -> Result<bool, Error> {
        let record = records::load_one(host, self.device)?;
        Ok(Self::from_record(self.stub, record).is_ok_and(|current| current == *self))
    }

    fn from_record(stub: DomId, record: Option<Record>) -> Result<Self, Failure> {
        let record = record.ok_or(Failure::NotYours)?;
        match (record.phase, record.frontend) {
            (Phase::Attaching | Phase::Attached, Some(guest)) if record.stub == stub => {
                Ok(Self { device: record.device, stub, guest })
            }
            _ => Err(Failure::NotYours),
        }
    }
}
