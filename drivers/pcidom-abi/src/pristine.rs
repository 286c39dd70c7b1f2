//! A function's writable configuration as it was before any guest had it.

use alloc::vec::Vec;
use core::str::FromStr;

use pci_registers::{EXTENDED_BYTES, Width};
use xen_types::Sbdf;

use crate::permitted_writes::{Identity, numbers, once};
use crate::{Malformed, permitted_writes};

/// The registers that a function has to get back after a reset, a wake-up or a guest. Written by commands when the function comes into a pool, to a
/// file a function (`docs/broker.md`), and read by them and the broker.
///
/// Displays and parses as lines, all numbers hexadecimal:
///
/// | line | meaning |
/// |---|---|
/// | `identity:IDS:CLASS` | the function that it is of; a file must have it |
/// | `payload:AT:PORT:PORTAT` | a [`Payload`]; `PORT` is `segment << 16 \| bus << 8 \| devfn` |
/// | `KIND:OFFSET:WIDTH:MASK:VALUE` | a [`SavedRegister`]; the kinds are `size`, `plain` and `open`; in the order in which they are to be written |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pristine {
    /// The function that it was made of.
    pub identity: Identity,
    /// Whose payload size the function's has to be; `None` for functions that no port leads to.
    pub payload: Option<Payload>,
    /// In the order in which they are to be written.
    pub registers: Vec<SavedRegister>,
}

/// Both ends of a link have the same payload size: a packet that is larger than its receiver takes is malformed, which is fatal (PCIe 5.0 §2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where the function's PCI Express capability is.
    pub at: u16,
    /// The port above it.
    pub port: Sbdf,
    /// Where the port's PCI Express capability is.
    pub port_at: u16,
}

/// What kind of register it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedKind {
    /// The size of a BAR: written before addresses (PCIe 5.0 §7.8.6.3).
    Size,
    /// No guest can change it, or the host writes it as well.
    Plain,
    /// It belongs to what `permissive=1` or a quirk can open, of which nobody but a vendor knows what it does: only written where no reset has put it back.
    Open,
}

impl SavedKind {
    const ALL: [Self; 3] = [Self::Size, Self::Plain, Self::Open];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Plain => "plain",
            Self::Open => "open",
        }
    }
}

/// One register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedRegister {
    /// When it is written.
    pub kind: SavedKind,
    /// Where it is: below 4096, a multiple of its width.
    pub offset: u16,
    /// How wide it is; it is written at this width.
    pub width: Width,
    /// The bits that were saved.
    pub mask: u32,
    /// What they are.
    pub value: u32,
}

impl FromStr for Pristine {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (mut pristine, mut identity) = (Self::default(), None);
        text.lines().try_for_each(|line| pristine.take(line, &mut identity)).ok_or(Malformed)?;
        pristine.identity = identity.ok_or(Malformed)?;
        Ok(pristine)
    }
}

impl Pristine {
    /// Takes one line in; `None` where it makes no sense.
    fn take(&mut self, line: &str, identity: &mut Option<Identity>) -> Option<()> {
        match numbers(line)? {
            ("identity", [Some(ids), Some(class), None, _]) => once(identity, Identity { ids, class }),
            ("payload", [Some(at), Some(port), Some(port_at), None]) => {
                let [segment_high, segment, bus, devfn] = port.to_be_bytes();
                let port = Sbdf::from_devfn(u16::from_be_bytes([segment_high, segment]), bus, devfn);
                let place = permitted_writes::conventional;
                once(&mut self.payload, Payload { at: place(at)?, port, port_at: place(port_at)? })
            }
            (name, [Some(offset), Some(width), Some(mask), Some(value)]) => {
                let kind = SavedKind::ALL.into_iter().find(|kind| kind.name() == name)?;
                let (offset, width) = (u16::try_from(offset).ok()?, Width::from_bytes(width)?);
                let is_register = offset < EXTENDED_BYTES && offset.is_multiple_of(width as u16);
                self.registers.push(SavedRegister { kind, offset, width, mask, value });
                (is_register && mask & !width.bits() == 0 && value & !mask == 0).then_some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back() {
        let saved = |kind, offset, width, mask, value| SavedRegister { kind, offset, width, mask, value };
        let pristine = Pristine {
            identity: Identity { ids: 0x1533_8086, class: 0x0200_0003 },
            payload: Some(Payload { at: 0xa0, port: Sbdf::from_devfn(0x1234, 0, 0xe1), port_at: 0x40 }),
            registers: vec![
                saved(SavedKind::Size, 0x208, Width::Dword, 0x3f00, 0x800),
                saved(SavedKind::Plain, 0xa8, Width::Word, 0x7fff, 0x2910),
                saved(SavedKind::Open, 0xf4, Width::Dword, u32::MAX, 7),
            ],
        };
        let text = "identity:15338086:2000003\npayload:a0:123400e1:40\nsize:208:4:3f00:800\nplain:a8:2:7fff:2910\nopen:f4:4:ffffffff:7\n";
        assert_eq!(pristine.to_string(), text);
        assert_eq!(text.parse(), Ok(pristine));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "identity:1:2",
            "payload:a0:e1",
            "payload:a1:e1:40",
            "payload:a0:e1:40\npayload:a0:e1:40",
            "plain:4:2:3f8",
            "plain:5:2:3f8:0",
            "plain:1000:1:1:0",
            "plain:4:3:1:0",
            "plain:4:2:10000:0",
            "plain:4:2:1:2",
            "vendor:4:2:1:1",
        ] {
            assert_eq!(
                format!("identity:1:2\n{line}\nplain:c:1:ff:10\n").parse::<Pristine>(),
                Err(Malformed),
                "{line}"
            );
        }
        assert_eq!("plain:c:1:ff:10\n".parse::<Pristine>(), Err(Malformed), "of no function");
        assert!("identity:1:2\nplain:c:1:ff:10\n".parse::<Pristine>().is_ok());
    }
}
