//! The broker on a simulated machine: two stubs, three devices, two guests.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pci_config::fakes::Memory;
use pci_config::{Walk, extended_id, permitted_writes};
use pcidom_abi::{BrokerCommand, DeviceNode, PoolState, paths, pool};
use pcidom_broker::records::Phase;
use pcidom_broker::{Broker, Outside, Vectors, guard};
use pciif::layout::MsixEntry;
use pciif::{ErrorCode, FrontendPage, OwnedPage, Request};
use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::{
    DB, E1000, EDU, FakePhysdev, FakeProcesses, FakeReclaimer, FakeRings, FakeWatches, Machine, NVME, STUB, WEB, Wires,
    device,
};

/// The second stub.
pub const OTHER: DomId = DomId(4);
/// What every stub announces.
pub const GRANT: u32 = 8;
pub const PORT: u32 = 11;

/// Capabilities of every device here.
pub const PM: usize = 0x40;
pub const MSI: usize = 0x50;
pub const MSIX: usize = 0x70;
pub const MSI_VECTORS: u32 = 8;
pub const TABLE_ENTRIES: u16 = 64;

pub const COMMAND: usize = 4;
pub const INTX_OFF: u16 = 1 << 10;

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub code: ErrorCode,
    pub value: u32,
    pub info: u32,
    pub vectors: Vec<u16>,
}

pub struct Bench {
    pub machine: Machine,
    pub wires: Rc<RefCell<Wires>>,
    pub physdev: FakePhysdev,
    pub reclaimer: FakeReclaimer,
}

/// What a broker process has of its own.
pub struct Process {
    pub rings: FakeRings,
    pub watches: FakeWatches,
    pub processes: FakeProcesses,
}

impl Process {
    /// Something has changed there, of which the broker hears because it watches it.
    pub fn changed(&self, path: &str) {
        let is_below = |watched: &String| {
            path.strip_prefix(&**watched).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        assert!(self.watches.paths.borrow().iter().any(is_below), "nobody watches {path}");
        self.watches.events.borrow_mut().push_back(path.to_owned());
    }
}

impl Bench {
    /// Time passes.
    pub fn pass(&self, time: Duration) {
        self.machine.with(|world| world.clock += time);
    }

    /// The broker takes the events that are there, and looks after what changed as soon as it may.
    pub fn turn_and_look(&self, broker: &mut Broker<'_, FakeRings>) {
        broker.turn().unwrap();
        self.pass(broker.idle().unwrap());
        broker.turn().unwrap();
    }

    /// WEB has the NVMe and the e1000 from STUB, DB the edu from OTHER.
    pub fn new() -> Self {
        let machine = Machine::new();
        machine.add_domain(OTHER, "pcidom-2");
        let bench = Self {
            wires: Rc::default(),
            physdev: FakePhysdev {
                world: machine.world.clone(),
                tree: machine.tree.clone(),
                restored: RefCell::default(),
            },
            reclaimer: FakeReclaimer::default(),
            machine,
        };
        for (name, stub, guest) in [(NVME, STUB, WEB), (E1000, STUB, WEB), (EDU, OTHER, DB)] {
            bench.assign(name, stub, guest);
        }
        for stub in [STUB, OTHER] {
            bench.announce(stub);
        }
        bench
    }

    /// WEB's devices have vectors: two entries of MSI-X, and two of MSI.
    pub fn busy() -> Self {
        let bench = Self::new();
        let process = bench.process();
        let mut broker = bench.start(&process);
        bench.ask(&mut broker, STUB, &enable_msix(NVME, &[8, 9]), &[8, 9]);
        let block = Request { info: 2, ..request(BrokerCommand::EnableMultiMsi, E1000) };
        bench.ask(&mut broker, STUB, &block, &[]);
        drop(broker);
        drop(process);
        bench
    }

    pub fn assign(&self, name: &str, stub: DomId, guest: DomId) {
        let device = device(name);
        let gsi =
            std::fs::read_to_string(self.machine.tree.path().join(format!("bus/pci/devices/{name}/irq"))).unwrap();
        let ecam = 0xb_0000 + u64::from(device.devfn());
        self.machine.with(|world| {
            world.write(&DeviceNode::Stub.of(device), &stub.to_string());
            world.write(&DeviceNode::Frontend.of(device), &guest.to_string());
            world.write(&DeviceNode::Phase.of(device), Phase::Attached.name());
            world.write(&guard::node(device), &guest.to_string());
            let pool = paths::pool_dir(stub, device);
            world.write(&path::child(&pool, pool::ONLINE), "1");
            world.write(&path::child(&pool, pool::ECAM), &format!("{ecam:x}"));
            world.iomem.insert((stub, ecam));
            let state = paths::pool_state_node(stub, device);
            world.write(&state, &PoolState::Assigned(guest).text());
            world.as_dom0(|store| store.set_permissions(&state, &["n0", &format!("b{stub}")]));
            world.owners.insert(device, guest);
            world.pirqs.insert((guest, gsi.trim().parse().unwrap()));
        });
        self.set_config(name, |config| *config = image());
        self.permit(name, "permissive=0");
    }

    /// Notes what the broker may write to a device as it is now, as `pcidom attach` does.
    pub fn permit(&self, name: &str, policy: &str) {
        let memory = |name: &str| Memory::of(&self.config(name).bytes, false);
        let mut list = permitted_writes(&memory(name), &policy.parse().unwrap());
        if let Some(physical) = self.machine.host.sysfs.physical_function(device(name)) {
            let physical = memory(&physical.to_string());
            let found = Walk::extended(&physical).find(|capability| capability.id == extended_id::SR_IOV);
            list.capabilities.sr_iov = found.map(|found| found.offset);
        }
        let node = DeviceNode::PermittedWrites.of(device(name));
        self.machine.with(|world| world.write(&node, &list.to_node().unwrap()));
    }

    pub fn announce(&self, stub: DomId) {
        self.machine.with(|world| {
            world.write(&paths::ring_ref_node(stub), &GRANT.to_string());
            world.write(&paths::ring_port_node(stub), &PORT.to_string());
            world.write(&paths::version_node(stub), pcidom_abi::ANNOUNCEMENT);
        });
        let mut wires = self.wires.borrow_mut();
        wires.granted.insert((stub, GRANT), Arc::default());
        wires.offered.insert((stub, PORT));
    }

    pub fn process(&self) -> Process {
        Process {
            rings: FakeRings::new(self.wires.clone()),
            watches: FakeWatches::new(self.machine.world.clone()),
            processes: FakeProcesses(self.machine.world.clone()),
        }
    }

    pub fn start<'a>(&'a self, process: &'a Process) -> Broker<'a, FakeRings> {
        Broker::start(Outside {
            host: &self.machine.host,
            physdev: &self.physdev,
            rings: &process.rings,
            watches: &process.watches,
            processes: &process.processes,
            reclaimer: &self.reclaimer,
        })
        .unwrap()
    }

    pub fn page(&self, stub: DomId) -> Arc<OwnedPage> {
        self.wires.borrow().granted[&(stub, GRANT)].clone()
    }

    /// A stub publishes a request.
    pub fn publish(&self, stub: DomId, request: &Request, entries: &[u16]) {
        let entries: Vec<MsixEntry> = entries.iter().map(|entry| MsixEntry { vector: 0xffff, entry: *entry }).collect();
        FrontendPage::new(self.page(stub)).publish_with_entries(request, &entries);
        self.wires.borrow_mut().raise(stub, PORT);
    }

    /// What it finds in its page; `None` while the broker owes it an answer.
    pub fn answer(&self, stub: DomId, entries: usize) -> Option<Heard> {
        let page = FrontendPage::new(self.page(stub));
        let response = page.response()?;
        Some(Heard {
            code: response.code().unwrap(),
            value: response.value,
            info: page.info(),
            vectors: (0..entries).map(|index| page.entry(index).unwrap().vector).collect(),
        })
    }

    /// A stub asks and gets its answer within one turn.
    pub fn ask(&self, broker: &mut Broker<'_, FakeRings>, stub: DomId, request: &Request, entries: &[u16]) -> Heard {
        self.publish(stub, request, entries);
        broker.turn().unwrap();
        self.answer(stub, entries.len()).expect("answered in one turn")
    }

    pub fn config(&self, name: &str) -> Memory {
        self.machine.config(name)
    }

    pub fn set_config(&self, name: &str, change: impl FnOnce(&mut Memory)) {
        let mut config = self.machine.config(name);
        change(&mut config);
        self.machine.tree.write(format!("bus/pci/devices/{name}/config"), config.bytes);
    }

    pub fn set_phase(&self, name: &str, phase: Phase) {
        self.machine.with(|world| world.write(&DeviceNode::Phase.of(device(name)), phase.name()));
    }

    pub fn vectors(&self, name: &str) -> Vectors {
        pcidom_broker::vectors::load(&self.machine.host, device(name)).unwrap()
    }

    /// The pirqs that Xen has mapped for a device.
    pub fn mapped(&self, name: &str) -> BTreeSet<u32> {
        let device = device(name);
        self.machine.with(|world| {
            world.vectors.iter().filter(|(_, mapped)| mapped.device == device).map(|((_, pirq), _)| *pirq).collect()
        })
    }

    pub fn notes(&self) -> Vec<String> {
        self.machine.with(|world| world.notes.clone())
    }

    /// The noted vectors, Xen and registers agree about every device.
    #[track_caller]
    pub fn assert_sound(&self) {
        for name in [NVME, E1000, EDU] {
            let (vectors, config) = (self.vectors(name), self.config(name));
            assert_ne!(vectors, Vectors::Busy, "{name}");
            let noted: Vec<u32> = vectors.pirqs().into_iter().map(|pirq| pirq.0).collect();
            assert_eq!(noted.len(), self.mapped(name).len(), "{name}: a pirq stands twice");
            assert_eq!(noted.into_iter().collect::<BTreeSet<_>>(), self.mapped(name), "{name}");
            let enabled = (config.word(MSI + 2) & 1 != 0, config.word(MSIX + 2) & 0x8000 != 0);
            let wanted = (matches!(vectors, Vectors::Msi(_)), matches!(vectors, Vectors::Msix(_)));
            assert_eq!(enabled, wanted, "{name}");
            assert!(vectors == Vectors::None || config.word(COMMAND) & INTX_OFF != 0, "{name}: INTx beside vectors");
            assert_eq!(config.word(COMMAND) & 3, image().word(COMMAND) & 3, "{name}: decoders");
        }
        self.machine.assert_no_violations();
    }
}

/// A device with everything, as attach leaves it.
pub fn image() -> Memory {
    let mut config = Memory::conventional();
    config.bytes.resize(4096, 0);
    config.set_word(COMMAND, 0x0003);
    config.add_capability(0x40, 0x01, 0x48);
    config.add_capability(0x48, 0x03, 0x50);
    config.add_capability(0x50, 0x05, 0x70);
    config.add_capability(0x70, 0x11, 0);
    config.set_word(MSI + 2, 3 << 1 | 1 << 7 | 1 << 8); // 8 vectors, 64 bits, masks
    config.set_word(MSIX + 2, TABLE_ENTRIES - 1);
    config
}

pub fn request(command: BrokerCommand, name: &str) -> Request {
    raw(command.raw(), device(name))
}

pub fn raw(cmd: u32, device: Sbdf) -> Request {
    Request { cmd, ..Request::conf_write(device, 0, 0, 0) }
}

pub fn conf_write(name: &str, offset: usize, size: i32, value: u32, mask: u32) -> Request {
    let offset = i32::try_from(offset).unwrap();
    Request { info: mask, ..Request::conf_write(device(name), offset, size, value) }
}

pub fn enable_msix(name: &str, entries: &[u16]) -> Request {
    Request { value: u32::try_from(entries.len()).unwrap(), ..request(BrokerCommand::EnableMsix, name) }
}

pub fn success(value: u32) -> Heard {
    Heard { code: ErrorCode::Success, value, info: 0, vectors: Vec::new() }
}

pub fn refused(code: ErrorCode) -> Heard {
    Heard { code, value: 0, info: 1, vectors: Vec::new() }
}
