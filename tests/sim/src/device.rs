//! Functions to plug in: configuration spaces with just enough in them.

use pciback::platform::Width;

const COMMAND: u16 = 0x04;
const BUS_MASTER: u32 = 0x4;
const MSI: u16 = 0x50;
const MSI_ENABLE: u32 = 1 << 16;
const MSIX: u16 = 0x60;
const MSIX_ENABLE: u32 = 1 << 31;

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

    /// The same with power management at 48h, MSI for eight vectors at 50h and MSI-X with so many entries at 60h.
    #[must_use]
    pub fn with_interrupts(mut self, entries: u16) -> Self {
        self.write(0x40, 0x0002_4810);
        self.write(0x48, 0x0003_5001);
        self.write(MSI, 0x0086_6005);
        self.write(MSIX, u32::from(entries - 1) << 16 | 0x11);
        self
    }

    /// Nothing happens on its own: no bus mastering, no MSI, no MSI-X.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.read(COMMAND, Width::Word) & BUS_MASTER == 0 && !self.has_msi_on() && !self.has_msix_on()
    }

    /// MSI Enable.
    #[must_use]
    pub fn has_msi_on(&self) -> bool {
        self.read(MSI, Width::Byte) == 0x05 && self.read(MSI, Width::Dword) & MSI_ENABLE != 0
    }

    /// MSI-X Enable.
    #[must_use]
    pub fn has_msix_on(&self) -> bool {
        self.read(MSIX, Width::Byte) == 0x11 && self.read(MSIX, Width::Dword) & MSIX_ENABLE != 0
    }

    /// Sets MSI's and MSI-X' Enable, as only dom0 can.
    pub fn enable(&mut self, msi: bool, msix: bool) {
        for (register, bit, is_on) in [(MSI, MSI_ENABLE, msi), (MSIX, MSIX_ENABLE, msix)] {
            let control = self.read(register, Width::Dword);
            self.write(register, if is_on { control | bit } else { control & !bit });
        }
    }

    /// Writes a register of this width.
    pub fn write_register(&mut self, offset: u16, width: Width, value: u32) {
        let offset = usize::from(offset);
        self.bytes[offset..offset + width as usize].copy_from_slice(&value.to_le_bytes()[..width as usize]);
    }

    /// The same behind a bridge's header.
    #[must_use]
    pub fn bridge() -> Self {
        let mut function = Self::endpoint(0x8086, 0x1533);
        function.write(0x08, 0x0604_0000);
        function.write(0x0c, 0x0001_0000);
        function
    }

    /// A virtual function: no ids, no addresses, no decoding, no interrupt pin.
    #[must_use]
    pub fn virtual_function() -> Self {
        let mut function = Self::endpoint(0xffff, 0xffff);
        function.write(COMMAND, 0x0010_0000);
        function.write(0x10, 0);
        function.write(0x3c, 0);
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
