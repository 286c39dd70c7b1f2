//! mini-os' `pcifront`.

use pciif::{Request, Response};
use xen_types::Sbdf;

use super::Driver;
use crate::frontend::SimFrontend;
use crate::stub::SimStub;

/// Where its driver is. It waits in loops, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not loaded.
    Off,
    /// State 3, waiting for the backend's 4, which must be the next that it sees.
    Initialised,
    Connected,
    /// State 5, waiting for a backend that closes.
    Closing,
    /// State 6, waiting for one that is closed.
    Closed,
    /// State 1, waiting for one that is open again.
    Reopening,
}

/// A guest with it. It knows devices by their real addresses, and asks the nodes for the virtual one with each access.
#[derive(Debug)]
pub struct MiniOs {
    /// Page and nodes.
    pub front: SimFrontend,
    stage: Stage,
    /// Loads the driver when it is off.
    pub wants_devices: bool,
}

impl MiniOs {
    /// Not loaded yet.
    #[must_use]
    pub const fn new(front: SimFrontend) -> Self {
        Self { front, stage: Stage::Off, wants_devices: true }
    }

    /// `shutdown_pcifront`, of which the rest is done step by step.
    pub fn shut_down(&mut self) {
        self.wants_devices = false;
        self.front.set_state(5);
        self.stage = Stage::Closing;
    }

    /// The driver is not loaded, and has let everything go.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.stage == Stage::Off
    }

    /// The real addresses of its devices.
    #[must_use]
    pub fn scan(&self) -> Vec<Sbdf> {
        let count = self.front.backend("num_devs").and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
        (0..count).filter_map(|index| self.front.backend(&format!("dev-{index}"))?.parse().ok()).collect()
    }

    /// Accesses a device by its real address; `None` where the nodes do not say where it is.
    ///
    /// # Panics
    /// When nobody answers: this driver waits for ever.
    pub fn read(&self, stub: &mut SimStub, device: Sbdf, offset: i32, size: i32) -> Option<Response> {
        let index = self.scan().iter().position(|other| *other == device)?;
        let address = self.front.backend(&format!("vdev-{index}"))?.parse().ok()?;
        Some(self.front.ask(stub, &Request::conf_read(address, offset, size)).expect("pcifront hangs"))
    }
}

impl Driver for MiniOs {
    fn step(&mut self, _: &mut SimStub) -> bool {
        // It looks at the first character.
        let backend = self.front.backend("state").and_then(|state| state.bytes().next()).unwrap_or(b'0') - b'0';
        let (state, stage) = match (self.stage, backend) {
            (Stage::Off, 1..=6) if self.wants_devices => {
                self.front.probe_at_once();
                (3, Stage::Initialised)
            }
            (Stage::Initialised, 4) => (4, Stage::Connected),
            (Stage::Initialised, 5..) => panic!("its init fails"),
            // Whatever the entries say.
            (Stage::Connected, 7) if self.front.state() == 4 => (7, Stage::Connected),
            (Stage::Connected, 8) if self.front.state() == 7 => (4, Stage::Connected),
            (Stage::Connected, 5 | 6) => {
                self.wants_devices = false;
                (5, Stage::Closing)
            }
            (Stage::Closing, 5..) => (6, Stage::Closed),
            (Stage::Closed, 6..) => (1, Stage::Reopening),
            (Stage::Reopening, 2..=5) => {
                self.front.forget();
                (1, Stage::Off)
            }
            _ => return false,
        };
        self.front.set_state(state);
        self.stage = stage;
        true
    }
}
