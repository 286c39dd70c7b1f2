//! The policy, as tables: what of each register is ours, and what a write to it does.
//!
//! A configuration space is looked at one dword at a time, because no access crosses one. Offsets are those of PCI Local Bus
//! 3.0 §6.1 and of the capabilities' own specifications; sections in comments are those of pci-protocol.

use super::capabilities::id;

/// What a write to a field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Nothing that a guest has to write: dropped, and worth telling the admin once.
    Drop,
    /// Nothing, but guests do write it: dropped in silence.
    Ignore,
    /// Command (§6.3).
    Command,
    /// Cache Line Size: to the hardware.
    CacheLineSize,
    /// BIST: to the hardware where it only starts the test.
    Bist,
    /// Base address register or ROM: starts or ends sizing (§6.4).
    Base,
    /// PM control/status: D-state, data select, and clearing PME status (§6.5).
    PowerState,
    /// VPD address: to the hardware where it asks for a read (§6.5).
    VpdAddress,
    /// MSI or MSI-X control: refused where it would change something (§6.6).
    InterruptControl,
}

/// One register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// First byte in its dword.
    pub at: u16,
    /// Bytes.
    pub bytes: u16,
    /// The bits of the register that are ours.
    own: u32,
    /// What a write does.
    pub write: Write,
}

impl Field {
    /// The bits of the dword that are this field.
    pub(super) const fn mask(&self) -> u32 {
        (u32::MAX >> (32 - 8 * self.bytes as u32)) << (8 * self.at as u32)
    }
}

/// What is ours of a dword, and its fields. Bytes in no field are the hardware's, and writes to them are dropped.
#[derive(Debug)]
pub(super) struct Dword {
    /// Bits that are answered from our copy.
    pub own: u32,
    /// Bits of ours that read 0 whatever the hardware says.
    pub zero: u32,
    /// The fields, in the order of their places.
    pub fields: &'static [Field],
}

const fn dword(fields: &'static [Field]) -> Dword {
    let mut own = 0;
    let mut index = 0;
    while index < fields.len() {
        own |= fields[index].own << (8 * fields[index].at as u32) & fields[index].mask();
        index += 1;
    }
    Dword { own, zero: 0, fields }
}

/// The bits of Command that are ours: all but those that are the hardware's, 0x2bc (§6.3).
pub(super) const VIRTUAL_COMMAND: u32 = 0xffff & !0x2bc;
/// The dword of Command.
pub(super) const COMMAND: usize = 1;
/// The dwords of the base address registers and of the ROM.
pub(super) const BASE: [usize; 7] = [4, 5, 6, 7, 8, 9, 12];
/// The dword of Header Type, and the bit that tells of further functions in it.
pub(super) const HEADER_TYPE: usize = 3;
pub(super) const MULTI_FUNCTION: u32 = 0x80 << 16;
/// The dword of Interrupt Line and Pin, and their places in it.
pub(super) const INTERRUPT: usize = 15;
pub(super) const INTERRUPT_LINE: u32 = 0xff;
pub(super) const INTERRUPT_PIN: u32 = 0xff00;
/// PME support in the first dword of the power management capability: no guest gets a PME (§6.5).
const PME_SUPPORT: u32 = 0xf800 << 16;

const ALL: u32 = u32::MAX;
const NONE: u32 = 0;

const fn field(at: u16, bytes: u16, own: u32, write: Write) -> Field {
    Field { at, bytes, own, write }
}

/// A dword of which nothing is ours and nothing is written: capabilities that no rule names, extended space, gaps.
pub(super) static RAW: Dword = dword(&[]);

/// The type 0 header (§6.2).
pub(super) static HEADER: [Dword; 16] = [
    // 00: Vendor ID, Device ID
    dword(&[field(0, 2, ALL, Write::Ignore), field(2, 2, ALL, Write::Ignore)]),
    // 04: Command, Status
    dword(&[field(0, 2, VIRTUAL_COMMAND, Write::Command), field(2, 2, NONE, Write::Drop)]),
    // 08: Revision ID, Class Code
    dword(&[field(0, 1, ALL, Write::Drop), field(1, 3, ALL, Write::Drop)]),
    // 0c: Cache Line Size, Latency Timer, Header Type, BIST
    dword(&[
        field(0, 1, NONE, Write::CacheLineSize),
        field(1, 1, NONE, Write::Ignore),
        field(2, 1, ALL, Write::Drop),
        field(3, 1, NONE, Write::Bist),
    ]),
    // 10 to 24: base address registers
    dword(&[field(0, 4, ALL, Write::Base)]),
    dword(&[field(0, 4, ALL, Write::Base)]),
    dword(&[field(0, 4, ALL, Write::Base)]),
    dword(&[field(0, 4, ALL, Write::Base)]),
    dword(&[field(0, 4, ALL, Write::Base)]),
    dword(&[field(0, 4, ALL, Write::Base)]),
    // 28: CardBus CIS Pointer
    dword(&[field(0, 4, ALL, Write::Drop)]),
    // 2c: Subsystem Vendor ID, Subsystem ID
    dword(&[field(0, 2, ALL, Write::Drop), field(2, 2, ALL, Write::Drop)]),
    // 30: Expansion ROM Base Address
    dword(&[field(0, 4, ALL, Write::Base)]),
    // 34: Capabilities Pointer
    dword(&[field(0, 1, ALL, Write::Drop)]),
    // 38: reserved
    dword(&[]),
    // 3c: Interrupt Line, Interrupt Pin, Min_Gnt, Max_Lat
    dword(&[
        field(0, 1, ALL, Write::Ignore),
        field(1, 1, ALL, Write::Ignore),
        field(2, 1, ALL, Write::Drop),
        field(3, 1, ALL, Write::Drop),
    ]),
];

/// What a dword behind the header is (§6.5, §6.6). The offsets are from the capability's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// In no capability that a rule names.
    Raw,
    /// +0 of a capability without rules of its own.
    Header,
    /// Power management +0.
    PowerHeader,
    /// Power management +4.
    PowerControl,
    /// Vital product data +0.
    VpdHeader,
    /// Vital product data +4.
    VpdData,
    /// MSI or MSI-X +0.
    InterruptHeader,
    /// Registers that never change: MSI-X +4 and +8.
    Constant,
}

/// The dwords of a capability, from its first.
pub(super) const fn capability(id: u8) -> &'static [Slot] {
    match id {
        id::POWER_MANAGEMENT => &[Slot::PowerHeader, Slot::PowerControl],
        id::VPD => &[Slot::VpdHeader, Slot::VpdData],
        id::MSI => &[Slot::InterruptHeader],
        id::MSI_X => &[Slot::InterruptHeader, Slot::Constant, Slot::Constant],
        _ => &[Slot::Header],
    }
}

impl Slot {
    /// The rules for such a dword.
    pub(super) fn rule(self) -> &'static Dword {
        // Id and next pointer: constant, and written by nobody on purpose.
        const HEADER: Field = field(0, 2, ALL, Write::Ignore);
        static ANY: Dword = dword(&[field(0, 2, ALL, Write::Drop)]);
        // +2 PMC, of which PME support is hidden; +4 PMCSR, +6 bridge extensions, +7 data.
        static POWER_HEADER: Dword = Dword { zero: PME_SUPPORT, ..dword(&[HEADER, field(2, 2, ALL, Write::Ignore)]) };
        static POWER_CONTROL: Dword = dword(&[
            field(0, 2, NONE, Write::PowerState),
            field(2, 1, NONE, Write::Ignore),
            field(3, 1, NONE, Write::Ignore),
        ]);
        // +2 address, +4 data.
        static VPD_HEADER: Dword = dword(&[HEADER, field(2, 2, NONE, Write::VpdAddress)]);
        static VPD_DATA: Dword = dword(&[field(0, 4, NONE, Write::Ignore)]);
        // +2 message control.
        static INTERRUPT_HEADER: Dword = dword(&[HEADER, field(2, 2, NONE, Write::InterruptControl)]);
        static CONSTANT: Dword = dword(&[field(0, 4, ALL, Write::Drop)]);
        match self {
            Self::Raw => &RAW,
            Self::Header => &ANY,
            Self::PowerHeader => &POWER_HEADER,
            Self::PowerControl => &POWER_CONTROL,
            Self::VpdHeader => &VPD_HEADER,
            Self::VpdData => &VPD_DATA,
            Self::InterruptHeader => &INTERRUPT_HEADER,
            Self::Constant => &CONSTANT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [Slot; 8] = [
        Slot::Raw,
        Slot::Header,
        Slot::PowerHeader,
        Slot::PowerControl,
        Slot::VpdHeader,
        Slot::VpdData,
        Slot::InterruptHeader,
        Slot::Constant,
    ];

    fn all() -> impl Iterator<Item = &'static Dword> {
        HEADER.iter().chain(SLOTS.into_iter().map(Slot::rule))
    }

    #[test]
    fn fields_lie_side_by_side_inside_their_dword() {
        for dword in all() {
            let mut end = 0;
            for field in dword.fields {
                assert!(field.at >= end && field.at + field.bytes <= 4, "{dword:?}");
                end = field.at + field.bytes;
            }
        }
    }

    #[test]
    fn a_field_that_may_be_written_is_a_register_that_can_be_accessed() {
        for field in all().flat_map(|dword| dword.fields).filter(|field| field.write != Write::Drop) {
            assert!([1, 2, 4].contains(&field.bytes) && field.at.is_multiple_of(field.bytes), "{field:?}");
        }
    }

    #[test]
    fn no_write_can_leave_more_than_an_outcome_holds_or_be_refused_half_way() {
        for dword in all() {
            let count = |writes: &[Write]| dword.fields.iter().filter(|field| writes.contains(&field.write)).count();
            let refusing = count(&[Write::VpdAddress, Write::InterruptControl]);
            let acting = count(&[Write::Command, Write::CacheLineSize, Write::Bist, Write::PowerState, Write::Base]);
            assert!(acting + refusing <= 2 && (refusing == 0 || acting == 0 && refusing == 1), "{dword:?}");
        }
    }

    #[test]
    fn the_named_dwords_are_those_of_the_table() {
        assert!(HEADER[COMMAND].fields.iter().any(|field| field.write == Write::Command));
        let base: std::vec::Vec<_> =
            (0..16).filter(|at| HEADER[*at].fields.iter().any(|f| f.write == Write::Base)).collect();
        assert_eq!(base, BASE);
        assert_eq!(HEADER[INTERRUPT].own, u32::MAX);
    }
}
