//! mini-os' `pcifront`.

use alloc::format;
use alloc::vec::Vec;

use pciif::{Request, Response};
use xen_types::Sbdf;

use crate::{Driver, Front, Panic};

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

/// A driver that knows devices by their real addresses, and asks the nodes for the virtual one with each access.
#[derive(Debug)]
pub struct MiniOs {
    stage: Stage,
    /// Loads the driver when it is off.
    pub wants_devices: bool,
}

impl Default for MiniOs {
    fn default() -> Self {
        Self { stage: Stage::Off, wants_devices: true }
    }
}

impl MiniOs {
    /// One that waits until [`MiniOs::wants_devices`] is set.
    #[must_use]
    pub const fn later() -> Self {
        Self { stage: Stage::Off, wants_devices: false }
    }

    /// `shutdown_pcifront`, of which the rest is done step by step.
    pub fn shut_down(&mut self, front: &mut dyn Front) {
        self.wants_devices = false;
        front.set_state(5);
        self.stage = Stage::Closing;
    }

    /// The driver is not loaded, and has let everything go.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.stage == Stage::Off
    }

    /// The real addresses of its devices.
    pub fn scan(&self, front: &mut dyn Front) -> Vec<Sbdf> {
        let count = front.number("num_devs").unwrap_or(0);
        (0..count).filter_map(|index| front.backend(&format!("dev-{index}"))?.parse().ok()).collect()
    }

    /// Where a device is, by its real address; `None` where the nodes do not say.
    pub fn virtual_address(&self, front: &mut dyn Front, device: Sbdf) -> Option<Sbdf> {
        let index = self.scan(front).iter().position(|other| *other == device)?;
        front.backend(&format!("vdev-{index}"))?.parse().ok()
    }

    /// Accesses a device by its real address; `None` where the nodes do not say where it is.
    ///
    /// # Errors
    /// When nobody answers: this driver waits for ever.
    pub fn read(&self, front: &mut dyn Front, device: Sbdf, offset: i32, size: i32) -> Result<Option<Response>, Panic> {
        let Some(address) = self.virtual_address(front, device) else { return Ok(None) };
        front.ask(&Request::conf_read(address, offset, size)).map(Some).ok_or(Panic("pcifront hangs"))
    }
}

impl Driver for MiniOs {
    fn step(&mut self, front: &mut dyn Front) -> Result<bool, Panic> {
        // It looks at the first character.
        let backend = front.backend("state").and_then(|state| state.bytes().next()).unwrap_or(b'0').wrapping_sub(b'0');
        let (state, stage) = match (self.stage, backend) {
            (Stage::Off, 1..=6) if self.wants_devices => {
                front.probe_at_once();
                (3, Stage::Initialised)
            }
            (Stage::Initialised, 4) => (4, Stage::Connected),
            (Stage::Initialised, 5..) => return Err(Panic("its init fails")),
            // Whatever the entries say.
            (Stage::Connected, 7) if front.state() == 4 => (7, Stage::Connected),
            (Stage::Connected, 8) if front.state() == 7 => (4, Stage::Connected),
            (Stage::Connected, 5 | 6) => {
                self.wants_devices = false;
                (5, Stage::Closing)
            }
            (Stage::Closing, 5..) => (6, Stage::Closed),
            (Stage::Closed, 6..) => (1, Stage::Reopening),
            (Stage::Reopening, 2..=5) => {
                front.forget();
                (1, Stage::Off)
            }
            _ => return Ok(false),
        };
        front.set_state(state);
        self.stage = stage;
        Ok(true)
    }

    fn devices(&self, front: &mut dyn Front) -> Vec<Sbdf> {
        let devices = self.scan(front);
        devices.into_iter().filter_map(|device| self.virtual_address(front, device)).collect()
    }
}
