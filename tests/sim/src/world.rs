//! dom0, one stub and its guests.

use std::collections::BTreeMap;

use xen_types::{DomId, Sbdf};

use crate::device::Function;
use crate::frontend::SimFrontend;
use crate::stub::SimStub;
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
    /// The guests, by their domains.
    pub guests: BTreeMap<DomId, SimFrontend>,
}

impl World {
    /// A stub that is ready, with these devices in its pool: vendor 8086, and the device id that goes with the address.
    #[must_use]
    pub fn new(devices: &[Sbdf]) -> Self {
        let xen = SimXen::new();
        let tool = SimTool::new(xen.clone(), STUB);
        tool.create_stub();
        for address in devices {
            tool.add_to_pool(*address, Function::endpoint(0x8086, device_id(*address)));
        }
        let stub = SimStub::new(&xen, STUB);
        let mut world = Self { xen, tool, stub, guests: BTreeMap::new() };
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
            self.stub.settle();
            self.stub.serve();
            let moved = self.guests.values_mut().map(|guest| guest.step(&mut self.stub)).filter(|moved| *moved).count();
            if moved == 0 {
                return;
            }
        }
        panic!("guests and stub never come to rest");
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

    /// Checks that nothing is held for any guest: no page, port, watch, transaction or node; only the windows of the pool.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_clean(&self) {
        let in_pool = self.pool_states().values().filter(|state| *state == "free").count();
        let want = HeldResources { windows: in_pool, ..HeldResources::default() };
        assert_eq!(self.xen.held_by(STUB), want, "held for nobody");
        assert_eq!(self.stub.backend.ports().count(), 0, "ports");
        assert_eq!(self.stub.backend.frontends().collect::<Vec<_>>(), [], "frontends");
        let store = self.xen.store();
        let watches = store.watches(self.stub.connection());
        assert_eq!(watches.len(), 3, "{watches:?}");
        assert_eq!(store.open_transactions(self.stub.connection()), 0, "transactions");
        assert_eq!(self.foreign_nodes(&store), [""; 0], "nodes that the stub owns");
    }

    /// Nodes of the stub's beyond those that it has from the start.
    fn foreign_nodes(&self, store: &crate::store::Xenstored) -> Vec<String> {
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
