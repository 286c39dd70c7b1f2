//! Functions to plug in: configuration spaces with just enough in them.

use pciback::platform::Width;

const COMMAND: u16 = 0x04;
const BUS_MASTER: u32 = 0x4;

/// 4 KiB of configuration space.
#[derive(Clone, Debug)]
pub struct Function {
    bytes: Box<[u8]>,
}

impl Function {
    /// An endpoint with these ids and the class of a network card, decoding on and quiet, with a PCI Express capability.
    #[must_use]
    pub fn endpoint(vendor: u16, device: u16) -> Self {
        let mut function = Self { bytes: vec![0; 4096].into_boxed_slice() };
        function.write(0x00, u32::from(device) << 16 | u32::from(vendor));
        function.write(COMMAND, 0x0010_0403); // capabilities; INTx disabled, memory and ports decoded
        function.write(0x08, 0x0200_0001);
        function.write(0x10, 0xfeb0_0000);
        function.write(0x34, 0x40);
        function.write(0x3c, 0x0000_010b);
        function.write(0x40, 0x0002_0010);
        function.write(0x100, 0x0001_0001);
        function
    }

    /// The same behind a bridge's header.
    #[must_use]
    pub fn bridge() -> Self {
        let mut function = Self::endpoint(0x8086, 0x1533);
        function.write(0x08, 0x0604_0000);
        function.write(0x0c, 0x0001_0000);
        function
    }

    /// Turns bus mastering on or off.
    pub fn set_bus_master(&mut self, is_on: bool) {
        let command = self.read(COMMAND, Width::Dword);
        self.write(COMMAND, if is_on { command | BUS_MASTER } else { command & !BUS_MASTER });
    }

    /// Sets a dword.
    ///
    /// # Panics
    /// Behind the end.
    pub fn write(&mut self, offset: u16, value: u32) {
        let offset = usize::from(offset);
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, offset: u16, width: Width) -> u32 {
        let bytes = self.bytes.iter().skip(usize::from(offset)).take(width as usize);
        bytes.rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }
}
