//! The header of an endpoint (PCI Local Bus 3.0 §6.1).

/// Vendor ID; as a dword, the device's ID is its upper half (§6.2.1).
pub const VENDOR_ID: u16 = 0x00;
/// Device ID (§6.2.1).
pub const DEVICE_ID: u16 = 0x02;
/// Command (§6.2.2); its bits are in [`command`].
pub const COMMAND: u16 = 0x04;
/// Status (§6.2.3); its bits are in [`status`].
pub const STATUS: u16 = 0x06;
/// Revision ID; as a dword, the class code is its upper three bytes (§6.2.1).
pub const REVISION_ID: u16 = 0x08;
/// Class Code, three bytes (§6.2.1).
pub const CLASS_CODE: u16 = 0x09;
/// Cache Line Size (§6.2.4).
pub const CACHE_LINE_SIZE: u16 = 0x0c;
/// Latency Timer (§6.2.4).
pub const LATENCY_TIMER: u16 = 0x0d;
/// Header Type (§6.2.1).
pub const HEADER_TYPE: u16 = 0x0e;
/// BIST (§6.2.4); its bits are in [`bist`].
pub const BIST: u16 = 0x0f;
/// The first of six base address registers (§6.2.5.1).
pub const BASE_ADDRESS_0: u16 = 0x10;
/// Subsystem Vendor ID; as a dword, the subsystem's ID is its upper half (§6.2.4).
pub const SUBSYSTEM_VENDOR_ID: u16 = 0x2c;
/// Expansion ROM Base Address (§6.2.5.2).
pub const EXPANSION_ROM: u16 = 0x30;
/// Capabilities Pointer (§6.7).
pub const CAPABILITIES_POINTER: u16 = 0x34;
/// Interrupt Line (§6.2.4).
pub const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt Pin (§6.2.4).
pub const INTERRUPT_PIN: u16 = 0x3d;
/// Secondary Bus Number of a bridge (PCI-to-PCI Bridge Architecture 1.2 §3.2.5.3).
pub const SECONDARY_BUS: u16 = 0x19;

/// Header Type without the bit that tells of further functions (§6.2.1): 0 is an endpoint.
pub const LAYOUT: u8 = 0x7f;
/// Header Type: the device has further functions (§6.2.1).
pub const MULTI_FUNCTION: u8 = 0x80;
/// The upper byte of Class Code for bridges (§D).
pub const BRIDGE_CLASS: u8 = 0x06;

/// Bits of a base address register that are not part of the address: of one for ports (§6.2.5.1).
pub const IO_FLAGS: u32 = 0x3;
/// The same of one for memory.
pub const MEMORY_FLAGS: u32 = 0xf;
/// The same of the expansion ROM's, reserved bits included (§6.2.5.2).
pub const ROM_FLAGS: u32 = 0x7ff;

/// Bits of Command (§6.2.2).
pub mod command {
    /// The function answers at its ports.
    pub const IO_DECODE: u16 = 1 << 0;
    /// The function answers at its memory.
    pub const MEMORY_DECODE: u16 = 1 << 1;
    /// The function may read and write memory.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Special Cycles.
    pub const SPECIAL_CYCLES: u16 = 1 << 3;
    /// Memory Write and Invalidate Enable.
    pub const MEMORY_WRITE_AND_INVALIDATE: u16 = 1 << 4;
    /// VGA Palette Snoop.
    pub const PALETTE_SNOOP: u16 = 1 << 5;
    /// Stepping Control, reserved since PCI 2.3.
    pub const STEPPING: u16 = 1 << 7;
    /// Fast Back-to-Back Enable.
    pub const FAST_BACK_TO_BACK: u16 = 1 << 9;
    /// The function does not assert its interrupt line.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of Status (§6.2.3).
pub mod status {
    /// The function asks for an interrupt on its line.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES_LIST: u16 = 1 << 4;
    /// Errors, each cleared by a one.
    pub const ERRORS: u16 = 0xf900;
}

/// Bits of BIST (§6.2.4).
pub mod bist {
    /// Starts the self-test; reads 1 while it runs.
    pub const START: u8 = 1 << 6;
    /// There is a self-test.
    pub const CAPABLE: u8 = 1 << 7;
}
