//! Bytes of configuration space and of firmware tables.

/// A function's conventional configuration space.
#[derive(Clone)]
pub struct ConfigImage(pub Vec<u8>);

impl ConfigImage {
    /// An endpoint without capabilities.
    pub fn endpoint() -> Self {
        Self(vec![0; 256])
    }

    pub fn word(&self, offset: u64) -> u16 {
        let at = usize::try_from(offset).unwrap();
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub fn set_word(&mut self, offset: u64, value: u16) {
        let at = usize::try_from(offset).unwrap();
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Puts a capability at `offset`. The first one added heads the list.
    pub fn add_capability(&mut self, offset: u8, id: u8, next: u8) {
        if self.word(6) & 0x10 == 0 {
            self.set_word(6, 0x10);
            self.0[0x34] = offset;
        }
        self.0[usize::from(offset)] = id;
        self.0[usize::from(offset) + 1] = next;
    }

    /// Where a capability is; the list is a sound one.
    pub fn capability(&self, id: u8) -> Option<u64> {
        let mut at = self.0[0x34];
        while at != 0 {
            if self.0[usize::from(at)] == id {
                return Some(at.into());
            }
            at = self.0[usize::from(at) + 1];
        }
        None
    }

    /// No bus master, no INTx, no MSI, no MSI-X: what the stub demands of a device in the pool.
    pub fn is_quiesced(&self) -> bool {
        let mut quiet = self.word(4) & 0x404 == 0x400;
        let mut at = usize::from(self.0[0x34]);
        while at != 0 {
            let control = self.word(at as u64 + 2);
            quiet &= match self.0[at] {
                0x05 => control & 1 == 0,
                0x11 => control & 0x8000 == 0,
                _ => true,
            };
            at = usize::from(self.0[at + 1]);
        }
        quiet
    }
}

/// An ACPI MCFG table: base address, segment, first and last bus of each entry.
pub fn mcfg_table(entries: &[(u64, u16, u8, u8)]) -> Vec<u8> {
    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"MCFG");
    for (base, segment, first, last) in entries {
        table.extend(base.to_le_bytes());
        table.extend(segment.to_le_bytes());
        table.extend([*first, *last, 0, 0, 0, 0]);
    }
    table
}
