//! Which driver the guest has.

use drivers::{Driver, FreeBsd, Front, MiniOs, NetBsd, Panic};

use crate::front::XenFront;

/// One of the drivers.
pub(crate) enum DriverModel {
    NetBsd(NetBsd),
    MiniOs(MiniOs),
    FreeBsd(FreeBsd),
}

impl DriverModel {
    /// Finds `driver=NAME` among other words. With `mini-os-later` it waits for the request `start`.
    pub(crate) fn parse(command_line: &str) -> Option<Self> {
        let name = command_line.split_whitespace().find_map(|word| word.strip_prefix("driver="))?;
        match name {
            "netbsd" => Some(Self::NetBsd(NetBsd::default())),
            "mini-os" => Some(Self::MiniOs(MiniOs::default())),
            "mini-os-later" => Some(Self::MiniOs(MiniOs::later())),
            "freebsd" => Some(Self::FreeBsd(FreeBsd::new(0))),
            _ => None,
        }
    }

    /// The driver's common interface.
    pub(crate) fn driver(&mut self) -> &mut dyn Driver {
        match self {
            Self::NetBsd(driver) => driver,
            Self::MiniOs(driver) => driver,
            Self::FreeBsd(driver) => driver,
        }
    }

    /// As [`Driver::step`], for a driver that must know its backend's domain.
    pub(crate) fn step(&mut self, front: &mut XenFront) -> Result<bool, Panic> {
        if let (Self::FreeBsd(driver), Some(backend)) = (&mut *self, front.backend_id()) {
            driver.backend_id = backend.0;
        }
        // Nobody has plugged anything in yet.
        if front.state() == 0 { Ok(false) } else { self.driver().step(front) }
    }
}
