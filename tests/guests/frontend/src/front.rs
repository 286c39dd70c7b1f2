//! Implements the drivers' interface on Xen.

use alloc::format;
use alloc::string::{String, ToString as _};

use drivers::Front;
use kernel::{clock, events};
use pciif::layout::MsixEntry;
use pciif::{FrontendPage, Request, Response};
use platform::{OfferedPage, RingTransport};
use xen_types::{DomId, Errno, Port};
use xenstore::path::{child, key};
use xenstore::{Nodes as _, Store, StoreError};

/// Its own directory, where it is told to be.
const DIR: &str = "device/pci/0";
/// Some drivers wait for ever. Nobody waits longer than this for us.
const PATIENCE_NS: u64 = 20_000_000_000;

/// A page and a port that a backend was offered.
struct Link {
    page: FrontendPage<OfferedPage>,
    port: Port,
}

/// Page, port and nodes.
pub(crate) struct XenFront {
    /// Xenstore.
    pub(crate) store: Store<RingTransport>,
    /// The BE dir, as our own directory says.
    backend: Option<String>,
    link: Option<Link>,
    /// Whether it says that it answers questions about errors.
    pub(crate) announces_aer: bool,
}

impl XenFront {
    /// A guest that nothing was plugged into, or that has not looked.
    pub(crate) fn new() -> Result<Self, StoreError<Errno>> {
        let mut store = Store::new(RingTransport::take().map_err(StoreError::Transport)?);
        store.watch(DIR, "own")?;
        Ok(Self { store, backend: None, link: None, announces_aer: false })
    }

    /// Finds out who its backend is and asks to be told of its states.
    pub(crate) fn look(&mut self) {
        let backend = self.own(key::BACKEND);
        if backend == self.backend {
            return;
        }
        for (path, is_new) in [(&self.backend, false), (&backend, true)] {
            let Some(path) = path else { continue };
            let state = child(path, key::STATE);
            let done = if is_new { self.store.watch(&state, "backend") } else { self.store.unwatch(&state, "backend") };
            if done.is_err() {
                log::warn!("frontend: no watch on {state}");
            }
        }
        self.backend = backend;
    }

    /// Waits until any watched node changes.
    pub(crate) fn wait(&mut self) -> Result<(), StoreError<Errno>> {
        self.store.next_watch_event(None).map(drop)
    }

    /// The backend's domain, as our directory says.
    pub(crate) fn backend_id(&mut self) -> Option<DomId> {
        self.own(key::BACKEND_ID)?.parse().ok().map(DomId)
    }

    /// Whether the backend serves its page, as far as the states say.
    pub(crate) fn is_connected(&mut self) -> bool {
        self.link.is_some() && self.backend(key::STATE).as_deref() == Some("4")
    }

    /// Removes something from its own directory.
    pub(crate) fn remove_own(&mut self, name: &str) {
        // What is not there, or xenstored keeps, stays as it is.
        let _ = self.store.remove(&child(DIR, name));
    }

    /// Hears no more of its own writes: they would fill the ring that a long request has to go through.
    pub(crate) fn look_away(&mut self) -> Result<(), StoreError<Errno>> {
        self.store.unwatch(DIR, "own").map(drop)
    }

    /// Writes into its own directory. False where xenstored refuses.
    pub(crate) fn write_own(&mut self, name: &str, value: &[u8]) -> bool {
        self.store.write(&child(DIR, name), value).is_ok()
    }

    /// Puts words into the page, whatever is under way, and tells the backend or not. True where the request before was answered; `None` where there is no page.
    pub(crate) fn scribble(&mut self, request: &Request, entries: &[MsixEntry], tells: bool) -> Option<bool> {
        let page = &self.link.as_ref()?.page;
        let is_answered = !page.is_active();
        page.publish_with_entries(request, entries);
        if tells {
            self.ring();
        }
        Some(is_answered)
    }

    /// Answers a question about an error that nobody may have asked.
    pub(crate) fn answer_unasked(&self, result: u32) {
        if let Some(link) = &self.link {
            link.page.answer(result);
        }
    }

    /// An event, with or without a request. False where nobody hears it.
    pub(crate) fn ring(&mut self) -> bool {
        self.link.as_ref().is_some_and(|link| events::notify(link.port).is_ok())
    }

    fn own(&mut self, name: &str) -> Option<String> {
        // What cannot be read is not there: the directory may be going.
        self.store.read(&child(DIR, name)).ok().flatten()
    }

    fn offer(&mut self, backend: DomId) -> Result<Link, Errno> {
        let page = OfferedPage::new(backend)?;
        let (reference, port) = (page.reference(), events::alloc_unbound(backend)?);
        let nodes = [
            (key::PCI_OP_REF, reference.0.to_string()),
            (key::EVENT_CHANNEL, port.0.to_string()),
            (key::MAGIC, pciif::MAGIC.into()),
            (key::STATE, "3".into()),
        ];
        self.store
            .transaction(|store| nodes.iter().try_for_each(|(name, value)| store.write(&child(DIR, name), value)))
            .map_err(|_: StoreError<Errno>| Errno::EIO)?;
        let page = FrontendPage::new(page);
        if self.announces_aer {
            page.announce_aer();
        }
        Ok(Link { page, port })
    }
}

impl Front for XenFront {
    fn backend(&mut self, name: &str) -> Option<String> {
        let path = child(self.backend.as_ref()?, name);
        self.store.read(&path).ok().flatten()
    }

    fn state(&mut self) -> u32 {
        self.own(key::STATE).and_then(|state| state.parse().ok()).unwrap_or(0)
    }

    fn set_state(&mut self, state: u32) {
        // A guest that may not: its directory has gone meanwhile.
        if self.state() != 0 && self.store.write(&child(DIR, key::STATE), format!("{state}")).is_err() {
            log::warn!("frontend: no state {state}");
        }
    }

    fn probe_at_once(&mut self) {
        let Some(backend) = self.backend_id() else { return };
        match self.offer(backend) {
            Ok(link) => self.link = Some(link),
            Err(error) => log::error!("frontend: no page or port for {backend}: {error}"),
        }
    }

    fn forget(&mut self) {
        if let Some(link) = self.link.take() {
            events::close(link.port);
        }
    }

    fn ask(&mut self, request: &Request) -> Option<Response> {
        let Link { page, port } = self.link.as_ref()?;
        let deadline = clock::now_ns() + PATIENCE_NS;
        page.publish(request);
        events::notify(*port).ok()?;
        loop {
            // Before the look: what comes after it wakes us.
            events::clear(*port);
            if let Some(response) = page.response() {
                return Some(response);
            }
            if clock::now_ns() >= deadline {
                page.cancel();
                return None;
            }
            events::wait(&[*port], Some(deadline)).ok()?;
        }
    }
}

/// A request that must succeed; otherwise what became of it.
pub(crate) fn ask(front: &mut XenFront, request: &Request) -> Result<u32, String> {
    match front.ask(request) {
        Some(response) if response.err == 0 => Ok(response.value),
        Some(response) => Err(format!("the backend answers {}", response.err)),
        None => Err("the backend does not answer".into()),
    }
}
