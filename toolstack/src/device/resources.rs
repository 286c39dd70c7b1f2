//! The rights that a guest needs to use its devices, and the pages that devices share.

pub(crate) use pcidom_broker::DeviceResources;

use xen_types::{Mfn, ResourceKind, Sbdf};

use crate::host::Host;
use crate::sysfs::legacy_list;
use crate::xen::{Frames, Ports};

const PAGE_BYTES: u64 = 4096;

fn frames(device: &DeviceResources) -> impl Iterator<Item = Frames> + use<'_> {
    let memory = device.resources.iter().filter(|(_, resource)| resource.kind() != ResourceKind::Io);
    memory.map(|(_, resource)| pages(resource.start(), resource.start() + (resource.size() - 1)))
}

fn ports(device: &DeviceResources) -> impl Iterator<Item = Ports> + use<'_> {
    device.resources.iter().filter(|(_, resource)| resource.kind() == ResourceKind::Io).filter_map(|(_, resource)| {
        let [first, count] = [resource.start(), resource.size()].map(u32::try_from);
        Some(Ports { first: first.ok()?, count: count.ok()? })
    })
}

/// The first of these pages of memory that the device has registers in. A guest with the page could reach the registers of the
/// other device whose pages they are (XSA-461).
pub(crate) fn shared_page(device: &DeviceResources, others: &[Frames]) -> Option<u64> {
    let overlap = |a: Frames, b: Frames| {
        let first = a.first.max(b.first);
        (first.0 < (a.first.0 + a.count).min(b.first.0 + b.count)).then_some(first.0 * PAGE_BYTES)
    };
    frames(device).find_map(|mine| others.iter().find_map(|theirs| overlap(mine, *theirs)))
}

/// Whether a file with the ranges of all functions shows that none of these devices has registers in a page of one that is not among `wanted`. False does
/// not say the opposite: the file may be missing, or not tell enough.
pub(crate) fn share_nothing(host: &Host, devices: &[DeviceResources], wanted: &[Sbdf]) -> bool {
    let text = std::fs::read_to_string(host.root.join("proc/bus/pci/devices")).unwrap_or_default();
    let Some(lines) = legacy_list::parse(&text) else { return false };
    let is_at = |line: &legacy_list::Line, device: Sbdf| (device.bus(), device.devfn()) == (line.bus, line.devfn);
    // Each has one line, unless another segment has a function at the same place.
    let is_certain = wanted.iter().all(|device| lines.iter().filter(|line| is_at(line, *device)).count() == 1);
    let others = lines.iter().filter(|line| !wanted.iter().any(|device| is_at(line, *device)));
    let memory = others.flat_map(|line| &line.memory).map(|(first, last)| pages(*first, *last)).collect::<Vec<_>>();
    is_certain && devices.iter().all(|device| shared_page(device, &memory).is_none())
}

/// The pages of memory in which another device may have registers. None, and a note, where its files make no sense: what they say is no
/// reason to refuse this one.
pub(crate) fn pages_of_other(host: &Host, device: Sbdf) -> Vec<Frames> {
    match host.sysfs.memory(device) {
        Ok(ranges) => ranges.into_iter().map(|(first, last)| pages(first, last)).collect(),
        Err(error) => {
            host.note(&format!("{device} is left out where pages are compared: {error}"));
            Vec::new()
        }
    }
}

fn pages(first: u64, last: u64) -> Frames {
    let (first, last) = (first / PAGE_BYTES, last / PAGE_BYTES);
    Frames { first: Mfn(first), count: last - first + 1 }
}

/// Rights that a guest needs to use its devices. Devices of one guest may share pages and interrupts, so
/// ranges are merged and each interrupt stands once: what is given once is taken back once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestRights {
    pub(crate) frames: Vec<Frames>,
    pub(crate) ports: Vec<Ports>,
    pub(crate) gsis: Vec<u32>,
}

impl GuestRights {
    pub(crate) fn of(devices: &[DeviceResources]) -> Self {
        let frames = merge(devices.iter().flat_map(frames).map(|frames| (frames.first.0, frames.count)));
        let ports = merge(devices.iter().flat_map(ports).map(|ports| (ports.first, ports.count)));
        let mut gsis: Vec<u32> = devices.iter().filter_map(|resources| resources.gsi).collect();
        gsis.sort_unstable();
        gsis.dedup();
        Self {
            frames: frames.into_iter().map(|(first, count)| Frames { first: Mfn(first), count }).collect(),
            ports: ports.into_iter().map(|(first, count)| Ports { first, count }).collect(),
            gsis,
        }
    }

    /// Those that `other` does not have.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let frames =
            |rights: &Self| rights.frames.iter().map(|frames| (frames.first.0, frames.count)).collect::<Vec<_>>();
        let ports = |rights: &Self| rights.ports.iter().map(|ports| (ports.first, ports.count)).collect::<Vec<_>>();
        let left = subtract(frames(self), &frames(other));
        Self {
            frames: left.into_iter().map(|(first, count)| Frames { first: Mfn(first), count }).collect(),
            ports: subtract(ports(self), &ports(other))
                .into_iter()
                .map(|(first, count)| Ports { first, count })
                .collect(),
            gsis: self.gsis.iter().copied().filter(|gsi| !other.gsis.contains(gsi)).collect(),
        }
    }
}

/// Cuts ranges of (first, count) out of others.
fn subtract<N>(mut ranges: Vec<(N, N)>, holes: &[(N, N)]) -> Vec<(N, N)>
where
    N: Copy + Ord + std::ops::Add<Output = N> + std::ops::Sub<Output = N>,
{
    for (hole, count) in holes.iter().copied() {
        let (hole, hole_end) = (hole, hole + count);
        ranges = ranges
            .into_iter()
            .flat_map(|(first, count)| {
                let end = first + count;
                let before = (first < hole).then(|| (first, hole.min(end) - first));
                let after = (end > hole_end).then(|| (first.max(hole_end), end - first.max(hole_end)));
                [before, after].into_iter().flatten()
            })
            .collect();
    }
    ranges
}

/// Joins ranges of (first, count) that overlap or touch.
fn merge<N>(ranges: impl Iterator<Item = (N, N)>) -> Vec<(N, N)>
where
    N: Copy + Ord + std::ops::Add<Output = N> + std::ops::Sub<Output = N>,
{
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable();
    let mut merged: Vec<(N, N)> = Vec::new();
    for (first, count) in sorted {
        match merged.last_mut() {
            Some(last) if first <= last.0 + last.1 => last.1 = last.1.max(first + count - last.0),
            _ => merged.push((first, count)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(device: &str, gsi: Option<u32>, resources: &[&str]) -> DeviceResources {
        let resources = (0..).zip(resources).map(|(index, text)| (index, text.parse().unwrap())).collect();
        DeviceResources { device: device.parse().unwrap(), resources, gsi, ids: None }
    }

    fn frames(first: u64, count: u64) -> Frames {
        Frames { first: Mfn(first), count }
    }

    #[test]
    fn rights_cover_every_page_that_a_bar_touches() {
        let device =
            described("00:05.0", Some(21), &["0xfeb40000 0x20000 mem32", "0xc000 0x40 io", "0xfeb00800 0x800 rom"]);
        let rights = GuestRights::of(&[device]);
        assert_eq!(rights.frames, [frames(0xfeb00, 1), frames(0xfeb40, 0x20)]);
        assert_eq!(rights.ports, [Ports { first: 0xc000, count: 0x40 }]);
        assert_eq!(rights.gsis, [21]);
    }

    #[test]
    fn what_two_devices_of_a_guest_share_is_given_once() {
        let rights = GuestRights::of(&[
            described("00:05.0", Some(21), &["0xfeb00000 0x800 mem32", "0x8c0000000 0x4000 mem64"]),
            described("00:05.1", Some(21), &["0xfeb00800 0x800 mem32", "0xfeb01000 0x1000 mem32p"]),
        ]);
        assert_eq!(rights.frames, [frames(0xfeb00, 2), frames(0x8c0000, 4)]);
        assert_eq!(rights.gsis, [21]);
    }

    #[test]
    fn what_another_device_needs_is_left_out() {
        let one = GuestRights::of(&[described("00:05.0", Some(21), &["0xfeb00000 0x4000 mem32", "0xc000 0x40 io"])]);
        let other = described("00:05.1", Some(21), &["0xfeb01800 0x800 mem32", "0xc010 0x10 io"]);
        let left = one.without(&GuestRights::of(std::slice::from_ref(&other)));
        assert_eq!(left.frames, [frames(0xfeb00, 1), frames(0xfeb02, 2)]);
        assert_eq!(left.ports, [Ports { first: 0xc000, count: 0x10 }, Ports { first: 0xc020, count: 0x20 }]);
        assert_eq!(left.gsis, [0; 0]);
        assert_eq!(one.without(&one), GuestRights { frames: vec![], ports: vec![], gsis: vec![] });
        assert_eq!(one.without(&GuestRights::of(&[])), one);
        let apart = described("00:06.0", Some(22), &["0xfeb04000 0x1000 mem32"]);
        assert_eq!(one.without(&GuestRights::of(&[apart])), one);
    }

    #[test]
    fn a_page_with_registers_of_two_devices_is_found() {
        let one = described("00:05.0", None, &["0xfe000000 0x1000 mem32", "0xc000 0x20 io", "0xfeb00000 0x800 mem32"]);
        assert_eq!(shared_page(&one, &[pages(0xfeb0_0800, 0xfeb0_08ff)]), Some(0xfeb0_0000));
        assert_eq!(shared_page(&one, &[pages(0xfeb0_1000, 0xfeb0_1fff), pages(0xc000, 0xc01f)]), None);
        let around = [pages(0xfd00_0000, 0xfd00_0fff), pages(0xfdff_f001, u64::MAX)];
        assert_eq!(shared_page(&one, &around), Some(0xfe00_0000));
    }
}
