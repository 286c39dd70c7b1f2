//! Capabilities: their ids and the registers that this project uses.

/// Control word of a capability, from its header: of MSI, of MSI-X and of others.
const CONTROL: u16 = 2;

/// Ids of conventional capabilities (PCI-SIG, "PCI Code and ID Assignment").
pub mod id {
    /// Power management.
    pub const POWER_MANAGEMENT: u16 = 0x01;
    /// Vital product data.
    pub const VPD: u16 = 0x03;
    /// Message signalled interrupts.
    pub const MSI: u16 = 0x05;
    /// PCI-X.
    pub const PCI_X: u16 = 0x07;
    /// A vendor's own.
    pub const VENDOR: u16 = 0x09;
    /// PCI Express.
    pub const PCI_EXPRESS: u16 = 0x10;
    /// MSI-X.
    pub const MSI_X: u16 = 0x11;
    /// Advanced Features of conventional PCI: function level reset.
    pub const ADVANCED_FEATURES: u16 = 0x13;
}

/// Ids of extended capabilities (the same list).
pub mod extended_id {
    /// Access Control Services.
    pub const ACS: u16 = 0x0d;
    /// Single Root I/O Virtualization.
    pub const SR_IOV: u16 = 0x10;
    /// Resizable BAR.
    pub const RESIZABLE_BAR: u16 = 0x15;
    /// Resizable BAR of virtual functions.
    pub const VF_RESIZABLE_BAR: u16 = 0x24;
}

/// Power management (PCI Power Management Interface 1.2 §3.2).
pub mod power {
    /// PMC, the capabilities (§3.2.3).
    pub const CAPABILITIES: u16 = 2;
    /// PMC: the states from which the function can send a PME.
    pub const PME_SUPPORT: u16 = 0xf800;
    /// PMCSR, control and status (§3.2.4).
    pub const PMCSR: u16 = 4;
    /// PMCSR: the power state, 0 to 3.
    pub const STATE: u16 = 3;
    /// The state in which the function works.
    pub const D0: u16 = 0;
    /// The state from and to which a change takes 200 µs (§5.6.1).
    pub const D2: u16 = 2;
    /// D3hot, from and to which a change takes 10 ms (§5.6.1).
    pub const D3: u16 = 3;
    /// PMCSR: the function keeps its registers on the way from D3hot to D0 (§3.2.4).
    pub const NO_SOFT_RESET: u16 = 1 << 3;
    /// PMCSR: what Data shows.
    pub const DATA_SELECT: u16 = 0xf << 9;
    /// PMCSR: a PME is pending; cleared by a one.
    pub const PME_STATUS: u16 = 1 << 15;
}

/// Vital product data (PCI Local Bus 3.0 §I).
pub mod vpd {
    /// VPD Address; writing it starts a transfer.
    pub const ADDRESS: u16 = 2;
    /// VPD Data.
    pub const DATA: u16 = 4;
    /// VPD Address: 1 asks the device to write, 0 to read; it inverts when the transfer is done.
    pub const WRITE: u16 = 1 << 15;
}

/// Message signalled interrupts (PCI Local Bus 3.0 §6.8.1).
pub mod msi {
    /// Message Control (§6.8.1.3).
    pub const CONTROL: u16 = super::CONTROL;
    /// Message Address (§6.8.1.4).
    pub const ADDRESS: u16 = 4;
    /// Control: the function sends messages, and not its interrupt line.
    pub const ENABLE: u16 = 1 << 0;
    /// Control: the address has 64 bits.
    pub const HAS_64_BITS: u16 = 1 << 7;
    /// Control: each vector can be masked.
    pub const HAS_MASKS: u16 = 1 << 8;
    /// The most vectors that MSI knows.
    pub const MAX_VECTORS: u32 = 32;

    /// Number of vectors that the function can send, by its control word: a power of two. Values beyond 32 vectors are reserved.
    #[must_use]
    pub const fn vectors(control: u16) -> u32 {
        let log2 = control >> 1 & 7;
        if log2 > 5 { MAX_VECTORS } else { 1 << log2 }
    }

    /// Bytes of the capability, by its control word (figure 6-9).
    #[must_use]
    pub const fn bytes(control: u16) -> u16 {
        let upper_address = if control & HAS_64_BITS != 0 { 4 } else { 0 };
        (if control & HAS_MASKS != 0 { 20 } else { 10 }) + upper_address
    }
}

/// MSI-X (PCI Local Bus 3.0 §6.8.2).
pub mod msix {
    /// Message Control (§6.8.2.3).
    pub const CONTROL: u16 = super::CONTROL;
    /// Table Offset and the number of its BAR (§6.8.2.4).
    pub const TABLE: u16 = 4;
    /// The same of the pending bits (§6.8.2.5).
    pub const PENDING: u16 = 8;
    /// Bytes of the capability.
    pub const BYTES: u16 = 12;
    /// Control: entries of the table, less one.
    pub const TABLE_SIZE: u16 = 0x07ff;
    /// Control: no vector is sent, whatever its own mask says.
    pub const MASK_ALL: u16 = 1 << 14;
    /// Control: the function sends messages, and not its interrupt line.
    pub const ENABLE: u16 = 1 << 15;
    /// Table and pending bits: which BAR they are in.
    pub const BAR: u32 = 7;

    /// Entries of the table by the control word, 1 to 2048.
    #[must_use]
    pub const fn entries(control: u16) -> u16 {
        (control & TABLE_SIZE) + 1
    }
}

/// PCI-X (PCI-X Protocol Addendum 2.0 §7.2).
pub mod pci_x {
    /// PCI-X Status of an endpoint (§7.2.4).
    pub const STATUS: u16 = 4;
    /// Status: 266 and 533 MHz, that is, mode 2, in which there is extended configuration space.
    pub const MODE_2: u32 = 0xc000_0000;
}

/// PCI Express (PCIe 5.0 §7.5.3).
pub mod express {
    /// PCI Express Capabilities (§7.5.3.2).
    pub const CAPABILITIES: u16 = 2;
    /// Capabilities: the version.
    pub const VERSION: u16 = 0xf;
    /// Capabilities: what kind of function this is.
    pub const TYPE: u16 = 0xf0;
    /// Type: a root port.
    pub const ROOT_PORT: u16 = 4 << 4;
    /// Type: a switch's port to what is below it.
    pub const DOWNSTREAM_PORT: u16 = 6 << 4;
    /// Device Capabilities (§7.5.3.3).
    pub const DEVICE_CAPABILITIES: u16 = 4;
    /// Device Capabilities: the largest payload, 128 bytes for 0, twice as much for each number above.
    pub const PAYLOAD_SUPPORTED: u32 = 7;
    /// Device Control (§7.5.3.4).
    pub const DEVICE_CONTROL: u16 = 8;
    /// Device Control: the payload size in use, as in Device Capabilities.
    pub const PAYLOAD: u16 = 7 << 5;
    /// Device Control: the function is to reset itself.
    pub const INITIATE_RESET: u16 = 1 << 15;
    /// Device Status, behind Device Control: transactions of the function are pending.
    pub const TRANSACTIONS_PENDING: u16 = 1 << 5;
    /// Device Capabilities: the function resets itself when it is told to.
    pub const FUNCTION_LEVEL_RESET: u32 = 1 << 28;
    /// Device Capabilities: how many bits of the function number may be used for more requester ids.
    pub const PHANTOM_FUNCTIONS: u32 = 3 << 3;

    /// Whether a function has a reset of its own, by the dword of its Device Capabilities.
    #[must_use]
    pub const fn has_reset(capabilities: u32) -> bool {
        capabilities & FUNCTION_LEVEL_RESET != 0
    }

    /// Bytes of an endpoint's capability, by the word of its capabilities: the first version ends with its link.
    #[must_use]
    pub const fn bytes(capabilities: u16) -> u16 {
        if capabilities & VERSION < 2 { 0x14 } else { 0x3c }
    }
}

/// Advanced Features of conventional PCI (PCI Advanced Capabilities ECN).
pub mod advanced_features {
    /// Length and capabilities, behind the header: the function resets itself when it is told to.
    pub const FUNCTION_LEVEL_RESET: u16 = 1 << 9;
    /// AF Control: the function is to reset itself.
    pub const INITIATE_RESET: u8 = 1 << 0;
    /// AF Control, a byte.
    pub const CONTROL: u16 = 4;

    /// Whether a function has a reset of its own, by the first dword of the capability.
    #[must_use]
    pub const fn has_reset(header: u32) -> bool {
        header >> 16 & FUNCTION_LEVEL_RESET as u32 != 0
    }
}

/// Access Control Services (PCIe 5.0 §7.7.8), an extended capability of ports.
pub mod acs {
    /// ACS Control (§7.7.8.3).
    pub const CONTROL: u16 = 6;
    /// Control: requests with another port's bus number are refused.
    pub const SOURCE_VALIDATION: u16 = 1 << 0;
    /// Control: requests from device to device take the way through the root complex, and so through the IOMMU.
    pub const REQUEST_REDIRECT: u16 = 1 << 2;
    /// Control: so do their completions.
    pub const COMPLETION_REDIRECT: u16 = 1 << 3;
    /// Control: what comes back from above is passed on upstream.
    pub const UPSTREAM_FORWARDING: u16 = 1 << 4;
    /// All that keeps devices below one port from reaching others past the IOMMU.
    pub const ISOLATION: u16 = SOURCE_VALIDATION | REQUEST_REDIRECT | COMPLETION_REDIRECT | UPSTREAM_FORWARDING;
}

/// Single Root I/O Virtualization (PCIe 5.0 §9.3.3), an extended capability of physical functions.
pub mod sr_iov {
    /// SR-IOV Control (§9.3.3.3).
    pub const CONTROL: u16 = 8;
    /// Control: there are virtual functions.
    pub const ENABLE: u16 = 1 << 0;
    /// Control: the memory of the virtual functions answers.
    pub const MEMORY_ENABLE: u16 = 1 << 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_is_as_long_and_as_wide_as_its_control_word_says() {
        for (control, bytes, vectors) in
            [(0, 10, 1), (0x0080, 14, 1), (0x0106, 20, 8), (0x018a, 24, 32), (0x018e, 24, 32), (0x000c, 10, 32)]
        {
            assert_eq!((msi::bytes(control), msi::vectors(control)), (bytes, vectors), "{control:#x}");
        }
    }

    #[test]
    fn a_table_has_one_entry_more_than_its_register_says() {
        assert_eq!([0, 0xc000, 63, 0xffff].map(msix::entries), [1, 1, 64, 2048]);
    }

    #[test]
    fn the_first_version_of_pci_express_ends_with_its_link() {
        assert_eq!([0x0001, 0x0002, 0x0092].map(express::bytes), [0x14, 0x3c, 0x3c]);
    }
}
