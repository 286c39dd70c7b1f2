//! The same machine with the real backend in its stub and, when a test starts it, the real broker: the tool's own xenstore connection speaks
//! bytes to the simulated xenstored, and the other ends are `pciback`, `pcidom-broker` and the simulated pcifront (`tests/sim`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use sim::device::Function;
use sim::tool::ecam;
use sim::{SimBroker, SimFrontend, SimStub, SimTool, SimXen};
use xen_types::DomId;
use xenstore::Transport;
use xenstored::Connection as StoreConnection;

use fakes::{FakeChanges, FakeConsole, FakeHypervisor, FakeKernel, FakeProcesses};

use super::points::{SimClock, SimHypervisor, SimKernel};
use super::process::FakeProcess;
use super::xl::FakeXl;
use super::{E1000, EDU, Machine, NVME, STUB, TempTree, WEB, World, device};
use crate::host::Host;
use crate::store::{Connection, Timed};
use crate::sysfs::{Sysfs, Width};

/// Everybody but the tool.
pub(crate) struct Peers {
    pub(crate) xen: SimXen,
    pub(crate) tool: SimTool,
    pub(crate) stub: SimStub,
    /// Does not run unless a test starts it.
    pub(crate) broker: SimBroker,
    pub(crate) guests: BTreeMap<DomId, SimFrontend>,
    world: Rc<RefCell<World>>,
    tree: Rc<TempTree>,
    /// What the devices' registers were when files and functions were last alike.
    registers: BTreeMap<&'static str, Vec<u8>>,
}

impl Peers {
    /// Lets everybody do something; false when nobody did.
    fn step(&mut self) -> bool {
        self.copy_registers();
        let before = self.xen.store().requests();
        self.stub.settle();
        self.stub.serve();
        let mut moved = self.broker.step();
        let running: Vec<DomId> =
            self.world.borrow().domains.iter().filter(|(_, info)| !info.paused).map(|(id, _)| *id).collect();
        for (_, guest) in self.guests.iter_mut().filter(|(id, _)| running.contains(id)) {
            if guest.state() == 0 {
                guest.forget(); // Linux unregisters a device whose directory is gone
            }
            moved |= guest.step(&mut self.stub);
        }
        self.copy_registers_back();
        moved || self.xen.store().requests() != before
    }

    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    /// What the tool wrote through sysfs is what the stub reads through ECAM.
    fn copy_registers(&mut self) {
        for name in [E1000, EDU, NVME] {
            let path = self.tree.path().join(format!("bus/pci/devices/{name}/config"));
            let bytes = std::fs::read(path).unwrap();
            if self.registers.get(name) == Some(&bytes) {
                continue;
            }
            self.xen.with_function(ecam(device(name)), |function| {
                for (index, word) in (0..).zip(bytes.chunks_exact(4)) {
                    function.write(index * 4, u32::from_le_bytes(word.try_into().unwrap()));
                }
            });
            self.registers.insert(name, bytes);
        }
    }

    /// What the broker wrote is what the tool reads.
    fn copy_registers_back(&mut self) {
        for name in [E1000, EDU, NVME] {
            let old = &self.registers[name];
            let read = |function: &mut Function| {
                let offsets = (0..old.len()).map(|offset| u16::try_from(offset).unwrap());
                offsets.map(|offset| u8::try_from(function.read(offset, Width::Byte)).unwrap()).collect::<Vec<u8>>()
            };
            let new = self.xen.with_function(ecam(device(name)), read).unwrap();
            if new != *old {
                std::fs::write(self.tree.path().join(format!("bus/pci/devices/{name}/config")), &new).unwrap();
                self.registers.insert(name, new);
            }
        }
    }

    pub(crate) fn destroy(&mut self, guest: DomId) {
        self.guests.remove(&guest).unwrap().died();
        self.tool.destroy_guest(guest);
        self.world.borrow_mut().destroy(guest);
    }
}

/// The machine.
pub(crate) struct MachineWithStub {
    /// Its hypervisor and sysfs.
    pub(crate) machine: Machine,
    pub(crate) peers: Rc<RefCell<Peers>>,
    pub(crate) host: Host,
    connection: StoreConnection,
}

/// A process of the tool, with a connection of its own.
fn open(machine: &Machine, peers: &Rc<RefCell<Peers>>) -> (Host, StoreConnection) {
    let (world, tree) = (machine.world.clone(), machine.tree.clone());
    let xen = peers.borrow().xen.clone();
    let connection = xen.store().connect_socket();
    let transport = SimTransport { xen: xen.clone(), connection, peers: peers.clone(), world: world.clone() };
    let kernel = FakeKernel { world: world.clone(), tree: tree.clone() };
    let mut host = Host::new(
        Rc::new(SimHypervisor { fake: FakeHypervisor(world.clone()), xen: xen.clone() }),
        Sysfs::new(tree.path(), Rc::new(SimKernel { fake: kernel, xen: xen.clone() })),
        Rc::new(Connection::new(transport)),
        Box::new(SimClock { world: world.clone(), xen }),
        Box::new(FakeConsole(world.clone())),
    );
    host.process = Box::new(FakeProcess(FakeProcesses(world.clone())));
    host.count_changes(Rc::new(FakeChanges(world.clone())));
    host.xl = Box::new(FakeXl(world));
    (host, connection)
}

impl MachineWithStub {
    /// Has the NVMe have MSI with one vector and MSI-X with eight, whose table is in its first BAR. Before it comes into a pool.
    pub(crate) fn give_nvme_vectors(&self) {
        let mut config = self.machine.config(NVME);
        config.add_capability(0x50, 0x05, 0x60);
        config.add_capability(0x60, 0x11, 0);
        config.set_word(0x62, 7);
        config.set_word(0x12, 0xfeb0); // the BAR with the table
        self.machine.tree.write(format!("bus/pci/devices/{NVME}/config"), config.bytes);
    }

    /// The stub is ready, "web" runs and its driver is loaded as soon as there is something for it.
    pub(crate) fn new() -> Self {
        let machine = Machine::new();
        let xen = SimXen::new();
        let tool = SimTool::new(xen.clone(), STUB);
        tool.create_stub();
        tool.create_guest(WEB);
        // What libxl (4.17, `libxl__domain_make`) leaves behind, and no more.
        tool.change(|store| {
            store.remove("/local/domain/3/backend")?;
            store.remove("/local/domain/3/pool")?;
            ["/libxl", "/tool", "/local/domain/5/device/suspend"].iter().try_for_each(|path| store.mkdir(path))
        });
        for (id, name) in [(STUB, "pcidom"), (WEB, "web")] {
            tool.write(&format!("/local/domain/{id}/name"), name);
        }
        for name in [E1000, EDU, NVME] {
            xen.plug(ecam(device(name)), Function::endpoint(0x8086, 0x10d3));
        }
        let (world, tree) = (machine.world.clone(), machine.tree.clone());
        let stub = SimStub::new(&xen, STUB);
        let broker = SimBroker::new(xen.clone(), STUB);
        let guests = BTreeMap::from([(WEB, SimFrontend::new(xen.clone(), WEB, STUB))]);
        let registers = BTreeMap::new();
        let mut peers =
            Peers { xen: xen.clone(), tool, stub, broker, guests, world: world.clone(), tree: tree.clone(), registers };
        for name in [E1000, EDU, NVME] {
            // Ids and class as the simulated function has them.
            let path = tree.path().join(format!("bus/pci/devices/{name}/config"));
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[..4].copy_from_slice(&0x10d3_8086_u32.to_le_bytes());
            bytes[8..12].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
            std::fs::write(path, bytes).unwrap();
        }
        peers.settle();
        let peers = Rc::new(RefCell::new(peers));
        let (host, connection) = open(&machine, &peers);
        Self { machine, peers, host, connection }
    }

    /// The process was killed: the next one opens everything anew.
    pub(crate) fn restart(&mut self) {
        self.with_peers(|peers| peers.xen.store().disconnect(self.connection));
        (self.host, self.connection) = open(&self.machine, &self.peers);
    }

    /// Creates a guest whose driver is loaded as soon as there is something for it.
    pub(crate) fn create(&self, id: DomId, name: &str) {
        self.machine.add_domain(id, name);
        self.with_peers(|peers| {
            peers.tool.create_guest(id);
            for (node, value) in [("name", name.to_owned()), ("vm", format!("/vm/{name}"))] {
                peers.tool.write(&format!("/local/domain/{id}/{node}"), &value);
            }
            peers.tool.change(|store| store.mkdir(&format!("/local/domain/{id}/device/suspend")));
            let frontend = SimFrontend::new(peers.xen.clone(), id, STUB);
            peers.guests.insert(id, frontend);
        });
    }

    pub(crate) fn with_peers<T>(&self, act: impl FnOnce(&mut Peers) -> T) -> T {
        act(&mut self.peers.borrow_mut())
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        self.with_peers(|peers| peers.tool.read(path))
    }
}

/// Bytes to and from the simulated xenstored. Waiting lets the others act.
struct SimTransport {
    xen: SimXen,
    connection: StoreConnection,
    peers: Rc<RefCell<Peers>>,
    world: Rc<RefCell<World>>,
}

impl Timed for SimTransport {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.world.borrow().clock.as_nanos()).unwrap()
    }
}

impl Transport for SimTransport {
    type Error = Infallible;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.world.borrow_mut().change_fails(); // a process can be killed in the middle of a request
        let count = bytes.len().min(7); // the kernel takes messages in pieces too
        self.xen.store().send(self.connection, &bytes[..count]);
        Ok(count)
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> Result<usize, Infallible> {
        loop {
            let bytes = self.xen.store().receive(self.connection, buffer.len().min(11));
            if !bytes.is_empty() {
                buffer[..bytes.len()].copy_from_slice(&bytes);
                return Ok(bytes.len());
            }
            let now = self.now_ns();
            let deadline = deadline_ns.expect("an answer that will never come");
            if deadline <= now {
                return Ok(0);
            }
            let moved = self.peers.borrow_mut().step();
            let step = if moved { 1_000_000 } else { deadline - now };
            self.world.borrow_mut().clock += Duration::from_nanos(step);
            self.xen.advance_ns(step);
        }
    }
}
