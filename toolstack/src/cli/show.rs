//! `pcidom show`: the configuration space of a device as its guest sees it, or as a guest would, and what the policy does with writes.
//!
//! What is virtual is shown as it is when a guest gets the device: the guest's own bits of Command, and that it is sizing a base address
//! register, are known to the stub alone.

use std::fmt::Write as _;

use pci_config::{Description, Entry, Policy, RESOURCES, VirtualConfig, check_servable};
use pcidom_abi::statistics::QueryKind;
use serde::Serialize;
use xen_types::{DomId, Sbdf};

use crate::cli::columns::columns;
use crate::cli::list::{self, DomainEntry};
use crate::device::permitted_writes;
use crate::device::resources::DeviceResources;
use crate::device::state;
use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::ops::pool;
use crate::ops::stub_query;
use crate::records::device_table;
use crate::records::export::{Export, ExportMode};
use crate::sysfs::ConfigWalk as _;

/// Version of the JSON form; grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// Offset under which the stub counts denied writes beyond the places that it tells apart.
const ELSEWHERE: u64 = 0x1000;

/// Everything. The order of the fields is the one of the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    version: u32,
    device: String,
    /// The physical function, if this is a virtual one.
    physical_function: Option<String>,
    /// Where its guest sees it.
    vdev: Option<String>,
    /// Who has it; with none, this is what a guest would see.
    guest: Option<DomainEntry>,
    stub: Option<DomainEntry>,
    policy: Option<String>,
    /// Bytes of configuration space.
    size: u16,
    /// A bad pointer in a capability list.
    broken_pointer: Option<u16>,
    registers: Vec<Register>,
    /// Writes in vain at places that are not counted by themselves; none where nobody counts.
    denied_elsewhere: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Register {
    offset: u16,
    width: u8,
    block: String,
    name: &'static str,
    source: &'static str,
    value: u32,
    answered_by: &'static str,
    device_bits: u32,
    virtual_bits: u32,
    openable_bits: u32,
    reason: String,
    /// Writes in vain that began here; none where nobody counts.
    denied: Option<u64>,
}

/// Looks at a device. Nothing is changed but the question to the stub, which is taken back.
pub(crate) fn show(host: &Host, device: Sbdf) -> Result<Shown, Error> {
    if !host.sysfs.exists(device) {
        return Err(Error::NoSuchDevice(device));
    }
    let config = host.sysfs.config(device)?;
    if state::is_gone(&config)? {
        return Err(Error::Gone(device));
    }
    if host.sysfs.is_bridge(device)? || config.look(|space| check_servable(space))?.is_err() {
        return Err(Error::Bridge(device));
    }
    let record = device_table::load_one(host, device)?;
    let stub = record.map(|record| record.stub);
    let guest = record.and_then(|record| record.frontend);
    let policy = device_table::policy(host, device)?.unwrap_or_default();
    let with_resets = permitted_writes::with_resets(host, device, &policy);
    let device_resources = DeviceResources::gather(host, device)?;
    let mut resources = [None; RESOURCES];
    for (index, resource) in &device_resources.resources {
        if let Some(place) = resources.get_mut(usize::from(*index)) {
            *place = Some(*resource);
        }
    }
    let description = Description {
        resources: &resources,
        ids: device_resources.ids,
        irq: device_resources.gsi.unwrap_or(0),
        policy_flags: with_resets.policy_flags(),
    };
    let is_alone = match (stub, guest) {
        (Some(stub), Some(guest)) => is_alone(host, stub, guest)?,
        _ => false,
    };
    let (size, fault, entries) = config.look(|space| {
        let (mut view, fault) = VirtualConfig::read_from(&description, space);
        view.show_alone(space, is_alone);
        (view.size(), fault, view.inventory(space, &with_resets))
    })?;
    let denied_writes = match (stub, guest) {
        (Some(stub), Some(guest)) if pool::state(host, stub, device)?.guest() == Some(guest) => {
            DeniedWrites(stub_query::ask(host, stub, QueryKind::DeniedWrites(device))?)
        }
        _ => DeniedWrites(None),
    };
    let named = |domain: Option<DomId>| domain.map(|id| domain::named(host, id)).transpose();
    Ok(Shown {
        version: JSON_VERSION,
        device: device.to_string(),
        physical_function: host.sysfs.physical_function(device).map(|physical| physical.to_string()),
        vdev: match (stub, guest) {
            (Some(stub), Some(guest)) => list::vdev(host, stub, guest, device)?,
            _ => None,
        },
        guest: named(guest)?.map(DomainEntry::from),
        stub: named(stub)?.map(DomainEntry::from),
        policy: (policy != Policy::default()).then(|| policy.to_string()),
        size,
        broken_pointer: fault.map(|fault| fault.pointer),
        denied_elsewhere: denied_writes.within(ELSEWHERE, u64::MAX),
        registers: entries.into_iter().filter_map(|entry| Register::new(entry, &denied_writes)).collect(),
    })
}

/// Whether the guest sees each function alone in its slot.
fn is_alone(host: &Host, stub: DomId, guest: DomId) -> Result<bool, Error> {
    let export = Export::find(host, stub, &domain::named(host, guest)?, true, None)?;
    Ok(export.mode == ExportMode::Slot.name())
}

/// The stub's answer: offsets and how often. It may say anything.
struct DeniedWrites(Option<Vec<u64>>);

impl DeniedWrites {
    /// Count of denied writes that began in this range.
    fn within(&self, first: u64, end: u64) -> Option<u64> {
        let pairs = self.0.as_ref()?.chunks_exact(2);
        let counts = pairs.filter_map(|pair| match pair {
            [offset, count] if (first..end).contains(offset) => Some(count),
            _ => None,
        });
        Some(counts.fold(0, |sum, count| sum.saturating_add(*count)))
    }
}

impl Register {
    /// `None` for one that there is nothing to say about: no name, zero, and nobody writes it.
    fn new(entry: Entry, denied_writes: &DeniedWrites) -> Option<Self> {
        let first = u64::from(entry.offset);
        let denied = denied_writes.within(first, first + u64::from(entry.bytes));
        let is_nothing = entry.name.is_empty() && entry.value == 0 && entry.device_bits == 0;
        if is_nothing && denied.unwrap_or(0) == 0 {
            return None;
        }
        Some(Self {
            offset: entry.offset,
            width: entry.bytes,
            block: entry.block,
            name: entry.name,
            source: entry.source,
            value: entry.value,
            answered_by: entry.answer.name(),
            device_bits: entry.device_bits,
            virtual_bits: entry.virtual_bits,
            openable_bits: entry.openable_bits,
            reason: entry.reason.to_string(),
            denied,
        })
    }

    fn row(&self) -> [String; 9] {
        let digits = 2 * usize::from(self.width);
        let bits = |bits: u32| if bits == 0 { "-".to_owned() } else { format!("{bits:0digits$x}") };
        [
            format!("{:03x}", self.offset),
            self.width.to_string(),
            format!("{:0digits$x}", self.value),
            self.answered_by.to_owned(),
            bits(self.device_bits),
            bits(self.virtual_bits),
            self.denied.filter(|denied| *denied != 0).map_or_else(|| "-".to_owned(), |denied| denied.to_string()),
            format!("{} {}", if self.block.is_empty() { "-" } else { &self.block }, self.name).trim_end().to_owned(),
            self.reason.clone(),
        ]
    }
}

impl Shown {
    /// The JSON form.
    pub(crate) fn json(&self) -> String {
        // Strings, numbers and nothing that could fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The form for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name:<8}  {value}"); // writing to a string does not fail
        };
        line("device", &self.device);
        if let Some(physical) = &self.physical_function {
            line("of", &format_args!("{physical}, of which it is a virtual function"));
        }
        match (&self.guest, &self.vdev) {
            (Some(guest), Some(vdev)) => line("guest", &format_args!("{guest}, as {vdev}")),
            (Some(guest), None) => line("guest", &format_args!("{guest}, which does not see it yet")),
            (None, _) => line("guest", &"none: this is what one would see"),
        }
        if let Some(stub) = &self.stub {
            line("backend", stub);
        }
        if let Some(policy) = &self.policy {
            line("policy", policy);
        }
        line("space", &format_args!("{} bytes", self.size));
        if let Some(pointer) = self.broken_pointer {
            line("broken", &format_args!("a list of capabilities leads to {pointer:#x}, which is none"));
        }
        match self.denied_elsewhere {
            None if self.guest.is_some() => line("denied", &"unknown: the backend does not answer"),
            Some(count) if count > 0 => {
                line("denied", &format_args!("{count} writes at other places than those below"))
            }
            _ => {}
        }
        let header = ["OFFSET", "WIDTH", "VALUE", "FROM", "DEVICE", "VIRTUAL", "DENIED", "REGISTER", "WRITES"];
        let rows: Vec<[String; 9]> = self.registers.iter().map(Register::row).collect();
        let _ = write!(text, "\n{}", columns(header, &rows));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_stub_says_is_a_number() {
        let denied_writes = DeniedWrites(Some(vec![4, 2, 4, u64::MAX, 7, 1, 0x1000, 3, u64::MAX, 5, 9]));
        assert_eq!(denied_writes.within(4, 6), Some(u64::MAX));
        assert_eq!((denied_writes.within(6, 8), denied_writes.within(8, 12)), (Some(1), Some(0)));
        assert_eq!(denied_writes.within(ELSEWHERE, u64::MAX), Some(3));
        assert_eq!(DeniedWrites(None).within(0, 4), None);
    }
}
