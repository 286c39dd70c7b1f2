//! The registers of some cards, and what dom0 knows about them.

use xen_types::Resource;

use super::Memory;
use crate::base::RESOURCES;
use crate::policy::Policy;
use crate::view::Description;

/// A function's description, owned.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// By register.
    pub resources: [Option<Resource>; RESOURCES],
    /// A virtual function's ids.
    pub ids: Option<u32>,
    /// Its GSI.
    pub irq: u32,
    /// The admin's policy.
    pub policy: Policy,
}

impl Known {
    /// Resources by register, and the GSI.
    ///
    /// # Panics
    /// Where a text is no resource.
    #[must_use]
    pub fn new(list: &[(usize, &str)], irq: u32) -> Self {
        let mut resources = [None; RESOURCES];
        for (register, text) in list {
            resources[*register] = Some(text.parse().expect("a resource"));
        }
        Self { resources, ids: None, irq, policy: Policy::default() }
    }

    /// The same with what the admin wants.
    ///
    /// # Panics
    /// Where the text is no policy.
    #[must_use]
    pub fn with_policy(self, text: &str) -> Self {
        Self { policy: text.parse().expect("a policy"), ..self }
    }

    /// As the view takes it.
    #[must_use]
    pub fn description(&self) -> Description<'_> {
        Description {
            resources: &self.resources,
            ids: self.ids,
            irq: self.irq,
            policy_flags: self.policy.policy_flags(),
        }
    }
}

/// A network card with every capability that guests write to: PM 40, VPD 50, MSI 60, MSI-X 70, PCI Express 80, vendor's own 98. Its extended
/// space reads as ones at 100: there is no list.
#[must_use]
pub fn network_card() -> Memory {
    let mut memory = Memory::default();
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
    memory.set(0x80, &[0x10, 0x98, 0x01, 0x00]);
    memory.set(0x98, &[0x09, 0x00]);
    memory.set(0x100, &[0xff; 4]);
    memory
}

/// What is known about the card.
#[must_use]
pub fn network_card_known() -> Known {
    Known::new(&[(0, "0xfeb00000 0x20000 mem32"), (2, "0xe000 0x20 io"), (6, "0xfeb40000 0x40000 rom")], 11)
}

/// A virtual function of a network card as the hardware shows it: no ids, no addresses, no decoding, no pin; PCI Express 40, MSI-X 80, and
/// ARI at 100.
#[must_use]
pub fn virtual_function() -> Memory {
    let mut memory = Memory::default();
    memory.set(0x00, &[0xff; 4]);
    memory.set(0x06, &[0x10, 0x00]);
    memory.set(0x08, &[0x01, 0x00, 0x00, 0x02]);
    memory.set(0x2c, &[0x86, 0x80, 0x00, 0x00]);
    memory.set(0x34, &[0x40]);
    memory.set(0x40, &[0x10, 0x80, 0x02, 0x00]);
    memory.set(0x80, &[0x11, 0x00, 0x02, 0x00, 0x03, 0x00, 0x00, 0x00, 0x03, 0x20, 0x00, 0x00]);
    memory.set(0x100, &0x0001_000e_u32.to_le_bytes());
    memory
}

/// What dom0 knows about it, from the capability of its physical function.
#[must_use]
pub fn virtual_function_known() -> Known {
    let list = [(0, "0x8c0000000 0x4000 mem64p"), (3, "0x8c0100000 0x4000 mem64p")];
    Known { ids: Some(0x1520_8086), ..Known::new(&list, 0) }
}

/// A card with what servers have: PM 40, MSI 48, PCI Express 60, MSI-X a0, VPD b0, AF b8, HyperTransport c0, SATA c8, EA d0, vendor's own e0,
/// subsystem id f0; and in the extended space AER 100, DSN 140, VSEC 150, SR-IOV 160, ATS 1a0, ACS 1b0, ARI 1c0, PRI 1d0, PASID 1e0, LTR 1e8,
/// ReBAR 1f0, DPC 210, L1 PM 230, and one with an unknown id at 300.
#[must_use]
pub fn server_card() -> Memory {
    let mut memory = network_card();
    let conventional: [(u8, u8); 11] = [
        (0x40, 0x01),
        (0x48, 0x05),
        (0x60, 0x10),
        (0xa0, 0x11),
        (0xb0, 0x03),
        (0xb8, 0x13),
        (0xc0, 0x08),
        (0xc8, 0x12),
        (0xd0, 0x14),
        (0xe0, 0x09),
        (0xf0, 0x0d),
    ];
    for (index, (at, id)) in conventional.iter().enumerate() {
        let next = conventional.get(index + 1).map_or(0, |(at, _)| *at);
        memory.set((*at).into(), &[*id, next]);
    }
    memory.set(0x42, &[0xc3, 0xff, 0x08, 0x00]);
    memory.set(0x4a, &[0x80, 0x00]); // 64 bits, no masks
    memory.set(0x62, &[0x02, 0x00]); // version 2
    memory.set(0xa2, &[0x04, 0x00]);
    memory.set(0xb2, &[0x00, 0x80]);
    let extended: [(u16, u16); 14] = [
        (0x100, 0x01),
        (0x140, 0x03),
        (0x150, 0x0b),
        (0x160, 0x10),
        (0x1a0, 0x0f),
        (0x1b0, 0x0d),
        (0x1c0, 0x0e),
        (0x1d0, 0x13),
        (0x1e0, 0x1b),
        (0x1e8, 0x18),
        (0x1f0, 0x15),
        (0x210, 0x1d),
        (0x230, 0x1e),
        (0x300, 0x7e),
    ];
    for (index, (at, id)) in extended.iter().enumerate() {
        let next = extended.get(index + 1).map_or(0, |(at, _)| *at);
        let header = u32::from(*id) | 1 << 16 | u32::from(next) << 20;
        memory.set((*at).into(), &header.to_le_bytes());
    }
    memory
}
