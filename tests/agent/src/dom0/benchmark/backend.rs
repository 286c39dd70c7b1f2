//! The backend that is measured: bringing it up, taking it down, and giving it devices.

use anyhow::Result;

use super::{DEVICE, Session, contestant::Contestant};
use crate::dom0::stub;

impl Session<'_> {
    /// Brings the contestant up with the device.
    pub(super) fn enter(&mut self) -> Result<()> {
        if self.who == Contestant::Pcidom {
            self.measure_backend_boot()?;
            self.fixture.broker()?;
        }
        self.make_assignable(DEVICE)
    }

    /// Takes it down, so that the other one finds the machine as this one did.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.make_unassignable(DEVICE)?;
        if self.who == Contestant::Pcidom {
            self.fixture.kill_broker();
            let stub = self.fixture.domains.iter().find(|domain| domain.name == stub::NAME).cloned();
            stub.map_or(Ok(()), |stub| self.fixture.destroy(&stub))?;
        }
        Ok(())
    }

    pub(super) fn make_assignable(&mut self, device: &str) -> Result<()> {
        match self.who {
            Contestant::Pciback => self.fixture.xl(&["pci-assignable-add", device])?,
            Contestant::Pcidom => self.fixture.pcidom(&["assignable", "add", device])?,
        };
        Ok(())
    }

    pub(super) fn make_unassignable(&mut self, device: &str) -> Result<()> {
        match self.who {
            Contestant::Pciback => self.fixture.xl(&["pci-assignable-remove", device])?,
            Contestant::Pcidom => self.fixture.pcidom(&["assignable", "remove", device])?,
        };
        Ok(())
    }

    /// The domain id of the backend.
    pub(super) fn backend(&mut self) -> Result<u16> {
        Ok(match self.who {
            Contestant::Pciback => 0,
            Contestant::Pcidom => self.fixture.stub()?.id,
        })
    }

    /// Where a guest sees the device: both backends give the only one a guest has the first address of an invented bus.
    pub(super) fn config_file() -> &'static str {
        "/sys/bus/pci/devices/0000:00:00.0/config"
    }
}
