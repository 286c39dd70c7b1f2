//! The view of a function, over configuration spaces that are plain memory.

mod hostile;
mod sweep;
mod vectors;

use std::cell::Cell;

use xen_types::{Mfn, Sbdf};

use super::VirtualConfig;
use crate::device::{DeviceInfo, RESOURCES};
use crate::platform::{ConfigSpace, Width};

/// Configuration space as memory, which counts how often it is read.
pub(crate) struct Memory {
    pub(crate) bytes: [u8; 4096],
    pub(crate) reads: Cell<usize>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; 4096], reads: Cell::new(0) }
    }

    pub(crate) fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl ConfigSpace for Memory {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        self.reads.set(self.reads.get() + 1);
        let (offset, bytes) = (usize::from(offset), width as usize);
        assert_eq!(offset % bytes, 0, "an access that {width:?} cannot be");
        let mut value = [0; 4];
        value[..bytes].copy_from_slice(&self.bytes[offset..offset + bytes]);
        u32::from_le_bytes(value)
    }
}

/// The description of a device: resources by register, and its irq.
pub(crate) fn info(list: &[(usize, &str)], irq: u32) -> DeviceInfo {
    let mut resources = [None; RESOURCES];
    for (register, text) in list {
        resources[*register] = Some(text.parse().expect("a resource"));
    }
    DeviceInfo::new(Sbdf::from_devfn(0, 3, 0), Mfn(0xb0018), resources, irq).expect("a description")
}

/// A network card with every capability that has rules: PM 40, VPD 50, MSI 60, MSI-X 70, PCI Express 80, vendor's own 98.
pub(crate) fn network_card() -> Memory {
    let mut memory = Memory::new();
    for (index, byte) in memory.bytes.iter_mut().enumerate() {
        *byte = u8::try_from(index % 251).expect("below 256") | 0x80; // no register reads 0 by accident
    }
    memory.set(0x00, &[0x86, 0x80, 0x33, 0x15]);
    memory.set(0x04, &[0x06, 0x00, 0x10, 0x00]);
    memory.set(0x08, &[0x03, 0x00, 0x00, 0x02]);
    memory.set(0x0c, &[0x10, 0x00, 0x80, 0x00]);
    memory.set(0x34, &[0x40]);
    memory.set(0x3c, &[0x0b, 0x01, 0x00, 0x00]);
    memory.set(0x40, &[0x01, 0x50, 0xc3, 0xff, 0x08, 0x00, 0x00, 0x00]);
    memory.set(0x50, &[0x03, 0x60, 0x00, 0x80]);
    memory.set(0x60, &[0x05, 0x70, 0x80, 0x01]);
    memory.set(0x70, &[0x11, 0x80, 0x04, 0x00, 0x03, 0x00, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00]);
    memory.set(0x80, &[0x10, 0x98, 0x02, 0x00]);
    memory.set(0x98, &[0x09, 0x00]);
    memory
}

pub(crate) fn network_card_info() -> DeviceInfo {
    info(&[(0, "0xfeb00000 0x20000 mem32"), (2, "0xe000 0x20 io"), (6, "0xfeb40000 0x40000 rom")], 11)
}

fn lend(info: &DeviceInfo, memory: &Memory) -> VirtualConfig {
    VirtualConfig::new(info, memory)
}
