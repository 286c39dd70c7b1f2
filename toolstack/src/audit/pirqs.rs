//! The pirqs of devices, recorded before they are unmapped.
//!
//! They stand in `/tool/pcidom/device/BDF/pirqs` from then on until the device is free, so that a command that follows one that was
//! killed, or that looks again, knows them.

use std::collections::BTreeSet;

use xen_types::{DomId, Pirq, Sbdf};
use xenstore::path;

use crate::device::resources::DeviceResources;
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::records::device_table::{self, Phase};
use crate::store::Change;
use pcidom_broker::Vectors;

/// Writes down what the interrupts of devices are, before they are unmapped: GSIs and vectors. Those that were written down
/// earlier stay: a command may have died after it had unmapped some.
pub(crate) fn note_pirqs(host: &Host, devices: &[DeviceResources]) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    for facts in devices {
        let mut pirqs = noted(host, facts.device)?;
        pirqs.extend(facts.gsi.map(Pirq));
        match Vectors::load(host, facts.device)? {
            // Somebody died changing them: it could be any that is nobody else's.
            Vectors::Busy => pirqs.extend(host.hypervisor.vector_pirqs().map(Pirq)),
            vectors => pirqs.extend(vectors.pirqs()),
        }
        changes.push(Change::write(node(facts.device), text(&pirqs)));
    }
    Ok(changes)
}

/// The guest keeps the device after all, or nobody has it.
pub(crate) fn forget_pirqs(device: Sbdf) -> Change {
    Change::remove(node(device))
}

fn node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "pirqs")
}

/// Ranges, because there can be thousands: `21 54-55`.
fn text(pirqs: &BTreeSet<Pirq>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for Pirq(number) in pirqs.iter().copied() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let words = ranges.into_iter().map(
        |(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        },
    );
    words.collect::<Vec<_>>().join(" ")
}

/// The interrupts of a device, as written down.
pub(super) fn noted(host: &Host, device: Sbdf) -> Result<BTreeSet<Pirq>, Error> {
    let place = node(device);
    let value = host.read(&place)?.unwrap_or_default();
    Ok(parse(&value).ok_or(HostError::Nonsense { place, value })?)
}

fn parse(value: &str) -> Option<BTreeSet<Pirq>> {
    let mut pirqs = BTreeSet::new();
    for word in value.split_whitespace() {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        pirqs.extend((first.parse().ok()?..=last.parse().ok()?).map(Pirq));
    }
    Some(pirqs)
}

/// The devices that a guest has besides.
pub(super) fn staying(host: &Host, guest: DomId, leaving: &[DeviceResources]) -> Result<Vec<DeviceResources>, Error> {
    let mut staying = Vec::new();
    for record in device_table::load(host)? {
        let keeps = record.frontend == Some(guest) && matches!(record.phase, Phase::Attaching | Phase::Attached);
        if keeps && leaving.iter().all(|facts| facts.device != record.device) {
            staying.extend(DeviceResources::of_others(host, record.stub, &[record.device])?);
        }
    }
    Ok(staying)
}

/// Those of `pirqs` that no other device of the guest has: its GSI may be shared, and a vector got the number anew.
pub(super) fn without_others(
    host: &Host,
    mut pirqs: BTreeSet<Pirq>,
    staying: &[DeviceResources],
) -> Result<BTreeSet<Pirq>, Error> {
    for facts in staying {
        for theirs in facts.gsi.map(Pirq).into_iter().chain(Vectors::load(host, facts.device)?.pirqs()) {
            pirqs.remove(&theirs);
        }
    }
    Ok(pirqs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_reads_back() {
        for (pirqs, written) in [(&[][..], ""), (&[21], "21"), (&[21, 54, 55], "21 54-55"), (&[0, 1, 2, 9], "0-2 9")] {
            let pirqs: BTreeSet<Pirq> = pirqs.iter().copied().map(Pirq).collect();
            assert_eq!(text(&pirqs), written);
            assert_eq!(parse(written), Some(pirqs));
        }
        for nonsense in ["x", "1-", "-1", "1-x", "1,2"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }
}
