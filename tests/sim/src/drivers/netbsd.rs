//! NetBSD's `xpci`.

use pciif::Request;
use xen_types::Sbdf;

use super::Driver;
use crate::frontend::SimFrontend;
use crate::stub::SimStub;

/// A guest with it. It accesses dwords only.
#[derive(Debug)]
pub struct NetBsd {
    /// Page and nodes.
    pub front: SimFrontend,
    /// The functions that it attached drivers to: address and ids.
    pub attached: Vec<(Sbdf, u32)>,
}

impl NetBsd {
    /// Not loaded yet.
    #[must_use]
    pub const fn new(front: SimFrontend) -> Self {
        Self { front, attached: Vec::new() }
    }

    /// Reads a dword; what is not there is an error, and ones to who asked.
    ///
    /// # Panics
    /// When nobody answers: this driver waits for ever. When there is a function with ids of ones: it would be attached.
    pub fn read(&self, stub: &mut SimStub, address: Sbdf, offset: i32) -> u32 {
        let response = self.front.ask(stub, &Request::conf_read(address, offset, 4)).expect("xpci hangs");
        assert!(response.err != 0 || offset != 0 || response.value != u32::MAX, "a ghost at {address}");
        if response.err == 0 { response.value } else { u32::MAX }
    }

    /// Writes a dword. Who answers may need others for that.
    pub fn write(&self, address: Sbdf, offset: i32, value: u32) {
        self.front.publish(&Request::conf_write(address, offset, 4, value));
    }

    /// Whether the last write was answered, with success.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.front.response().is_some_and(|response| response.err == 0)
    }

    /// The buses: those of the nodes, which must be in exactly these columns, or bus 0.
    fn buses(&self) -> Vec<u8> {
        let Some(count) = self.front.backend("root_num").and_then(|count| count.parse::<u32>().ok()) else {
            return vec![0];
        };
        let root = |index| {
            let text = self.front.backend(&format!("root-{index}"))?;
            let bus = text.strip_prefix("0000:").filter(|bus| bus.len() == 2)?;
            u8::from_str_radix(bus, 16).ok()
        };
        (0..count).filter_map(root).collect()
    }

    fn scan(&mut self, stub: &mut SimStub) {
        for bus in self.buses() {
            for devfn in 0..=255 {
                let address = Sbdf::from_devfn(0, bus, devfn);
                let ids = self.read(stub, address, 0);
                if ids != u32::MAX {
                    self.attached.push((address, ids));
                }
            }
        }
    }
}

impl Driver for NetBsd {
    fn step(&mut self, stub: &mut SimStub) -> bool {
        match (self.front.backend_state(), self.front.state()) {
            (1..=3, 1) => self.front.probe_at_once(),
            (4, 3) => {
                self.scan(stub);
                self.front.set_state(4);
            }
            (5, 1..=4) => {
                self.attached.clear();
                self.front.set_state(6);
            }
            (7 | 8, _) => panic!("NetBSD panics on states 7 and 8"),
            _ => return false,
        }
        true
    }
}
