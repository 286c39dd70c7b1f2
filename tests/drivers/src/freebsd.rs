//! FreeBSD's `pcifront`, as it was in its PV kernels.

use alloc::format;
use alloc::vec::Vec;

use pciif::{Request, Response};
use xen_types::Sbdf;

use crate::{Driver, Front, Panic};

/// Slots that it looks at.
const SLOTS: u8 = 31;

/// A driver that takes the segment of its buses for the backend's domain, and the other way round.
#[derive(Debug)]
pub struct FreeBsd {
    /// The backend's number in its FE dir.
    pub backend_id: u16,
    /// Buses that it made, once for each time it saw the backend at 4.
    pub buses: Vec<u8>,
    /// What it found: address on the bus and ids.
    pub found: Vec<(Sbdf, u32)>,
    seen: u32,
}

impl FreeBsd {
    /// Not loaded yet.
    #[must_use]
    pub const fn new(backend_id: u16) -> Self {
        Self { backend_id, buses: Vec::new(), found: Vec::new(), seen: 0 }
    }

    /// Reads a register; ones where that is not answered with success.
    pub fn read(&self, front: &mut dyn Front, address: Sbdf, offset: i32, size: i32) -> u32 {
        let request = Request { domain: self.backend_id.into(), ..Request::conf_read(address, offset, size) };
        match front.ask(&request) {
            Some(Response { err: 0, value }) => value,
            _ => u32::MAX,
        }
    }

    /// Its buses; `None` where it gives up. It does not go without any, and insists on its idea of segments.
    fn roots(&self, front: &mut dyn Front) -> Option<Vec<u8>> {
        let count = front.number("root_num")?;
        let root = |index| {
            let text = front.backend(&format!("root-{index}"))?;
            let (segment, bus) = text.split_once(':')?;
            let is_ours = u16::from_str_radix(segment, 16) == Ok(self.backend_id);
            if is_ours { u8::from_str_radix(bus, 16).ok() } else { None }
        };
        (0..count).map(root).collect()
    }

    fn attach(&mut self, front: &mut dyn Front) -> bool {
        let Some(buses) = self.roots(front) else { return false };
        for bus in buses {
            self.buses.push(bus);
            for devfn in 0..SLOTS << 3 {
                let address = Sbdf::from_devfn(0, bus, devfn);
                let ids = self.read(front, address, 0, 4);
                if ids != u32::MAX {
                    self.found.push((address, ids));
                }
            }
        }
        true
    }
}

impl Driver for FreeBsd {
    fn step(&mut self, front: &mut dyn Front) -> Result<bool, Panic> {
        let backend = front.backend_state();
        let is_news = core::mem::replace(&mut self.seen, backend) != backend;
        match (backend, front.state()) {
            (1..=3, 1) => front.probe_at_once(),
            // Every time, with the state before the buses.
            (4, 3 | 4) if is_news => {
                front.set_state(4);
                if !self.attach(front) {
                    front.set_state(5);
                }
            }
            (5 | 6, 1..=4) => front.set_state(5),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn devices(&self, _: &mut dyn Front) -> Vec<Sbdf> {
        self.found.iter().map(|(address, _)| *address).collect()
    }
}
