//! NetBSD's `xpci`.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use pciif::Request;
use xen_types::Sbdf;

use crate::{Driver, Front, Panic};

/// A driver that accesses dwords only.
#[derive(Debug, Default)]
pub struct NetBsd {
    /// The functions that it attached drivers to: address and ids.
    pub attached: Vec<(Sbdf, u32)>,
}

impl NetBsd {
    /// Reads a dword; what is not there is an error, and ones to who asked.
    ///
    /// # Errors
    /// When nobody answers: this driver waits for ever. When there is a function with ids of ones: it would be attached.
    pub fn read(&self, front: &mut dyn Front, address: Sbdf, offset: i32) -> Result<u32, Panic> {
        let response = front.ask(&Request::conf_read(address, offset, 4)).ok_or(Panic("xpci hangs"))?;
        match (response.err, response.value) {
            (0, u32::MAX) if offset == 0 => Err(Panic("it attaches a ghost")),
            (0, value) => Ok(value),
            _ => Ok(u32::MAX),
        }
    }

    /// The buses: those of the nodes, which must be in exactly these columns, or bus 0.
    fn buses(front: &mut dyn Front) -> Vec<u8> {
        let Some(count) = front.number("root_num") else { return vec![0] };
        let root = |index| {
            let text = front.backend(&format!("root-{index}"))?;
            let bus = text.strip_prefix("0000:").filter(|bus| bus.len() == 2)?;
            u8::from_str_radix(bus, 16).ok()
        };
        (0..count).filter_map(root).collect()
    }

    fn scan(&mut self, front: &mut dyn Front) -> Result<(), Panic> {
        for bus in Self::buses(front) {
            for devfn in 0..=255 {
                let address = Sbdf::from_devfn(0, bus, devfn);
                let ids = self.read(front, address, 0)?;
                if ids != u32::MAX {
                    self.attached.push((address, ids));
                }
            }
        }
        Ok(())
    }
}

impl Driver for NetBsd {
    fn step(&mut self, front: &mut dyn Front) -> Result<bool, Panic> {
        match (front.backend_state(), front.state()) {
            (1..=3, 1) => front.probe_at_once(),
            (4, 3) => {
                self.scan(front)?;
                front.set_state(4);
            }
            (5, 1..=4) => {
                self.attached.clear();
                front.set_state(6);
            }
            (7 | 8, _) => return Err(Panic("NetBSD does not know states 7 and 8")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn devices(&self, _: &mut dyn Front) -> Vec<Sbdf> {
        self.attached.iter().map(|(address, _)| *address).collect()
    }
}
