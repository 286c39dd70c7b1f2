//! A guest with Linux's pcifront (docs/protocol.md §1.1, §2.3) or another driver, as far as a host test needs it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use pciif::layout::MsixEntry;
use pciif::{Command, FrontendPage, OwnedPage, Request, Response};
use xen_types::{DomId, GrantRef, Port, Sbdf};

use crate::kind::Kind;
use crate::stub::SimStub;
use crate::tool::SimTool;
use crate::xen::SimXen;
use xenstored::Refusal;

/// Entries and buses that a guest looks at: a test may write any number of them.
const MOST: u32 = 512;

/// What a driver has while it is loaded.
#[derive(Debug)]
struct Link {
    gref: GrantRef,
    port: Port,
    page: Arc<OwnedPage>,
    front: FrontendPage<Arc<OwnedPage>>,
}

/// A guest's driver.
#[derive(Debug)]
pub struct SimFrontend {
    domid: DomId,
    stub: DomId,
    xen: SimXen,
    link: Option<Link>,
    /// What the last scan found: virtual address, and vendor and device in one word.
    pub found: Vec<(Sbdf, u32)>,
    /// Which driver it has.
    pub kind: Kind,
    /// What was answered when a driver let go of a device that was leaving, to its turning interrupts off.
    pub goodbyes: Vec<(Sbdf, Option<i32>)>,
    /// Looks at every function of its buses, as Linux does; otherwise at the first two slots.
    pub scans_everything: bool,
    /// The states that it went to, one after the other.
    pub states: RefCell<Vec<u32>>,
    /// What it answers when it is told of a device's error, by the command. To others it does not answer by itself.
    pub error_results: BTreeMap<u32, u32>,
    /// What it was told and has answered by itself.
    pub told: Vec<[u32; 5]>,
}

impl SimFrontend {
    /// A guest whose driver is not loaded yet.
    #[must_use]
    pub const fn new(xen: SimXen, domid: DomId, stub: DomId) -> Self {
        Self {
            domid,
            stub,
            xen,
            link: None,
            found: Vec::new(),
            kind: Kind::Linux,
            goodbyes: Vec::new(),
            scans_everything: true,
            states: RefCell::new(Vec::new()),
            error_results: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    /// Its domain.
    #[must_use]
    pub const fn domid(&self) -> DomId {
        self.domid
    }

    /// The page, while the driver is loaded.
    #[must_use]
    pub fn page(&self) -> Option<&Arc<OwnedPage>> {
        self.link.as_ref().map(|link| &link.page)
    }

    /// The grant and the port, while the driver is loaded.
    #[must_use]
    pub fn keys(&self) -> Option<(GrantRef, Port)> {
        self.link.as_ref().map(|link| (link.gref, link.port))
    }

    /// Writes a node of its own directory.
    ///
    /// # Errors
    /// As xenstored, for instance when the directory is gone.
    pub fn write(&self, name: &str, value: impl AsRef<[u8]>) -> Result<(), Refusal> {
        let path = format!("{}/{name}", SimTool::frontend_dir(self.domid));
        self.xen.store().change(self.domid, |store| store.write(&path, value))
    }

    /// Goes to a state.
    pub fn set_state(&self, state: u32) {
        self.states.borrow_mut().push(state);
        let _ = self.write("state", state.to_string()); // a guest whose directory is gone does nothing
    }

    /// Its own state; 0 when there is no such node.
    #[must_use]
    pub fn state(&self) -> u32 {
        self.number(&format!("{}/state", SimTool::frontend_dir(self.domid)))
    }

    /// The backend's; 0 when there is no such node.
    #[must_use]
    pub fn backend_state(&self) -> u32 {
        self.number(&format!("{}/state", self.backend_dir()))
    }

    /// A node of the backend's directory.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<String> {
        self.xen.store().peek(&format!("{}/{name}", self.backend_dir()))
    }

    fn backend_dir(&self) -> String {
        format!("/local/domain/{}/backend/pci/{}/0", self.stub, self.domid)
    }

    fn number(&self, path: &str) -> u32 {
        self.xen.store().peek(path).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Loads the driver: page, port, keys, state 3.
    pub fn probe(&mut self) {
        self.load();
        if let Some(link) = &self.link {
            link.front.announce_aer();
        }
        self.publish_keys();
        self.set_state(3);
    }

    /// Loads one of the other drivers: without a word about device errors, and all nodes at once.
    pub fn probe_at_once(&mut self) {
        self.load();
        self.publish_keys_with(Some(3));
    }

    fn load(&mut self) {
        let page = Arc::new(OwnedPage::new());
        let front = FrontendPage::new(Arc::clone(&page));
        let gref = self.xen.grant(self.domid, self.stub, Arc::clone(&page));
        let port = self.xen.offer_port(self.domid, self.stub);
        self.link = Some(Link { gref, port, page, front });
    }

    /// Writes the three keys, as one.
    pub fn publish_keys(&self) {
        self.publish_keys_with(None);
    }

    fn publish_keys_with(&self, state: Option<u32>) {
        let Some(link) = &self.link else { return };
        let dir = SimTool::frontend_dir(self.domid);
        let written = self.xen.store().change(self.domid, |store| {
            store.write(&format!("{dir}/pci-op-ref"), link.gref.to_string())?;
            store.write(&format!("{dir}/event-channel"), link.port.to_string())?;
            store.write(&format!("{dir}/magic"), "7")?;
            state.map_or(Ok(()), |state| store.write(&format!("{dir}/state"), state.to_string()))
        });
        let _ = written; // a guest whose directory is gone does nothing
    }

    /// Frees page and port without telling anybody: what is left of a driver that was unloaded, or of a kernel that crashed.
    pub fn forget(&mut self) {
        if let Some(link) = self.link.take() {
            self.xen.revoke(self.domid, link.gref);
            self.xen.close_port(self.domid, link.port);
        }
        self.found.clear();
    }

    /// The guest's domain is gone, and with it what the driver had.
    pub fn died(&mut self) {
        self.link = None;
    }

    /// Unloads the driver: state 6, then everything is freed.
    pub fn unload(&mut self) {
        self.set_state(6);
        self.forget();
    }

    /// Looks at the backend's state and does what its driver does then. True when it did anything.
    pub fn step(&mut self, stub: &mut SimStub) -> bool {
        if let Some(question) = self.question()
            && let Some(result) = self.error_results.get(&question[0])
        {
            self.answer_question(*result);
            self.told.push(question);
            return true;
        }
        let next = match (self.backend_state(), self.state()) {
            (1..=3, 1) if self.link.is_none() => {
                self.probe();
                return true;
            }
            (4, 3) if self.link.is_some() => {
                self.scan(stub);
                4
            }
            seen => match self.kind {
                Kind::Linux => self.linux(stub, seen),
                Kind::MiniOs => self.mini_os(seen),
                Kind::FreeBsd if matches!(seen, (5 | 6, 1..5)) => Some(5),
                Kind::FreeBsd | Kind::Silent => None,
            }
            .unwrap_or(0),
        };
        if next != 0 {
            self.set_state(next);
        }
        next != 0
    }

    /// What Linux does when the backend's state and its own are these: the state that it goes to.
    fn linux(&mut self, stub: &mut SimStub, seen: (u32, u32)) -> Option<u32> {
        match seen {
            (7, 4) => {
                self.remove_leaving(stub);
                Some(7)
            }
            (7, 3) if self.link.is_some() => Some(7), // it has missed our 4
            (8, 7) => {
                self.scan(stub);
                Some(4)
            }
            // At 7 it is deaf to both: the test for them is numeric.
            (5 | 6, 1..5) => {
                self.found.clear();
                Some(6)
            }
            _ => None,
        }
    }

    fn mini_os(&mut self, seen: (u32, u32)) -> Option<u32> {
        match seen {
            (7, 4) => Some(7),
            (8, 7) => Some(4),
            (5, 1..5) => Some(5),
            (5 | 6, 5) => Some(6),
            (6, 6) => {
                self.forget();
                Some(1)
            }
            _ => None,
        }
    }

    /// Lets go of the devices whose entries say 5.
    fn remove_leaving(&mut self, stub: &mut SimStub) {
        let dir = self.backend_dir();
        for index in 0..self.number(&format!("{dir}/num_devs")).min(MOST) {
            if self.number(&format!("{dir}/state-{index}")) != 5 {
                continue;
            }
            let vdev = self.xen.store().peek(&format!("{dir}/vdev-{index}")).and_then(|vdev| vdev.parse::<Sbdf>().ok());
            let Some(vdev) = vdev else { continue };
            if self.found.iter().any(|(address, _)| *address == vdev) {
                self.found.retain(|(address, _)| *address != vdev);
                let response = self.ask(stub, &Request::new(Command::DisableMsi, vdev));
                self.goodbyes.push((vdev, response.map(|response| response.err)));
            }
        }
    }

    /// Reads the ids of every function on every root.
    pub fn scan(&mut self, stub: &mut SimStub) {
        let dir = self.backend_dir();
        let roots = self.number(&format!("{dir}/root_num")).min(MOST);
        let devfns = if self.scans_everything { 0..=255 } else { 0..=15 };
        let mut found = Vec::new();
        for root in 0..roots {
            let text = self.xen.store().peek(&format!("{dir}/root-{root}")).unwrap_or_default();
            let Some((segment, bus)) = text.split_once(':') else { continue };
            let (Ok(segment), Ok(bus)) = (u16::from_str_radix(segment, 16), u8::from_str_radix(bus, 16)) else {
                continue;
            };
            for devfn in devfns.clone() {
                let address = Sbdf::from_devfn(segment, bus, devfn);
                if let Some(Response { err: 0, value }) = self.ask(stub, &Request::conf_read(address, 0, 4)) {
                    found.push((address, value));
                }
            }
        }
        self.found = found;
    }

    /// Puts a request into the page and raises the event.
    pub fn publish(&self, request: &Request) {
        self.publish_with_entries(request, &[]);
    }

    /// The pirqs in the first entries of the page.
    #[must_use]
    pub fn vectors(&self, count: usize) -> Vec<u16> {
        let entry = |index| self.link.as_ref()?.front.entry(index);
        (0..count).filter_map(|index| Some(entry(index)?.vector)).collect()
    }

    /// What the backend asks about a device's error: command, channel state, virtual segment, bus and function.
    #[must_use]
    pub fn question(&self) -> Option<[u32; 5]> {
        self.link.as_ref()?.front.question()
    }

    /// Answers it.
    pub fn answer_question(&self, answer: u32) {
        if let Some(link) = &self.link {
            link.front.answer(answer);
            self.xen.notify(self.domid, link.port);
        }
    }

    /// Waits no longer, as after two seconds.
    pub fn give_up(&self) {
        if let Some(link) = &self.link {
            link.front.cancel();
        }
    }

    /// A request with MSI-X entries.
    pub fn publish_with_entries(&self, request: &Request, entries: &[MsixEntry]) {
        if let Some(link) = &self.link {
            link.front.publish_with_entries(request, entries);
            self.xen.notify(self.domid, link.port);
        }
    }

    /// The answer, if there is one.
    #[must_use]
    pub fn response(&self) -> Option<Response> {
        self.link.as_ref()?.front.response()
    }

    /// A request and its answer; `None` when nobody answers.
    pub fn ask(&self, stub: &mut SimStub, request: &Request) -> Option<Response> {
        self.publish(request);
        stub.serve();
        let response = self.response();
        if response.is_none() {
            self.link.as_ref()?.front.cancel(); // as after two seconds
        }
        response
    }
}
