//! dom0, one stub and its guests.

use std::collections::BTreeMap;

use drivers::Driver;
use xen_types::{DomId, Sbdf};

use pciback::Options;
use pciif::layout::MsixEntry;
use pciif::{Command, Request, Response};

use crate::broker::{SimBroker, quiesce};
use crate::device::Function;
use crate::frontend::SimFrontend;
use crate::other_guest::OtherGuest;
use crate::stub::{SimStub, Turn};
use crate::tool::SimTool;
use crate::xen::{HeldResources, SimXen};

/// The stub's domain.
pub const STUB: DomId = DomId(3);

/// Everybody.
pub struct World {
    /// The machine.
    pub xen: SimXen,
    /// dom0.
    pub tool: SimTool,
    /// The stub.
    pub stub: SimStub,
    /// dom0's broker, which does not run yet.
    pub broker: SimBroker,
    /// The guests, by their domains.
    pub guests: BTreeMap<DomId, SimFrontend>,
}

impl World {
    /// A stub that is ready, with these devices in its pool: vendor 8086, and the device id that goes with the address.
    #[must_use]
    pub fn new(devices: &[Sbdf]) -> Self {
        Self::with(SimXen::new(), devices, Options::default(), |function| function)
    }

    /// The same on this machine, with a command line of the stub's, and devices that were changed.
    pub fn with(xen: SimXen, devices: &[Sbdf], options: Options, change: fn(Function) -> Function) -> Self {
        let tool = SimTool::new(xen.clone(), STUB);
        tool.create_stub();
        for address in devices {
            tool.add_to_pool(*address, change(Function::endpoint(0x8086, device_id(*address))));
        }
        let stub = SimStub::with_options(&xen, STUB, options);
        let broker = SimBroker::new(xen.clone(), STUB);
        let mut world = Self { xen, tool, stub, broker, guests: BTreeMap::new() };
        world.settle();
        world
    }

    /// Creates a guest whose driver is not loaded.
    pub fn create_guest(&mut self, domid: u16) -> DomId {
        let domid = DomId(domid);
        self.tool.create_guest(domid);
        self.guests.insert(domid, SimFrontend::new(self.xen.clone(), domid, STUB));
        domid
    }

    /// A guest of this world.
    ///
    /// # Panics
    /// When there is none.
    pub fn guest(&mut self, domid: DomId) -> &mut SimFrontend {
        self.guests.get_mut(&domid).expect("a guest")
    }

    /// Creates a guest, attaches devices to it and lets it connect.
    pub fn connect(&mut self, domid: u16, devices: &[Sbdf]) -> DomId {
        let domid = self.create_guest(domid);
        self.tool.attach(domid, devices);
        self.settle();
        domid
    }

    /// Lets stub and broker go on until both wait, which takes no time by the clock.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn work(&mut self) {
        for _ in 0..1_000 {
            self.stub.settle();
            self.stub.serve();
            if !self.broker.step() && self.stub.backend.next_deadline_ns() != Some(0) {
                return;
            }
        }
        panic!("stub and broker never come to rest");
    }

    /// A guest's request and its answer, if it comes without the clock.
    pub fn ask(&mut self, guest: DomId, request: &Request) -> Option<Response> {
        self.guest(guest).publish(request);
        self.work();
        self.guest(guest).response()
    }

    /// As [`World::ask`], for these entries of the MSI-X table. The vectors are empty unless the answer is success.
    pub fn ask_msix(&mut self, guest: DomId, address: Sbdf, entries: &[u16]) -> (Option<Response>, Vec<u16>) {
        let value = u32::try_from(entries.len()).expect("few");
        let request = Request { value, ..Request::new(Command::EnableMsix, address) };
        let list = entries.iter().map(|entry| MsixEntry { vector: 0xffff, entry: *entry }).collect::<Vec<_>>();
        self.guest(guest).publish_with_entries(&request, &list);
        self.work();
        let response = self.guest(guest).response();
        let is_done = response.is_some_and(|response| response.err == 0);
        let vectors = if is_done { self.guest(guest).vectors(entries.len()) } else { Vec::new() };
        (response, vectors)
    }

    /// Lets the broker's time run out.
    pub fn run_out_of_time(&mut self) {
        self.xen.advance_ns(1_500_000_000);
        self.work();
    }

    /// Quiesces a device of a guest, as a command does when nobody else could.
    pub fn quiesce(&self, guest: DomId, device: Sbdf) {
        quiesce(&self.xen, guest, device);
    }

    /// Ends a guest's domain.
    pub fn destroy(&mut self, domid: DomId) {
        if let Some(mut guest) = self.guests.remove(&domid) {
            guest.died();
            self.tool.destroy_guest(domid);
        }
    }

    /// Lets everybody go on until nobody does anything any more.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn settle(&mut self) {
        for _ in 0..1_000 {
            self.work();
            let moved = self.guests.values_mut().map(|guest| guest.step(&mut self.stub)).filter(|moved| *moved).count();
            if moved == 0 {
                return;
            }
        }
        panic!("guests and stub never come to rest");
    }

    /// Lets everybody go on, and a guest that is not among [`World::guests`], until nobody does anything any more.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn settle_with<D: Driver>(&mut self, guest: &mut OtherGuest<D>) {
        for _ in 0..1_000 {
            self.settle();
            if !guest.step(&mut self.stub) {
                return;
            }
        }
        panic!("the driver and the stub never come to rest");
    }

    /// As little as can happen, `steps` times: some bytes, one run, one event, one look of the guests. False when less happened,
    /// because everybody had come to rest.
    pub fn steps(&mut self, steps: usize) -> bool {
        let mut idle = 0;
        for step in 0..steps {
            let moved = match step % 5 {
                0 => self.stub.turn(Turn::Run),
                1 => self.stub.turn(Turn::Send(200)),
                2 => self.stub.turn(Turn::Receive(100)),
                3 => self.stub.turn(Turn::Serve),
                _ => {
                    let Self { stub, guests, .. } = self;
                    guests.values_mut().map(|guest| guest.step(stub)).filter(|moved| *moved).count() > 0
                }
            };
            idle = if moved { 0 } else { idle + 1 };
            if idle > 15 {
                return false;
            }
        }
        true
    }

    /// Lets time pass until the stub has nothing to do by the clock, or `limit` deadlines have passed.
    pub fn settle_deadlines(&mut self, limit: usize) {
        self.settle();
        for _ in 0..limit {
            let Some(deadline_ns) = self.stub.backend.next_deadline_ns() else { return };
            let now_ns = pciback::platform::Clock::now_ns(&self.xen.platform(STUB));
            self.xen.advance_ns(deadline_ns.saturating_sub(now_ns));
            self.settle();
        }
    }

    /// Our state and the guest's.
    #[must_use]
    pub fn states(&self, guest: DomId) -> (String, u32) {
        let ours = self.tool.backend(guest, "state").unwrap_or_default();
        (ours, self.guests.get(&guest).map_or(0, SimFrontend::state))
    }

    /// Checks that nothing is held for any guest: no page, port, watch, transaction or node; only the ECAM pages of the pool.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_clean(&self) {
        let in_pool = self.pool_states().values().filter(|state| *state == "free").count();
        let want = HeldResources { ecam_pages: in_pool, ..HeldResources::default() };
        assert_eq!(self.xen.held_by(STUB), want, "held for nobody");
        assert_eq!(self.stub.backend.ports().count(), 1, "ports but for the broker's");
        assert_eq!(self.stub.backend.frontends().collect::<Vec<_>>(), [], "frontends");
        let store = self.xen.store();
        let watches = store.watches(self.stub.connection());
        assert_eq!(watches.len(), 4, "{watches:?}");
        assert_eq!(store.open_transactions(self.stub.connection()), 0, "transactions");
        assert_eq!(self.foreign_nodes(&store), [""; 0], "nodes that the stub owns");
    }

    /// Nodes of the stub's beyond those that it has from the start.
    fn foreign_nodes(&self, store: &xenstored::Xenstored) -> Vec<String> {
        let home = format!("/local/domain/{STUB}");
        let is_usual = |path: &String| {
            let inside = path.strip_prefix(&home).unwrap_or(path);
            inside.starts_with("/data")
                || ["/control/shutdown", "/error", "/error/backend", "/error/backend/pci"].contains(&inside)
        };
        store.owned_by(STUB).into_iter().filter(|path| !is_usual(path)).collect()
    }

    /// What the pool says of each device.
    #[must_use]
    pub fn pool_states(&self) -> BTreeMap<String, String> {
        let dir = format!("/local/domain/{STUB}/pool");
        let names = self.tool.change(|store| store.directory(&dir));
        let state = |name: String| {
            let state = self.tool.read(&format!("{dir}/{name}/state")).unwrap_or_default();
            (name, state)
        };
        names.into_iter().map(state).collect()
    }
}

/// A device id that tells devices apart.
#[must_use]
pub fn device_id(address: Sbdf) -> u16 {
    u16::from(address.bus()) << 8 | u16::from(address.devfn())
}
