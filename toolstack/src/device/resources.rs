//! Resources of a device (registers, ports, interrupt), and the rights that a guest needs to use them.

use xen_types::{DomId, Mfn, Resource, ResourceKind, Sbdf};
use xenstore::path::{self, key};

use crate::error::Error;
use crate::host::Host;
use crate::sysfs::Decode;
use crate::xen::{Frames, Ports};

const PAGE_BYTES: u64 = 4096;
/// BARs come before it.
const ROM_INDEX: u8 = 6;

/// A device as dom0 sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceResources {
    pub(crate) device: Sbdf,
    /// BARs and ROM by index.
    pub(crate) resources: Vec<(u8, Resource)>,
    pub(crate) gsi: Option<u32>,
    /// Vendor and device id of a virtual function, as their dword: its own registers read as ones.
    pub(crate) ids: Option<u32>,
}

impl DeviceResources {
    pub(crate) fn gather(host: &Host, device: Sbdf) -> Result<Self, Error> {
        let is_virtual = host.sysfs.physical_function(device).is_some();
        Ok(Self {
            device,
            resources: host.sysfs.resources(device)?,
            gsi: host.sysfs.gsi(device)?,
            ids: is_virtual.then(|| host.sysfs.ids(device)).transpose()?,
        })
    }

    /// Its registers alone: every other file in sysfs takes as long to read.
    pub(crate) fn of_registers(host: &Host, device: Sbdf) -> Result<Self, Error> {
        Ok(Self { device, resources: host.sysfs.resources(device)?, gsi: None, ids: None })
    }

    /// From dom0, or from the pool where dom0 does not see the device any more.
    pub(crate) fn find(host: &Host, stub: DomId, device: Sbdf) -> Result<Self, Error> {
        if host.sysfs.exists(device) { Self::gather(host, device) } else { Self::recall(host, stub, device) }
    }

    /// Those of a guest's devices that a command is not about. Where dom0's files about one make no sense, it is what the pool says that
    /// counts: its guest was given that. One of which nothing is known is left out: the command goes on.
    ///
    /// # Errors
    /// Xenstore's.
    pub(crate) fn of_others(host: &Host, stub: DomId, devices: &[Sbdf]) -> Result<Vec<Self>, Error> {
        let mut found = Vec::new();
        for device in devices.iter().copied() {
            match Self::find_or_recall(host, stub, device) {
                Ok(facts) => found.push(facts),
                Err(error @ Error::Store(_)) => return Err(error),
                Err(error) => host.note(&format!("{device} is left out: {error}")),
            }
        }
        Ok(found)
    }

    /// As [`Self::find`], or from the pool where dom0's files of the device make no sense.
    pub(crate) fn find_or_recall(host: &Host, stub: DomId, device: Sbdf) -> Result<Self, Error> {
        Self::find(host, stub, device).or_else(|error| {
            if !host.exists(&path::pool_dir(stub, device))? {
                return Err(error);
            }
            host.note(&format!("{device}: {error}; what the pool says of it counts"));
            Self::recall(host, stub, device)
        })
    }

    /// Resources from the pool's nodes, for a device that dom0 no longer sees.
    pub(crate) fn recall(host: &Host, stub: DomId, device: Sbdf) -> Result<Self, Error> {
        let dir = path::pool_dir(stub, device);
        let mut resources = Vec::new();
        for index in 0..=ROM_INDEX {
            let place = path::child(&dir, &format!("resource-{index}"));
            if let Some(value) = host.read(&place)? {
                resources.push((index, value.parse().map_err(|_| Error::Nonsense { place, value })?));
            }
        }
        let irq = host.read(&path::child(&dir, "irq"))?.and_then(|value| value.parse().ok());
        let ids = host.read(&path::child(&dir, key::IDS))?.and_then(|value| u32::from_str_radix(&value, 16).ok());
        Ok(Self { device, resources, gsi: irq.filter(|irq| *irq != 0), ids })
    }

    /// Whether it is a virtual function of an SR-IOV device.
    pub(crate) fn is_virtual(&self) -> bool {
        self.ids.is_some()
    }

    /// Which decoders the device needs. A ROM has its own switch and stays off. Those of virtual functions are a bit of their physical
    /// function, for all of them (PCIe 5.0 §9.3.3.3.4).
    pub(crate) fn decode(&self) -> Decode {
        if self.is_virtual() {
            return Decode::default();
        }
        let kinds = || self.resources.iter().map(|(_, resource)| resource.kind());
        Decode {
            io: kinds().any(|kind| kind == ResourceKind::Io),
            memory: kinds().any(|kind| !matches!(kind, ResourceKind::Io | ResourceKind::Rom)),
        }
    }

    fn frames(&self) -> impl Iterator<Item = Frames> {
        let memory = self.resources.iter().filter(|(_, resource)| resource.kind() != ResourceKind::Io);
        memory.map(|(_, resource)| pages(resource.start(), resource.start() + (resource.size() - 1)))
    }

    fn ports(&self) -> impl Iterator<Item = Ports> {
        self.resources.iter().filter(|(_, resource)| resource.kind() == ResourceKind::Io).filter_map(|(_, resource)| {
            let [first, count] = [resource.start(), resource.size()].map(u32::try_from);
            Some(Ports { first: first.ok()?, count: count.ok()? })
        })
    }

    /// The first of these pages of memory that the device has registers in. A guest with the page could reach the registers of the
    /// other device whose pages they are (XSA-461).
    pub(crate) fn shared_page(&self, others: &[Frames]) -> Option<u64> {
        let overlap = |a: Frames, b: Frames| {
            let first = a.first.max(b.first);
            (first.0 < (a.first.0 + a.count).min(b.first.0 + b.count)).then_some(first.0 * PAGE_BYTES)
        };
        self.frames().find_map(|mine| others.iter().find_map(|theirs| overlap(mine, *theirs)))
    }
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
        let frames =
            merge(devices.iter().flat_map(DeviceResources::frames).map(|frames| (frames.first.0, frames.count)));
        let ports = merge(devices.iter().flat_map(DeviceResources::ports).map(|ports| (ports.first, ports.count)));
        let mut gsis: Vec<u32> = devices.iter().filter_map(|facts| facts.gsi).collect();
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

    fn facts(device: &str, gsi: Option<u32>, resources: &[&str]) -> DeviceResources {
        let resources = (0..).zip(resources).map(|(index, text)| (index, text.parse().unwrap())).collect();
        DeviceResources { device: device.parse().unwrap(), resources, gsi, ids: None }
    }

    fn frames(first: u64, count: u64) -> Frames {
        Frames { first: Mfn(first), count }
    }

    #[test]
    fn rights_cover_every_page_that_a_bar_touches() {
        let device =
            facts("00:05.0", Some(21), &["0xfeb40000 0x20000 mem32", "0xc000 0x40 io", "0xfeb00800 0x800 rom"]);
        let rights = GuestRights::of(&[device]);
        assert_eq!(rights.frames, [frames(0xfeb00, 1), frames(0xfeb40, 0x20)]);
        assert_eq!(rights.ports, [Ports { first: 0xc000, count: 0x40 }]);
        assert_eq!(rights.gsis, [21]);
    }

    #[test]
    fn what_two_devices_of_a_guest_share_is_given_once() {
        let rights = GuestRights::of(&[
            facts("00:05.0", Some(21), &["0xfeb00000 0x800 mem32", "0x8c0000000 0x4000 mem64"]),
            facts("00:05.1", Some(21), &["0xfeb00800 0x800 mem32", "0xfeb01000 0x1000 mem32p"]),
        ]);
        assert_eq!(rights.frames, [frames(0xfeb00, 2), frames(0x8c0000, 4)]);
        assert_eq!(rights.gsis, [21]);
    }

    #[test]
    fn what_another_device_needs_is_left_out() {
        let one = GuestRights::of(&[facts("00:05.0", Some(21), &["0xfeb00000 0x4000 mem32", "0xc000 0x40 io"])]);
        let other = facts("00:05.1", Some(21), &["0xfeb01800 0x800 mem32", "0xc010 0x10 io"]);
        let left = one.without(&GuestRights::of(std::slice::from_ref(&other)));
        assert_eq!(left.frames, [frames(0xfeb00, 1), frames(0xfeb02, 2)]);
        assert_eq!(left.ports, [Ports { first: 0xc000, count: 0x10 }, Ports { first: 0xc020, count: 0x20 }]);
        assert_eq!(left.gsis, [0; 0]);
        assert_eq!(one.without(&one), GuestRights { frames: vec![], ports: vec![], gsis: vec![] });
        assert_eq!(one.without(&GuestRights::of(&[])), one);
        let apart = facts("00:06.0", Some(22), &["0xfeb04000 0x1000 mem32"]);
        assert_eq!(one.without(&GuestRights::of(&[apart])), one);
    }

    #[test]
    fn a_page_with_registers_of_two_devices_is_found() {
        let one = facts("00:05.0", None, &["0xfe000000 0x1000 mem32", "0xc000 0x20 io", "0xfeb00000 0x800 mem32"]);
        assert_eq!(one.shared_page(&[pages(0xfeb0_0800, 0xfeb0_08ff)]), Some(0xfeb0_0000));
        assert_eq!(one.shared_page(&[pages(0xfeb0_1000, 0xfeb0_1fff), pages(0xc000, 0xc01f)]), None);
        let around = [pages(0xfd00_0000, 0xfd00_0fff), pages(0xfdff_f001, u64::MAX)];
        assert_eq!(one.shared_page(&around), Some(0xfe00_0000));
    }

    #[test]
    fn decoders_are_those_of_the_bars_alone() {
        let decode = |resources: &[&str]| facts("00:05.0", None, resources).decode();
        assert_eq!(decode(&["0xc000 0x20 io"]), Decode { io: true, memory: false });
        assert_eq!(decode(&["0xfeb00000 0x1000 mem64p"]), Decode { io: false, memory: true });
        assert_eq!(decode(&["0xfeb00000 0x1000 rom"]), Decode::default());
        let virtual_function =
            DeviceResources { ids: Some(0x1520_8086), ..facts("03:10.0", None, &["0xfeb00000 0x1000 mem64p"]) };
        assert_eq!(virtual_function.decode(), Decode::default());
    }
}
