//! Simulated functions: configuration spaces with the registers that tests need.

use pciback::platform::{ConfigSpace, Width};

const COMMAND: u16 = 0x04;
const MEMORY_DECODE: u32 = 0x2;
const BUS_MASTER: u32 = 0x4;
const BIST: u16 = 0x0f;
const HAS_BIST: u32 = 0x80;
const BAR_0: u16 = 0x10;
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
    /// An endpoint with these ids and the class of a network card, decoding on and quiesced, with a PCI Express capability.
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

    /// The same with a self-test, power management at 48h, MSI for eight vectors at 50h and MSI-X with so many entries at 60h, whose table is
    /// in the first BAR.
    #[must_use]
    pub fn with_interrupts(mut self, entries: u16) -> Self {
        self.write_register(BIST, Width::Byte, HAS_BIST);
        self.write(0x40, 0x0002_4810);
        self.write(0x48, 0x0003_5001);
        self.write(MSI, 0x0086_6005);
        self.write(MSIX, u32::from(entries - 1) << 16 | 0x11);
        self
    }

    /// Nothing happens on its own: no bus mastering, no MSI, no MSI-X.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
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

    /// Memory Space Enable.
    #[must_use]
    pub fn decodes_memory(&self) -> bool {
        self.read(COMMAND, Width::Word) & MEMORY_DECODE != 0
    }

    /// The address that the BAR with the MSI-X table has.
    #[must_use]
    pub fn msix_table_bar(&self) -> u64 {
        self.bar(u16::try_from(self.read(MSIX + 4, Width::Dword) & 7).unwrap_or(0))
    }

    fn bar(&self, index: u16) -> u64 {
        u64::from(self.read(BAR_0 + 4 * index, Width::Dword) & !0xf)
    }

    /// What dom0's kernel says of its BARs: the file `resource` in sysfs. Each that is there has 4 KiB of memory.
    #[must_use]
    pub fn resource_file(&self) -> String {
        let line = |index| match self.bar(index) {
            0 => "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".to_owned(),
            start => format!("{start:#018x} {:#018x} 0x0000000000040200\n", start + 0xfff),
        };
        let rom = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".to_owned();
        (0..6).map(line).chain([rom]).collect()
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

impl ConfigSpace for Function {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        self.read(offset, width)
    }
}
