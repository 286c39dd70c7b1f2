//! Configuration space as plain memory.

use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use pci_registers::{CONVENTIONAL, ConfigSpace, EXTENDED, EXTENDED_BYTES, Width, command, header, status};

use crate::checks::check_quiesced;
use crate::walk::Walk;

/// Configuration space as memory, which counts how often it is read.
#[derive(Clone, Debug)]
pub struct Memory {
    /// What is in it, 256 or 4096 bytes.
    pub bytes: Vec<u8>,
    /// How often it was read.
    pub reads: Cell<usize>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::from_bytes(vec![0; EXTENDED_BYTES.into()])
    }
}

impl Memory {
    /// With these bytes and no others: what is behind them reads as ones.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, reads: Cell::new(0) }
    }

    /// 256 bytes, all zero.
    #[must_use]
    pub fn conventional() -> Self {
        Self::from_bytes(vec![0; EXTENDED.into()])
    }

    /// These bytes from the start on, zeros behind them. With `has_list` they say that there is a capability list; without, they say what they say.
    ///
    /// # Panics
    /// Where they are more than 4096.
    #[must_use]
    pub fn of(bytes: &[u8], has_list: bool) -> Self {
        let mut memory = Self::default();
        memory.set(0, bytes);
        memory.bytes[usize::from(header::STATUS)] |=
            if has_list { status::CAPABILITIES_LIST.to_le_bytes()[0] } else { 0 };
        memory
    }

    /// Sets the bytes at `offset`.
    ///
    /// # Panics
    /// Where there is no room for them.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// A word, which does not count as read.
    ///
    /// # Panics
    /// Behind the end.
    #[must_use]
    pub fn word(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// Sets a word.
    ///
    /// # Panics
    /// Behind the end.
    pub fn set_word(&mut self, offset: usize, value: u16) {
        self.set(offset, &value.to_le_bytes());
    }

    /// Puts the header of a capability at `offset`. The first one added heads the list.
    ///
    /// # Panics
    /// Behind the end.
    pub fn add_capability(&mut self, offset: u8, id: u8, next: u8) {
        let status = self.word(header::STATUS.into());
        if status & status::CAPABILITIES_LIST == 0 {
            self.set_word(header::STATUS.into(), status | status::CAPABILITIES_LIST);
            self.bytes[usize::from(header::CAPABILITIES_POINTER)] = offset;
        }
        assert!(u16::from(offset) >= CONVENTIONAL, "a capability in the header");
        self.set(offset.into(), &[id, next]);
    }

    /// Where a conventional capability is.
    #[must_use]
    pub fn capability(&self, id: u16) -> Option<usize> {
        Walk::conventional(self).find(|capability| capability.id == id).map(|capability| capability.offset.into())
    }

    /// No DMA and no interrupts, as the pool demands it, and INTx off, as a command leaves a device.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
        check_quiesced(self).is_ok() && self.word(header::COMMAND.into()) & command::INTX_DISABLE != 0
    }
}

impl ConfigSpace for Memory {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        self.reads.set(self.reads.get() + 1);
        let (offset, bytes) = (usize::from(offset), width as usize);
        assert_eq!(offset % bytes, 0, "an access that {width:?} cannot be");
        let mut value = [0; 4];
        match self.bytes.get(offset..offset + bytes) {
            Some(register) => value[..bytes].copy_from_slice(register),
            None => value[..bytes].fill(0xff),
        }
        u32::from_le_bytes(value)
    }
}
