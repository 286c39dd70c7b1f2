//! A guest whose driver is not Linux'.

use drivers::{Driver, Front};
use pciif::{Request, Response};

use crate::frontend::SimFrontend;
use crate::stub::SimStub;

/// A guest with this driver, for a test to move.
#[derive(Debug)]
pub struct OtherGuest<D> {
    /// The driver.
    pub driver: D,
    /// Page and nodes.
    pub front: SimFrontend,
}

impl<D: Driver> OtherGuest<D> {
    /// A guest whose driver is not loaded yet.
    #[must_use]
    pub const fn new(driver: D, front: SimFrontend) -> Self {
        Self { driver, front }
    }

    /// Its driver's next step. True when it did anything.
    ///
    /// # Panics
    /// When the guest would.
    pub fn step(&mut self, stub: &mut SimStub) -> bool {
        self.driver.step(&mut self.front.with(stub)).unwrap_or_else(|panic| panic!("{}", panic.0))
    }
}

/// What a driver sees: its guest's frontend, and a stub that serves while it waits.
pub struct WithStub<'a> {
    front: &'a mut SimFrontend,
    stub: &'a mut SimStub,
}

impl SimFrontend {
    /// Beside a stub that answers.
    pub const fn with<'a>(&'a mut self, stub: &'a mut SimStub) -> WithStub<'a> {
        WithStub { front: self, stub }
    }
}

impl Front for WithStub<'_> {
    fn backend(&mut self, name: &str) -> Option<String> {
        self.front.backend(name)
    }

    fn state(&mut self) -> u32 {
        self.front.state()
    }

    fn set_state(&mut self, state: u32) {
        self.front.set_state(state);
    }

    fn probe_at_once(&mut self) {
        self.front.probe_at_once();
    }

    fn forget(&mut self) {
        self.front.forget();
    }

    fn ask(&mut self, request: &Request) -> Option<Response> {
        self.front.ask(self.stub, request)
    }
}
