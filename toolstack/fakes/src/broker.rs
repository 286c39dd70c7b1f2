//! The broker's part of the simulated machine: vectors, pages and ports of stubs, watches. Strict: an operation out of
//! order, twice or on nothing is a violation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use pcidom_broker::Reclaimer;
use pciif::OwnedPage;
use xen_types::{DomId, Errno, GrantRef, Pirq, Port, Sbdf};

use super::store::Socket;
use super::world::{LOWEST_PIRQ, Mapped, TOP_PIRQ};
use super::{Memory, TempTree, World};
use dom0::store::{Connection, StoreFailure, Watches};
use dom0::xen::{HypercallError, Physdev, Rings, Vector};

const ESRCH: Errno = Errno(3);

/// Xen's side of vectors.
pub struct FakePhysdev {
    pub world: Rc<RefCell<World>>,
    pub tree: Rc<TempTree>,
    /// Devices whose messages Xen wrote again.
    pub restored: RefCell<Vec<Sbdf>>,
}

impl FakePhysdev {
    fn config(&self, device: Sbdf) -> Memory {
        Memory::from_bytes(std::fs::read(self.tree.path().join(format!("bus/pci/devices/{device}/config"))).unwrap())
    }

    /// As Xen looks (`memory_decoded`, `xen/arch/x86/msi.c`): a virtual function has no bit of its own.
    fn is_decoded(&self, device: Sbdf) -> bool {
        let physical = self.tree.path().join(format!("bus/pci/devices/{device}/physfn"));
        let decoder = std::fs::read_link(physical)
            .map_or(device, |target| target.file_name().unwrap().to_str().unwrap().parse().unwrap());
        self.config(decoder).word(4) & 2 != 0
    }

    /// Where dom0 has put the BAR that the MSI-X capability names.
    fn table_bar(&self, device: Sbdf) -> u64 {
        let config = self.config(device);
        let at = config.capability(0x11).unwrap();
        let index = usize::from(config.word(at + 4) & 7);
        let text =
            std::fs::read_to_string(self.tree.path().join(format!("bus/pci/devices/{device}/resource"))).unwrap();
        let start = text.lines().nth(index).unwrap().split(' ').next().unwrap();
        u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap()
    }
}

impl Physdev for FakePhysdev {
    fn map(&self, domain: DomId, device: Sbdf, vector: Vector) -> Result<Pirq, HypercallError> {
        let refuse = |errno| Err(HypercallError { call: "PHYSDEVOP_map_pirq", errno });
        let mut world = self.world.borrow_mut();
        if world.change_fails() {
            return refuse(Errno::EIO);
        }
        if !world.domains.contains_key(&domain) {
            return refuse(ESRCH);
        }
        if world.owners.get(&device) != Some(&domain) {
            return refuse(Errno::ENODEV);
        }
        if let Some((countdown, node, value)) = world.on_map.take() {
            if countdown == 1 {
                world.write(&node, &value);
            } else {
                world.on_map = Some((countdown - 1, node, value));
            }
        }
        let takes = world.map_takes;
        world.clock += takes;
        if let Some(happens) = world.during_map.take() {
            happens();
        }
        let theirs: Vec<Vector> =
            world.vectors.values().filter(|mapped| mapped.device == device).map(|mapped| mapped.vector).collect();
        let count = match vector {
            Vector::Msi { count } => {
                if !theirs.is_empty() {
                    world.violations.push(format!("MSI of {device} on top of {theirs:?}"));
                }
                count
            }
            Vector::Msix { entry, table_bar } => {
                if !self.is_decoded(device) {
                    return refuse(Errno::ENXIO);
                }
                if theirs.iter().any(|other| !matches!(other, Vector::Msix { entry: old, .. } if *old != entry)) {
                    world.violations.push(format!("entry {entry} of {device} on top of {theirs:?}"));
                }
                if table_bar != self.table_bar(device) {
                    world.violations.push(format!("the table of {device} is not at {table_bar:#x}"));
                }
                1
            }
        };
        let is_free = |first: u32| (first..first + count).all(|pirq| !world.pirqs.contains(&(domain, pirq)));
        let Some(first) = (LOWEST_PIRQ..=TOP_PIRQ + 1 - count).rev().find(|first| is_free(*first)) else {
            return refuse(Errno::ENOSPC);
        };
        for pirq in first..first + count {
            world.pirqs.insert((domain, pirq));
            world.vectors.insert((domain, pirq), Mapped { device, vector, first });
        }
        Ok(Pirq(first))
    }

    fn restore(&self, device: Sbdf) -> Result<(), HypercallError> {
        self.restored.borrow_mut().push(device);
        let is_msi = |mapped: &Mapped| mapped.device == device && matches!(mapped.vector, Vector::Msi { .. });
        if self.world.borrow().vectors.values().any(is_msi) {
            let mut config = self.config(device);
            let at = config.capability(0x05).unwrap();
            config.set_word(at + 4, 0xf000);
            config.set_word(at + 6, 0xfee0);
            self.tree.write(format!("bus/pci/devices/{device}/config"), config.bytes);
        }
        Ok(())
    }
}

/// Pages and ports of all stubs.
#[derive(Default)]
pub struct Wires {
    pub granted: BTreeMap<(DomId, u32), Arc<OwnedPage>>,
    pub offered: BTreeSet<(DomId, u32)>,
    /// Our ports and what they are bound to.
    pub bound: BTreeMap<u32, (DomId, u32)>,
    pub pending: BTreeSet<u32>,
    /// Events that a stub's port got.
    pub raised: BTreeMap<(DomId, u32), u32>,
    next: u32,
}

impl Wires {
    /// A stub raises its port.
    pub fn raise(&mut self, stub: DomId, port: u32) {
        let local = self.bound.iter().find(|(_, other)| **other == (stub, port)).map(|(local, _)| *local);
        self.pending.extend(local);
    }

    fn close(&mut self, port: u32) -> bool {
        self.pending.remove(&port);
        self.bound.remove(&port).is_some()
    }
}

/// One process' `/dev/xen/gntdev` and `/dev/xen/evtchn`.
pub struct FakeRings {
    pub wires: Rc<RefCell<Wires>>,
    own: RefCell<BTreeSet<u32>>,
}

impl FakeRings {
    pub fn new(wires: Rc<RefCell<Wires>>) -> Self {
        Self { wires, own: RefCell::default() }
    }
}

impl Drop for FakeRings {
    fn drop(&mut self) {
        // What the kernel does when the process ends.
        for port in self.own.borrow().iter() {
            self.wires.borrow_mut().close(*port);
        }
    }
}

fn refused(call: &'static str, errno: Errno) -> HypercallError {
    HypercallError { call, errno }
}

impl Rings for FakeRings {
    type Page = Arc<OwnedPage>;

    fn map(&self, stub: DomId, grant: GrantRef) -> Result<Arc<OwnedPage>, HypercallError> {
        let page = self.wires.borrow().granted.get(&(stub, grant.0)).cloned();
        page.ok_or(refused("xengnttab_map_grant_ref", Errno::EINVAL))
    }

    fn bind(&self, stub: DomId, remote: Port) -> Result<Port, HypercallError> {
        let mut wires = self.wires.borrow_mut();
        let end = (stub, remote.0);
        if !wires.offered.contains(&end) || wires.bound.values().any(|other| *other == end) {
            return Err(refused("xenevtchn_bind_interdomain", Errno::EINVAL));
        }
        wires.next += 1;
        let local = wires.next;
        wires.bound.insert(local, end);
        wires.pending.insert(local);
        self.own.borrow_mut().insert(local);
        Ok(Port(local))
    }

    fn notify(&self, port: Port) -> Result<(), HypercallError> {
        let mut wires = self.wires.borrow_mut();
        let end = *wires.bound.get(&port.0).ok_or(refused("xenevtchn_notify", Errno::EINVAL))?;
        *wires.raised.entry(end).or_default() += 1;
        Ok(())
    }

    fn unbind(&self, port: Port) -> Result<(), HypercallError> {
        self.own.borrow_mut().remove(&port.0);
        if self.wires.borrow_mut().close(port.0) { Ok(()) } else { Err(refused("xenevtchn_unbind", Errno::EINVAL)) }
    }

    fn next_event(&self) -> Result<Option<Port>, HypercallError> {
        Ok(self.wires.borrow_mut().pending.pop_first().map(Port))
    }
}

/// One process' watches: what xenstored tells, and what a test says besides.
pub struct FakeWatches {
    connection: Connection<Socket>,
    pub paths: RefCell<BTreeSet<String>>,
    pub events: RefCell<VecDeque<String>>,
}

impl FakeWatches {
    pub fn new(world: Rc<RefCell<World>>) -> Self {
        let connection = Connection::new(Socket::new(world));
        Self { connection, paths: RefCell::default(), events: RefCell::default() }
    }
}

impl Watches for FakeWatches {
    fn watch(&self, path: &str) -> Result<(), StoreFailure> {
        assert!(self.paths.borrow_mut().insert(path.to_owned()), "{path} is watched already");
        self.connection.watch(path)
    }

    fn unwatch(&self, path: &str) -> Result<(), StoreFailure> {
        assert!(self.paths.borrow_mut().remove(path), "{path} is not watched");
        self.connection.unwatch(path)
    }

    fn next(&self) -> Result<Option<String>, StoreFailure> {
        let told = self.events.borrow_mut().pop_front();
        if told.is_some() { Ok(told) } else { self.connection.next() }
    }
}

/// Counts how often it was started, and ends when told.
#[derive(Default)]
pub struct FakeReclaimer {
    pub started: Cell<u32>,
    pub busy: Cell<bool>,
}

impl Reclaimer for FakeReclaimer {
    fn start(&self) -> io::Result<()> {
        assert!(!self.busy.get(), "started twice");
        self.started.set(self.started.get() + 1);
        self.busy.set(true);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.busy.get()
    }
}
