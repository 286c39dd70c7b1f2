//! The devices in a backend directory: entry N is everything that is numbered N (docs/protocol.md §1.2). Numbers are not stable: when a
//! device leaves, those above move down, in the transaction in which it leaves (§1.5).

use xen_types::{DomId, Sbdf};
use xenstore::path::{self, key};
use xenstore::{Permission, XenbusState};

use crate::error::{Error, HostError};
use crate::host::Host;
use crate::records::device_spec::DeviceSpec;
use crate::records::export::Export;
use crate::store::Change;

/// One device of a backend directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) device: Sbdf,
    /// `state-N`.
    pub(crate) state: XenbusState,
}

impl Entry {
    /// Whether the guest may know of it: it was exported, and its address is written down.
    pub(crate) fn is_exported(&self) -> bool {
        matches!(self.state, XenbusState::Initialised | XenbusState::Closing)
    }
}

/// All of one directory, in order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entries {
    stub: DomId,
    guest: DomId,
    list: Vec<Entry>,
    /// `root-N`: the virtual buses that the stub has told the guest of, and then empty ones for it to name.
    roots: Vec<String>,
}

impl Entries {
    /// Of a directory that is about to be made.
    pub(crate) fn none(stub: DomId, guest: DomId) -> Self {
        Self { stub, guest, list: Vec::new(), roots: Vec::new() }
    }

    /// Reads them; none where there is no directory.
    pub(crate) fn load(host: &Host, stub: DomId, guest: DomId) -> Result<Self, Error> {
        let backend = path::backend_dir(stub, guest);
        let node = |name: String| path::child(&backend, &name);
        // With what there is of a guest that has one device.
        let first = [
            node(key::NUM_DEVS.to_owned()),
            node(key::dev(0)),
            node(key::state(0)),
            node(key::root(0)),
            node(key::root(1)),
        ];
        let [count, dev, state, mut root, next_root] = host.read_many(first.each_ref().map(String::as_str))?;
        let [place, ..] = first;
        let count: u32 = match count {
            None => 0,
            Some(value) => value.parse().map_err(|_| HostError::Nonsense { place, value })?,
        };
        let others: Vec<String> =
            (1..count).flat_map(|index| [node(key::dev(index)), node(key::state(index))]).collect();
        let mut values = [dev, state].into_iter().chain(host.read_all(&others)?);
        let mut list = Vec::new();
        for index in 0..count {
            let value = values.next().flatten().unwrap_or_default();
            let device = value.parse().map_err(|_| HostError::Nonsense { place: node(key::dev(index)), value })?;
            let state = values.next().flatten().map(XenbusState::parse).unwrap_or_default();
            list.push(Entry { device, state });
        }
        let mut roots = Vec::new();
        let mut next_root = Some(next_root);
        while let Some(known) = root {
            roots.push(known);
            root = match next_root.take() {
                Some(next) => next,
                None => host.read(&node(key::root(self::count(&roots))))?,
            };
        }
        Ok(Self { stub, guest, list, roots })
    }

    /// Those of some devices, as far as they are there.
    pub(crate) fn of(&self, devices: &[Sbdf]) -> impl Iterator<Item = &Entry> {
        self.list.iter().filter(|entry| devices.contains(&entry.device))
    }

    pub(crate) fn find(&self, device: Sbdf) -> Option<&Entry> {
        self.list.iter().find(|entry| entry.device == device)
    }

    /// Adds devices behind those that are there. With everything the stub will write in place already: an unprivileged domain may
    /// own only so many nodes, these are dom0's.
    pub(crate) fn append(&self, export: &Export, specs: &[DeviceSpec]) -> Vec<Change> {
        let backend = path::backend_dir(self.stub, self.guest);
        let writable = stub_writable(self.stub, self.guest);
        let mut changes = Vec::new();
        for (index, spec) in (0..).zip(specs).map(|(number, spec)| (count(&self.list) + number, spec)) {
            let node = |name: String| path::child(&backend, &name);
            changes.extend([
                Change::write(node(key::key(index)), spec.device),
                Change::write(node(key::dev(index)), spec.device),
                Change::write(node(key::opts(index)), spec.opts()),
            ]);
            changes.extend(spec.vdevfn().map(|devfn| Change::write(node(key::vdevfn(index)), format!("{devfn:x}"))));
            changes.extend(spec.name.as_ref().map(|name| Change::write(node(name_key(index)), name)));
            changes.extend(Change::node(node(key::state(index)), XenbusState::Initialising, &writable));
            changes.extend(Change::node(node(key::vdev(index)), "", &writable));
        }
        let all: Vec<Sbdf> =
            self.list.iter().map(|entry| entry.device).chain(specs.iter().map(|spec| spec.device)).collect();
        let published: Vec<String> = self.roots.iter().filter(|root| !root.is_empty()).cloned().collect();
        for root in count(&self.roots)..export.roots(&published, &all) {
            changes.extend(Change::node(path::child(&backend, &key::root(root)), "", &writable));
        }
        changes.push(Change::write(path::child(&backend, key::NUM_DEVS), all.len()));
        changes
    }

    /// Removes some devices; those above move down as libxl moves them. The nodes that the stub writes keep their rights, and the
    /// values are those of the moment in which it happens.
    pub(crate) fn remove(&self, devices: &[Sbdf]) -> Vec<Change> {
        let backend = path::backend_dir(self.stub, self.guest);
        let staying = (0..).zip(&self.list).filter(|(_, entry)| !devices.contains(&entry.device));
        let mut changes = Vec::new();
        let mut left = 0;
        for (new, (old, _)) in (0..).zip(staying) {
            left = new + 1;
            if new != old {
                let moves = names(old).into_iter().zip(names(new));
                changes.extend(
                    moves.map(|(from, to)| Change::copy(path::child(&backend, &from), path::child(&backend, &to))),
                );
            }
        }
        for index in left..count(&self.list) {
            changes.extend(names(index).map(|name| Change::remove(path::child(&backend, &name))));
        }
        changes.push(Change::write(path::child(&backend, key::NUM_DEVS), left));
        changes
    }

    /// Sets `state-N` of some devices.
    pub(crate) fn set_states(&self, devices: &[Sbdf], to: XenbusState) -> Vec<Change> {
        let backend = path::backend_dir(self.stub, self.guest);
        let numbers = (0..).zip(&self.list).filter(|(_, entry)| devices.contains(&entry.device));
        numbers.map(|(index, _)| Change::write(path::child(&backend, &key::state(index)), to)).collect()
    }
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// libxl's `name-N`.
fn name_key(index: u32) -> String {
    format!("name-{index}")
}

/// Everything numbered (the list of libxl's `libxl__device_pci_remove_xenstore`, 4.17, and its `name-N`).
fn names(index: u32) -> [String; 7] {
    [
        key::state(index),
        key::dev(index),
        key::key(index),
        key::vdev(index),
        key::opts(index),
        key::vdevfn(index),
        name_key(index),
    ]
}

/// Rights of what the stub writes.
pub(crate) fn stub_writable(stub: DomId, guest: DomId) -> [Permission; 3] {
    [Permission::none(DomId::DOM0), Permission::both(stub), Permission::read(guest)]
}
