//! Types of a policy row: register, who answers reads, what a write does.

use crate::policy::PolicyFlags;
use pci_registers::{advanced_features, bist, command, express, msi, msix, power, vpd};

/// Who answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The device.
    Device,
    /// Our copy, made when the function was assigned, or what is virtual.
    Copy,
    /// Command: some bits are the device's, the others virtual.
    Command,
    /// Our copy, with PME support reading as none: no guest gets a PME (docs/protocol.md §6.4).
    PowerCapabilities,
    /// Our copy, without the function level reset where dom0 does not carry one out for its guest, which would believe that it has happened.
    DeviceCapabilities,
    /// The same of the Advanced Features capability.
    AdvancedFeatures,
    /// MSI-X control: the size of the table is ours, as it is no larger for a guest than a frontend can ask for.
    TableSize,
}

impl Read {
    /// The bits that are answered from our copy.
    pub(crate) const fn own(self) -> u32 {
        match self {
            Self::Device => 0,
            Self::Copy | Self::PowerCapabilities | Self::DeviceCapabilities | Self::AdvancedFeatures => u32::MAX,
            Self::Command => 0xffff & !COMMAND_DEVICE,
            Self::TableSize => TABLE_SIZE,
        }
    }

    /// Virtual bits that are copied from the device; the others read 0.
    pub(crate) const fn copied(self, policy: PolicyFlags) -> u32 {
        match self {
            Self::PowerCapabilities => !(power::PME_SUPPORT as u32),
            Self::DeviceCapabilities if !policy.shows_express_reset() => !express::FUNCTION_LEVEL_RESET,
            Self::AdvancedFeatures if !policy.shows_features_reset() => {
                !(advanced_features::FUNCTION_LEVEL_RESET as u32)
            }
            _ => self.own(),
        }
    }
}

/// MSI-X control: how many entries the table has, less one.
pub(crate) const TABLE_SIZE: u32 = msix::TABLE_SIZE as u32;
/// Entries that a guest can use: `xen-pcifront` refuses a driver that asks for more at once, so it must not believe in them (`SH_INFO_MAX_VEC`
/// in `pciif.h`).
pub const MAX_ENTRIES: u16 = 128;

/// Bits of Command that a guest reads from the device (docs/protocol.md §6.2), and those of them that a permissive device has written:
/// special cycles, memory write and invalidate, palette snoop, stepping, fast back-to-back, and bus master.
pub(crate) const COMMAND_DEVICE: u32 = (command::BUS_MASTER
    | command::SPECIAL_CYCLES
    | command::MEMORY_WRITE_AND_INVALIDATE
    | command::PALETTE_SNOOP
    | command::STEPPING
    | command::FAST_BACK_TO_BACK) as u32;

/// What a write does, whatever the device's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing that a guest has to write: dropped, and worth telling the admin once. Where the policy is permissive, some bits go to
    /// the device.
    Drop,
    /// The same for a register of which every bit that can be written clears by a one.
    DropStatus,
    /// Nothing, but guests do write it: dropped in silence.
    Ignore,
    /// Command (§6.3).
    Command,
    /// Cache Line Size: to the hardware.
    CacheLineSize,
    /// BIST: to the hardware where it only starts the test.
    Bist,
    /// PCI Express's Device Control: a function level reset where the guest is shown one, dropped otherwise.
    DeviceControl,
    /// The same in the control byte of Advanced Features.
    FeaturesControl,
    /// Base address register or ROM: starts or ends sizing (§6.3).
    Base,
    /// PM control/status: D-state, data select, and clearing PME status (§6.5).
    PowerState,
    /// VPD address: to the hardware where it asks for a read (§6.5).
    VpdAddress,
    /// MSI control: refused where it would change something (§6.6), but for what interrupt control opens.
    MsiControl,
    /// The same of MSI-X.
    MsixControl,
}

impl Write {
    /// True where a write is dropped unless the policy says more, but for a reset.
    pub(crate) const fn is_drop(self) -> bool {
        matches!(self, Self::Drop | Self::DropStatus | Self::DeviceControl | Self::FeaturesControl)
    }

    /// The bits that any guest may change on the device.
    #[must_use]
    pub const fn device_bits(self) -> u32 {
        match self {
            Self::Command => {
                (command::BUS_MASTER | command::MEMORY_WRITE_AND_INVALIDATE | command::INTX_DISABLE) as u32
            }
            Self::CacheLineSize => 0xff,
            Self::Bist => bist::START as u32,
            Self::DeviceControl => express::INITIATE_RESET as u32,
            Self::FeaturesControl => advanced_features::INITIATE_RESET as u32,
            Self::PowerState => (power::STATE | power::DATA_SELECT | power::PME_STATUS) as u32,
            Self::VpdAddress => !vpd::WRITE as u32,
            Self::Drop | Self::DropStatus | Self::Ignore | Self::Base | Self::MsiControl | Self::MsixControl => 0,
        }
    }

    /// The bits that a guest may change besides whose device model maps vectors by itself (`interrupt-control=1`).
    #[must_use]
    pub const fn interrupt_bits(self) -> u32 {
        match self {
            Self::MsiControl => msi::ENABLE as u32,
            Self::MsixControl => (msix::ENABLE | msix::MASK_ALL) as u32,
            _ => 0,
        }
    }
}

/// One register of the policy's table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As the specification calls it.
    pub name: &'static str,
    /// From the start of the header or of the capability.
    pub at: u8,
    /// One to four bytes; one that can be written is as wide as an access.
    pub bytes: u8,
    /// Who answers a read.
    pub read: Read,
    /// What a write does.
    pub write: Write,
    /// The bits that may change besides where the device is permissive, or by a quirk.
    pub permissive: u32,
    /// Where it is specified.
    pub source: &'static str,
}

/// The bits of a dword that a register of so many bytes takes.
pub(crate) const fn field_mask(at: u8, bytes: u8) -> u32 {
    (u32::MAX >> (32 - 8 * bytes as u32)) << (8 * (at % 4) as u32)
}

/// Where a block of registers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The header of this type.
    Header(u8),
    /// Capabilities with this id.
    Capability(u8),
    /// Extended capabilities with this id.
    Extended(u16),
}

/// How far a capability reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many dwords.
    Dwords(u8),
    /// As its control word says: MSI (PCI 3.0 §6.8.1) and PCI Express (PCIe 5.0 §7.5.3).
    Control,
    /// Up to the next capability in the space, because its length is variable or unknown.
    ToNext,
}

/// Registers of a block that no row names: writable on a permissive device or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Everything.
    Open,
    /// Nothing.
    Locked,
}

/// The header or one capability.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Where it is.
    pub place: Place,
    /// The word by which it is hidden, and shown.
    pub name: &'static str,
    /// How far it reaches.
    pub length: Length,
    /// Whether unnamed registers are writable on a permissive device.
    pub rest: Rest,
    /// In the order of their places.
    pub registers: &'static [Row],
}
