//! Devices that dom0 itself cannot do without: those with its mounted file systems or its swap, and its only network card. xl takes them without a
//! word ("will gladly re-assign a critical system device", xl-pci-configuration(5)).
//!
//! Block devices are followed down through device-mapper, md, loop and btrfs to the functions that they are behind; interfaces through bridges, bonds and
//! VLANs. What a ZFS pool is made of no file says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use xen_types::Sbdf;

use crate::error::Error;
use crate::host::Host;
use crate::sysfs::PCIBACK;

/// How deep devices are followed that stand on others. The kernel itself does not let them stand on each other in a circle.
const DEPTH: usize = 16;

/// Refuses devices that are to be taken from dom0's drivers and that dom0 needs, unless the admin has said that they are to be taken all the same.
///
/// # Errors
/// [`Error::UsedByDom0`] for the first of them.
pub(crate) fn check(host: &Host, devices: &[Sbdf]) -> Result<(), Error> {
    let is_dom0s = |device: &Sbdf| host.sysfs.driver(*device).is_some_and(|driver| driver != PCIBACK);
    let wanted: BTreeSet<Sbdf> = devices.iter().copied().filter(is_dom0s).collect();
    if wanted.is_empty() || host.seize_in_use.get() {
        return Ok(());
    }
    let dom0 = Dom0::look(host);
    let of_storage = dom0.storage().into_iter().find(|(device, _)| wanted.contains(device));
    match of_storage.or_else(|| dom0.network(&wanted)) {
        Some((device, what)) => Err(Error::UsedByDom0 { device, what }),
        None => Ok(()),
    }
}

/// A mounted file system.
pub(crate) struct Mount {
    /// Block device, `MAJOR:MINOR`. Some file systems have none of their own.
    number: String,
    place: String,
    source: String,
}

/// dom0's files.
struct Dom0<'a> {
    sys: &'a Path,
    proc: PathBuf,
    dev: PathBuf,
    mounts: Vec<Mount>,
}

impl<'a> Dom0<'a> {
    fn look(host: &'a Host) -> Self {
        let (sys, proc, dev) = (host.sysfs.root(), host.root.join("proc"), host.root.join("dev"));
        // Of process 1: this one may be in a namespace of its own.
        let text = ["1/mountinfo", "self/mountinfo"].iter().find_map(|name| fs::read_to_string(proc.join(name)).ok());
        Self { sys, proc, dev, mounts: text.as_deref().map(parse_mounts).unwrap_or_default() }
    }

    /// Functions behind mounted file systems and swap, each with what is on it; the root file system first.
    fn storage(&self) -> Vec<(Sbdf, String)> {
        let mut mounts: Vec<&Mount> = self.mounts.iter().collect();
        mounts.sort_by_key(|mount| mount.place != "/");
        let mut found = Vec::new();
        for mount in mounts {
            for name in self.blocks_of(mount) {
                let what = match mount.place.as_str() {
                    "/" => format!("its root file system is on {name}"),
                    place => format!("{place} is on {name}"),
                };
                found.extend(self.functions_of_block(&name, DEPTH).into_iter().map(|device| (device, what.clone())));
            }
        }
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let mut words = line.split_whitespace();
            let (Some(path), Some(kind)) = (words.next().map(unescape), words.next()) else { continue };
            let blocks = match kind {
                "file" => self.mount_of(&path).map(|mount| self.blocks_of(mount)).unwrap_or_default(),
                _ => self.block_at(&path).into_iter().collect(),
            };
            for name in blocks {
                let devices = self.functions_of_block(&name, DEPTH);
                found.extend(devices.into_iter().map(|device| (device, format!("it swaps to {path} on {name}"))));
            }
        }
        found
    }

    /// Names of the block devices that a file system is on.
    fn blocks_of(&self, mount: &Mount) -> Vec<String> {
        let by_number = fs::canonicalize(self.sys.join("dev/block").join(&mount.number)).ok();
        if let Some(name) = by_number.as_deref().and_then(file_name) {
            return vec![name];
        }
        let Some(name) = self.block_at(&mount.source) else { return Vec::new() };
        // btrfs tells one of its devices.
        let pools = entries(&self.sys.join("fs/btrfs")).into_iter().map(|pool| names(&pool.join("devices")));
        pools.into_iter().find(|members| members.contains(&name)).unwrap_or_else(|| vec![name])
    }

    /// Name of the block device at a path below /dev, which may be a link.
    fn block_at(&self, path: &str) -> Option<String> {
        let path = self.dev.join(path.strip_prefix("/dev/")?);
        file_name(&fs::canonicalize(path).ok()?)
    }

    /// The file system that a file is in.
    fn mount_of(&self, path: &str) -> Option<&Mount> {
        let holds = |mount: &&Mount| Path::new(path).starts_with(&mount.place);
        self.mounts.iter().filter(holds).max_by_key(|mount| mount.place.len())
    }

    /// The PCI functions behind a block device, or behind those that it is made of.
    fn functions_of_block(&self, name: &str, depth: usize) -> BTreeSet<Sbdf> {
        let Ok(path) = fs::canonicalize(self.sys.join("class/block").join(name)) else { return BTreeSet::new() };
        let own = functions_in(&path);
        if !own.is_empty() || depth == 0 {
            return own;
        }
        // A partition has what it is made of at its disk.
        let parts = [Some(path.as_path()), path.parent()];
        let mut found = BTreeSet::new();
        // A disk with several paths is below none of its controllers; the subsystem has links to them.
        let is_subsystem = |dir: &&Path| {
            file_name(dir).is_some_and(|name| name.starts_with("nvme-subsys") && name != "nvme-subsystem")
        };
        if let Some(subsystem) = path.ancestors().find(is_subsystem) {
            let controllers = entries(subsystem).into_iter().filter_map(|entry| fs::canonicalize(entry).ok());
            found.extend(controllers.flat_map(|controller| functions_in(&controller)));
        }
        for dir in parts.into_iter().flatten() {
            for slave in names(&dir.join("slaves")) {
                found.extend(self.functions_of_block(&slave, depth - 1));
            }
            if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file"))
                && let Some(mount) = self.mount_of(file.trim_end())
            {
                found.extend(self.blocks_of(mount).iter().flat_map(|name| self.functions_of_block(name, depth - 1)));
            }
        }
        found
    }

    /// One of these that is dom0's only way to the network, if they are all of it.
    fn network(&self, wanted: &BTreeSet<Sbdf>) -> Option<(Sbdf, String)> {
        let defaults = self.default_interfaces();
        let mut cards: BTreeMap<Sbdf, String> = BTreeMap::new();
        for name in &defaults {
            let what = format!("its default route goes by {name}, and by no other card");
            cards.extend(self.functions_of_interface(name, DEPTH).into_iter().map(|device| (device, what.clone())));
        }
        if cards.is_empty() {
            // No default route, or one by what nobody can look through (Open vSwitch).
            for name in names(&self.sys.join("class/net")) {
                let state = fs::read_to_string(self.sys.join("class/net").join(&name).join("operstate"));
                let what = format!("{name} is its only network card that is up");
                let is_up = state.is_ok_and(|state| state.trim() == "up");
                let devices = if is_up { self.functions_of_interface(&name, 0) } else { BTreeSet::new() };
                cards.extend(devices.into_iter().map(|device| (device, what.clone())));
            }
        }
        let all_go = cards.keys().all(|device| wanted.contains(device));
        cards.into_iter().next().filter(|_| all_go)
    }

    /// Interfaces with a default route, for IPv4 or IPv6.
    fn default_interfaces(&self) -> BTreeSet<String> {
        /// `RTF_REJECT` in `linux/route.h`: there is no such route.
        const REJECT: u32 = 0x200;
        let read = |name: &str| fs::read_to_string(self.proc.join("1/net").join(name)).unwrap_or_default();
        let is_zero = |text: &&str| text.bytes().all(|digit| digit == b'0');
        let mut found = BTreeSet::new();
        for line in read("route").lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, destination, _, _, _, _, _, mask, ..] = words[..]
                && is_zero(&destination)
                && is_zero(&mask)
            {
                found.insert(name.to_owned());
            }
        }
        for line in read("ipv6_route").lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [destination, length, _, _, _, _, _, _, flags, name] = words[..]
                && is_zero(&destination)
                && is_zero(&length)
                && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & REJECT == 0)
                && name != "lo"
            {
                found.insert(name.to_owned());
            }
        }
        found
    }

    /// The PCI functions behind an interface, or behind those below it (`lower_NAME`).
    fn functions_of_interface(&self, name: &str, depth: usize) -> BTreeSet<Sbdf> {
        let Ok(path) = fs::canonicalize(self.sys.join("class/net").join(name)) else { return BTreeSet::new() };
        let own = functions_in(&path);
        if !own.is_empty() || depth == 0 {
            return own;
        }
        let below = names(&path);
        let below = below.iter().filter_map(|name| name.strip_prefix("lower_"));
        below.flat_map(|name| self.functions_of_interface(name, depth - 1)).collect()
    }
}

/// The function that a path in sysfs leads to: the last one in it, as those before it are bridges.
fn functions_in(path: &Path) -> BTreeSet<Sbdf> {
    path.iter().rev().find_map(|name| name.to_str()?.parse().ok()).into_iter().collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect()).unwrap_or_default()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = entries(dir).iter().filter_map(|path| file_name(path)).collect();
    names.sort_unstable();
    names
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// `/proc/PID/mountinfo` (proc(5)): `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`.
pub(crate) fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (fields, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let [_, _, number, _, place, ..] = fields[..] else { return None };
        let source = rest.split(' ').nth(1)?;
        Some(Mount { number: number.to_owned(), place: unescape(place), source: unescape(source) })
    };
    text.lines().filter_map(parse).collect()
}

/// Blanks and backslashes stand as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let octal = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (octal, part.get(3..)) {
            (Some(byte), Some(rest)) => {
                plain.push(char::from(byte));
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}
