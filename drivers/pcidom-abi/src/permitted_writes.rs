//! The list of writes that the broker may carry out on a device for its guest.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use pci_registers::{CONVENTIONAL, EXTENDED, EXTENDED_BYTES, Width};

use crate::Malformed;

/// The value of [`crate::DeviceNode::PermittedWrites`]: what the policy's table, the device's capabilities and the admin's words come to, compiled
/// by `pcidom attach`, and where the capabilities are with which the broker works. What is not in it is refused.
///
/// Displays and parses as words with blanks between, all numbers hexadecimal:
///
/// | word | meaning |
/// |---|---|
/// | `identity:IDS:CLASS` | the device's [`Identity`]; a list must have it |
/// | `power:AT` | [`Capabilities::power`] |
/// | `msi:AT:VECTORS` | [`Msi`] |
/// | `msix:AT:ENTRIES:BAR` | [`Msix`] |
/// | `sriov:AT` | [`Capabilities::sr_iov`] |
/// | `KIND:OFFSET:WIDTH:MASK:ZEROS` | a [`PermittedWrite`]; the kinds are `plain`, `command`, `bist`, `pmcsr`, `vpd`, `interrupts`, `reset` and `open` |
/// | `range:OFFSET:DWORDS:MASK:ZEROS` | a [`PermittedRange`] |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermittedWrites {
    /// The device that the list was made for.
    pub identity: Identity,
    /// Where the device's capabilities are.
    pub capabilities: Capabilities,
    /// Single registers.
    pub registers: Vec<PermittedWrite>,
    /// Dwords that `permissive=1` opens.
    pub ranges: Vec<PermittedRange>,
}

/// What a device says that it is: another card in the same slot says something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The dword at 00h: vendor and device id. A virtual function's are ones (PCIe 5.0 §9.3.4.1.1 and §9.3.4.1.2).
    pub ids: u32,
    /// The dword at 08h: revision id and class code.
    pub class: u32,
}

impl Identity {
    /// Whether a device that reads so now is another one. One whose class reads as ones does not answer, as it is in reset, asleep or pulled out: that
    /// says nothing about which it is.
    #[must_use]
    pub fn is_other(self, now: Self) -> bool {
        now.class != u32::MAX && now != self
    }
}

/// The capabilities with which the broker works, by the offsets of their headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Power management.
    pub power: Option<u16>,
    /// MSI.
    pub msi: Option<Msi>,
    /// MSI-X.
    pub msix: Option<Msix>,
    /// Of a virtual function: SR-IOV in its physical function.
    pub sr_iov: Option<u16>,
}

/// The MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where it is.
    pub at: u16,
    /// How many vectors a guest can have, up to 32; 0 where the capability is hidden from it.
    pub vectors: u32,
}

/// The MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Where it is.
    pub at: u16,
    /// Entries of the table that a guest can use, up to 128; 0 where the capability is hidden from it.
    pub entries: u16,
    /// The number of the BAR with the table, 0 to 7 (those above 5 are reserved).
    pub bar: u8,
}

/// What the broker has to mind about a register besides its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// Nothing.
    Plain,
    /// Command: INTx Disable stays set in hardware while vectors are mapped.
    Command,
    /// BIST: the self-test can be started, nothing else.
    Bist,
    /// PMCSR: a change of the power state takes time, and the header with it.
    PowerState,
    /// VPD Address: bit 15 would make a read of the data a write.
    VpdAddress,
    /// MSI or MSI-X control of a device whose guest's device model maps vectors by itself: one kind of interrupts at a time, and MSI only where Xen has
    /// written a message.
    InterruptControl,
    /// A function level reset: the bit that starts it is written alone.
    Reset,
    /// The admin has opened these bits: of a write that reaches more than them the rest is left out.
    Open,
}

impl WriteKind {
    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Command,
        Self::Bist,
        Self::PowerState,
        Self::VpdAddress,
        Self::InterruptControl,
        Self::Reset,
        Self::Open,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Command => "command",
            Self::Bist => "bist",
            Self::PowerState => "pmcsr",
            Self::VpdAddress => "vpd",
            Self::InterruptControl => "interrupts",
            Self::Reset => "reset",
            Self::Open => "open",
        }
    }
}

/// A register that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedWrite {
    /// What is to be minded.
    pub kind: WriteKind,
    /// Where the register is: below 4096, a multiple of its width.
    pub offset: u16,
    /// How wide it is; it is written at this width.
    pub width: Width,
    /// The bits that may change.
    pub mask: u32,
    /// Bits that must be written as zeros where they are not to change, because a one clears them or starts something.
    pub zeros: u32,
}

/// Dwords that the admin has opened, each with the same bits; written at the width of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermittedRange {
    /// The first dword's offset.
    pub offset: u16,
    /// How many dwords, at least one.
    pub dwords: u16,
    /// The bits of each that may change.
    pub mask: u32,
    /// As [`PermittedWrite::zeros`].
    pub zeros: u32,
}

impl PermittedRange {
    /// Whether a register that begins at this offset lies in it.
    #[must_use]
    pub fn contains(&self, offset: u16) -> bool {
        (self.offset..self.offset + self.dwords * 4).contains(&offset)
    }
}

/// The list takes more bytes than fit into a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list of permitted writes takes {0} bytes, and a node of xenstore has room for {max}", max = PermittedWrites::MAX_BYTES)]
pub struct TooLong(pub usize);

impl PermittedWrites {
    /// The longest value: a message to xenstored has 4096 bytes with the node's path in them (`XENSTORE_PAYLOAD_MAX`, `io/xs_wire.h`).
    pub const MAX_BYTES: usize = 3840;

    /// Whether the guest's device model maps vectors by itself and turns MSI and MSI-X on and off, so that nobody else may.
    #[must_use]
    pub fn gives_interrupt_control(&self) -> bool {
        self.registers.iter().any(|register| register.kind == WriteKind::InterruptControl)
    }

    /// As the node has it.
    ///
    /// # Errors
    /// Where it is too long for a node.
    pub fn to_node(&self) -> Result<String, TooLong> {
        let text = self.to_string();
        if text.len() <= Self::MAX_BYTES { Ok(text) } else { Err(TooLong(text.len())) }
    }
}

impl fmt::Display for PermittedWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blank = "";
        let mut word = |text: fmt::Arguments<'_>| {
            f.write_str(core::mem::replace(&mut blank, " "))?;
            f.write_fmt(text)
        };
        let Identity { ids, class } = self.identity;
        word(format_args!("identity:{ids:x}:{class:x}"))?;
        let Capabilities { power, msi, msix, sr_iov } = self.capabilities;
        if let Some(at) = power {
            word(format_args!("power:{at:x}"))?;
        }
        if let Some(Msi { at, vectors }) = msi {
            word(format_args!("msi:{at:x}:{vectors:x}"))?;
        }
        if let Some(Msix { at, entries, bar }) = msix {
            word(format_args!("msix:{at:x}:{entries:x}:{bar:x}"))?;
        }
        if let Some(at) = sr_iov {
            word(format_args!("sriov:{at:x}"))?;
        }
        for PermittedWrite { kind, offset, width, mask, zeros } in &self.registers {
            word(format_args!("{}:{offset:x}:{:x}:{mask:x}:{zeros:x}", kind.name(), *width as u8))?;
        }
        for PermittedRange { offset, dwords, mask, zeros } in &self.ranges {
            word(format_args!("range:{offset:x}:{dwords:x}:{mask:x}:{zeros:x}"))?;
        }
        Ok(())
    }
}

impl FromStr for PermittedWrites {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (mut list, mut identity) = (Self::default(), None);
        text.split(' ').try_for_each(|word| list.take(word, &mut identity)).ok_or(Malformed)?;
        list.identity = identity.ok_or(Malformed)?;
        Ok(list)
    }
}

impl PermittedWrites {
    /// Takes one word in; `None` where it is none.
    fn take(&mut self, word: &str, identity: &mut Option<Identity>) -> Option<()> {
        let capabilities = &mut self.capabilities;
        match numbers(word)? {
            ("identity", [Some(ids), Some(class), None, _]) => once(identity, Identity { ids, class }),
            ("power", [Some(at), None, ..]) => once(&mut capabilities.power, conventional(at)?),
            ("msi", [Some(at), Some(vectors), None, _]) => {
                once(&mut capabilities.msi, Msi { at: conventional(at)?, vectors: up_to(vectors, 32)? })
            }
            ("msix", [Some(at), Some(entries), Some(bar), None]) => {
                let (at, entries) = (conventional(at)?, u16::try_from(up_to(entries, 128)?).ok()?);
                once(&mut capabilities.msix, Msix { at, entries, bar: u8::try_from(up_to(bar, 7)?).ok()? })
            }
            ("sriov", [Some(at), None, ..]) => once(&mut capabilities.sr_iov, aligned(at, EXTENDED..EXTENDED_BYTES)?),
            ("range", [Some(offset), Some(dwords), Some(mask), Some(zeros)]) => {
                let offset = aligned(offset, 0..EXTENDED_BYTES)?;
                let dwords = u16::try_from(up_to(dwords, ((EXTENDED_BYTES - offset) / 4).into())?).ok()?;
                self.ranges.push(PermittedRange { offset, dwords, mask, zeros });
                (dwords > 0 && mask != 0).then_some(())
            }
            (name, [Some(offset), Some(width), Some(mask), Some(zeros)]) => {
                let kind = WriteKind::ALL.into_iter().find(|kind| kind.name() == name)?;
                let (offset, width) = (u16::try_from(offset).ok()?, Width::from_bytes(width)?);
                let is_register = offset < EXTENDED_BYTES && offset.is_multiple_of(width as u16);
                self.registers.push(PermittedWrite { kind, offset, width, mask, zeros });
                (is_register && mask != 0 && (mask | zeros) & !width.bits() == 0).then_some(())
            }
            _ => None,
        }
    }
}

/// A word's name and its numbers; `None` where it is none.
pub(crate) fn numbers(word: &str) -> Option<(&str, [Option<u32>; 4])> {
    let mut fields = word.split(':');
    let name = fields.next()?;
    let mut numbers = [None; 4];
    for (number, digits) in numbers.iter_mut().zip(fields.by_ref()) {
        *number = Some(hexadecimal(digits)?);
    }
    fields.next().is_none().then_some((name, numbers))
}

/// Keeps what was not there yet.
pub(crate) fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn up_to(number: u32, most: u32) -> Option<u32> {
    (number <= most).then_some(number)
}

/// An offset of a capability in the conventional space.
pub(crate) fn conventional(offset: u32) -> Option<u16> {
    aligned(offset, CONVENTIONAL..EXTENDED)
}

fn aligned(offset: u32, space: core::ops::Range<u16>) -> Option<u16> {
    u16::try_from(offset).ok().filter(|offset| space.contains(offset) && offset.is_multiple_of(4))
}

/// A number of hexadecimal digits and nothing else.
fn hexadecimal(digits: &str) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_number.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back() {
        let list = PermittedWrites {
            identity: Identity { ids: 0x1533_8086, class: 0x0200_0003 },
            capabilities: Capabilities {
                power: Some(0x40),
                msi: Some(Msi { at: 0x50, vectors: 32 }),
                msix: Some(Msix { at: 0x70, entries: 128, bar: 4 }),
                sr_iov: Some(0x160),
            },
            registers: vec![
                PermittedWrite { kind: WriteKind::Command, offset: 4, width: Width::Word, mask: 0x414, zeros: 0 },
                PermittedWrite {
                    kind: WriteKind::PowerState,
                    offset: 0x44,
                    width: Width::Word,
                    mask: 3,
                    zeros: 0x8000,
                },
                PermittedWrite { kind: WriteKind::Open, offset: 0xfff, width: Width::Byte, mask: 0x80, zeros: 0 },
            ],
            ranges: vec![PermittedRange { offset: 0x104, dwords: 0x3bf, mask: u32::MAX, zeros: 0 }],
        };
        let text = "identity:15338086:2000003 power:40 msi:50:20 msix:70:80:4 sriov:160 command:4:2:414:0 pmcsr:44:2:3:8000 open:fff:1:80:0 range:104:3bf:ffffffff:0";
        assert_eq!(list.to_node().as_deref(), Ok(text));
        assert_eq!(text.parse(), Ok(list));
        for kind in WriteKind::ALL {
            let write = PermittedWrite { kind, offset: 0, width: Width::Dword, mask: 1, zeros: 2 };
            let list = PermittedWrites { registers: vec![write], ..PermittedWrites::default() };
            assert_eq!(list.to_string().parse(), Ok(list));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "",
            " ",
            "power",
            "power:",
            "power:42",
            "power:3c",
            "power:100",
            "power:40:1",
            "power:40 power:48",
            "power:40  msi:50:1",
            "msi:50",
            "msi:50:21",
            "msix:70:81:0",
            "msix:70:80:8",
            "sriov:40",
            "command:4:2:414",
            "command:4:2:414:0:0",
            "command:5:2:414:0",
            "command:4:3:1:0",
            "command:4:2:10000:0",
            "command:4:2:1:10000",
            "command:4:2:0:0",
            "command:1000:1:1:0",
            "command:+4:2:414:0",
            "command:0x4:2:414:0",
            "command:4:2:100000414:0",
            "commands:4:2:414:0",
            "Command:4:2:414:0",
            "range:40:0:1:0",
            "range:ffc:2:1:0",
            "range:42:1:1:0",
            "range:40:1:0:1",
            "permissive=1",
            "identity:1",
            "identity:1:2:3",
            "identity:1:2 identity:1:2",
        ] {
            assert_eq!(text.parse::<PermittedWrites>(), Err(Malformed), "{text:?}");
            assert_eq!(format!("identity:1:2 {text}").parse::<PermittedWrites>(), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_list_without_the_device_that_it_is_for_is_refused() {
        assert_eq!("power:40 command:4:2:414:0".parse::<PermittedWrites>(), Err(Malformed));
        assert!("identity:1:2 power:40 command:4:2:414:0".parse::<PermittedWrites>().is_ok());
    }

    #[test]
    fn a_device_that_does_not_answer_is_no_other() {
        let noted = Identity { ids: 0x1533_8086, class: 0x0200_0003 };
        assert!(!noted.is_other(noted));
        assert!(!noted.is_other(Identity { ids: u32::MAX, class: u32::MAX }));
        // While it initialises: Request Retry Status (PCIe 5.0 §2.3.2).
        assert!(!noted.is_other(Identity { ids: 0xffff_0001, class: u32::MAX }));
        assert!(noted.is_other(Identity { ids: 0x1521_8086, ..noted }));
        assert!(noted.is_other(Identity { class: 0x0200_0004, ..noted }));
        assert!(noted.is_other(Identity { ids: u32::MAX, ..noted }), "a virtual function");
        let of_virtual = Identity { ids: u32::MAX, class: 0x0200_0001 };
        assert!(!of_virtual.is_other(of_virtual) && of_virtual.is_other(noted));
    }

    #[test]
    fn a_list_that_no_node_holds_is_told() {
        let range = PermittedRange { offset: 0x100, dwords: 1, mask: u32::MAX, zeros: u32::MAX };
        let list = |count| PermittedWrites { ranges: vec![range; count], ..PermittedWrites::default() };
        assert_eq!(list(120).to_node().map(|text| text.len()), Ok("identity:0:0".len() + 120 * 30));
        let error = list(200).to_node().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the list of permitted writes takes 6012 bytes, and a node of xenstore has room for 3840"
        );
    }
}
