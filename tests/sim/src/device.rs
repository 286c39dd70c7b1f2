//! Simulated functions: configuration spaces with the registers that tests need.

use pci_config::fakes::Memory;
use pci_config::{ConfigSpace, Walk, Width, check_quiesced};
use pci_registers::{bist, command, express, header, id, msi, msix, status};

/// Where the capabilities of these functions are.
const EXPRESS: u16 = 0x40;
const POWER_MANAGEMENT: u16 = 0x48;
const MSI: u16 = 0x50;
const MSI_X: u16 = 0x60;

/// A function with 4 KiB of configuration space.
#[derive(Clone, Debug)]
pub struct Function {
    space: Memory,
    /// How often it was reset.
    pub resets: u32,
    /// The addresses that dom0's kernel has found, as of the first reset.
    found: Option<[u64; 6]>,
    /// It does not answer: reads as ones.
    pub is_silent: bool,
    /// It will not answer after its next reset.
    pub falls_silent: bool,
}

/// A dword of two words.
fn dword(low: u16, high: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

impl Function {
    /// An endpoint with these ids and the class of a network card, decoding on and quiesced, with a PCI Express capability.
    #[must_use]
    pub fn endpoint(vendor: u16, device: u16) -> Self {
        let mut function =
            Self { space: Memory::default(), resets: 0, found: None, is_silent: false, falls_silent: false };
        let decoding = command::IO_DECODE | command::MEMORY_DECODE | command::INTX_DISABLE;
        function.write(header::VENDOR_ID, dword(vendor, device));
        function.write(header::COMMAND, dword(decoding, status::CAPABILITIES_LIST));
        function.write(header::REVISION_ID, 0x0200_0001);
        function.write(header::BASE_ADDRESS_0, 0xfeb0_0000);
        function.write(header::CAPABILITIES_POINTER, EXPRESS.into());
        function.write(header::INTERRUPT_LINE, 0x0000_010b);
        function.write(EXPRESS, 0x0002_0010);
        function.write(0x100, 0x0001_0001);
        function
    }

    /// The same with a self-test, power management, MSI for eight vectors and MSI-X with so many entries, whose table is in the first BAR.
    #[must_use]
    pub fn with_interrupts(mut self, entries: u16) -> Self {
        self.write_register(header::BIST, Width::Byte, bist::CAPABLE.into());
        self.write(EXPRESS, 0x0002_4810);
        self.write(POWER_MANAGEMENT, 0x0003_5001);
        self.write(MSI, 0x0086_6005);
        self.write(MSI_X, dword(id::MSI_X, entries - 1));
        self
    }

    /// The same that resets itself when it is told to in PCI Express.
    #[must_use]
    pub fn with_reset(mut self) -> Self {
        self.write(EXPRESS + express::DEVICE_CAPABILITIES, express::FUNCTION_LEVEL_RESET | 0x8000);
        self
    }

    /// Forgets its addresses and what was turned on.
    pub fn reset(&mut self) {
        self.resets += 1;
        self.found = self.found.or_else(|| Some([0, 1, 2, 3, 4, 5].map(|index| self.bar(index))));
        self.is_silent = self.falls_silent;
        self.write_register(header::COMMAND, Width::Word, 0);
        self.write(header::BASE_ADDRESS_0, 0);
        self.enable(false, false);
    }

    /// Nothing happens on its own: no bus mastering, no MSI, no MSI-X.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
        check_quiesced(self).is_ok()
    }

    /// Whether the control word of a capability has a bit; not where there is no such capability.
    fn has(&self, id: u16, bit: u16) -> bool {
        Walk::conventional(self).find(|found| found.id == id).is_some_and(|found| found.control() & bit != 0)
    }

    /// MSI Enable.
    #[must_use]
    pub fn has_msi_on(&self) -> bool {
        self.has(id::MSI, msi::ENABLE)
    }

    /// MSI-X Enable.
    #[must_use]
    pub fn has_msix_on(&self) -> bool {
        self.has(id::MSI_X, msix::ENABLE)
    }

    fn command(&self) -> u16 {
        self.space.word(header::COMMAND.into())
    }

    /// Memory Space Enable.
    #[must_use]
    pub fn decodes_memory(&self) -> bool {
        self.command() & command::MEMORY_DECODE != 0
    }

    /// The address that the BAR with the MSI-X table has.
    #[must_use]
    pub fn msix_table_bar(&self) -> u64 {
        let index = self.read(MSI_X + msix::TABLE, Width::Dword) & msix::BAR;
        self.bar(u16::try_from(index).unwrap_or(0))
    }

    fn bar(&self, index: u16) -> u64 {
        u64::from(self.read(header::BASE_ADDRESS_0 + 4 * index, Width::Dword) & !header::MEMORY_FLAGS)
    }

    /// What dom0's kernel says of its BARs: the file `resource` in sysfs. Each that is there has 4 KiB of memory.
    #[must_use]
    pub fn resource_file(&self) -> String {
        let found = self.found.unwrap_or_else(|| [0, 1, 2, 3, 4, 5].map(|index| self.bar(index)));
        let line = |start: u64| match start {
            0 => "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".to_owned(),
            start => format!("{start:#018x} {:#018x} 0x0000000000040200\n", start + 0xfff),
        };
        let rom = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n".to_owned();
        found.into_iter().map(line).chain([rom]).collect()
    }

    /// Sets MSI's and MSI-X' Enable, as only dom0 can.
    pub fn enable(&mut self, msi: bool, msix: bool) {
        for (register, bit, is_on) in [(MSI, msi::ENABLE, msi), (MSI_X, msix::ENABLE, msix)] {
            let control = self.space.word(usize::from(register + msi::CONTROL));
            let control = if is_on { control | bit } else { control & !bit };
            self.write_register(register + msi::CONTROL, Width::Word, control.into());
        }
    }

    /// Writes a register of this width.
    pub fn write_register(&mut self, offset: u16, width: Width, value: u32) {
        let initiate = u32::from(express::INITIATE_RESET);
        let can_reset =
            express::has_reset(self.space.read_config(EXPRESS + express::DEVICE_CAPABILITIES, Width::Dword));
        if offset == EXPRESS + express::DEVICE_CONTROL && value & initiate != 0 && can_reset {
            assert_eq!(self.command() & command::BUS_MASTER, 0, "a reset in the middle of DMA");
            return self.reset();
        }
        self.space.set(offset.into(), &value.to_le_bytes()[..width as usize]);
    }

    /// The same behind a bridge's header.
    #[must_use]
    pub fn bridge() -> Self {
        let mut function = Self::endpoint(0x8086, 0x1533);
        function.write(header::REVISION_ID, 0x0604_0000);
        function.write(header::CACHE_LINE_SIZE, 0x0001_0000);
        function
    }

    /// A virtual function: no ids, no addresses, no decoding, no interrupt pin.
    #[must_use]
    pub fn virtual_function() -> Self {
        let mut function = Self::endpoint(0xffff, 0xffff);
        function.write(header::COMMAND, dword(0, status::CAPABILITIES_LIST));
        function.write(header::BASE_ADDRESS_0, 0);
        function.write(header::INTERRUPT_LINE, 0);
        function
    }

    /// Turns bus mastering on or off.
    pub fn set_bus_master(&mut self, is_on: bool) {
        let command = self.command();
        let command = if is_on { command | command::BUS_MASTER } else { command & !command::BUS_MASTER };
        self.write_register(header::COMMAND, Width::Word, command.into());
    }

    /// Sets a dword.
    ///
    /// # Panics
    /// Behind the end.
    pub fn write(&mut self, offset: u16, value: u32) {
        self.write_register(offset, Width::Dword, value);
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, offset: u16, width: Width) -> u32 {
        if self.is_silent { width.bits() } else { self.space.read_config(offset, width) }
    }
}

impl ConfigSpace for Function {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        self.read(offset, width)
    }
}
