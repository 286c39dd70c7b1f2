//! One function as its guest sees it, register by register (`pcidom show`). Values and masks come from the code that
//! answers the guest ([`crate::view`], [`crate::writable_mask`]), names from the table.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::layout::list;
use crate::packed::Line;
use crate::policy::{Policy, Quirk};
use crate::register::{COMMAND_DEVICE, Length, Read, Write, field_mask};
use crate::table::blocks;
use crate::view::VirtualConfig;
use crate::walk::{Capability, Walk};
use crate::writable_mask::{WritableMask, block_of, dwords_of};
use pci_registers::{ConfigSpace, EXTENDED, Width, bist};

/// One register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub offset: u16,
    /// How wide it is: one to four bytes.
    pub bytes: u8,
    /// The word for the header or the capability that it belongs to, as `hide=` takes it; empty between capabilities.
    pub block: String,
    /// As the specification calls it; empty where the table does not name it.
    pub name: &'static str,
    /// Where it is specified; empty where the table does not name it.
    pub source: &'static str,
    /// What a guest reads.
    pub value: u32,
    /// Who answers.
    pub answer: Answerer,
    /// The bits that a guest can change on the device.
    pub device_bits: u32,
    /// The bits that change for the guest alone.
    pub virtual_bits: u32,
    /// The bits that a policy could open besides.
    pub openable_bits: u32,
    /// Why writes are treated so.
    pub reason: Reason,
}

/// Who answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// The device.
    Device,
    /// Our copy, or what is virtual.
    Copy,
    /// Some bits each.
    Both,
    /// Neither: zero.
    Hidden,
}

impl Answerer {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Copy => "copy",
            Self::Both => "both",
            Self::Hidden => "hidden",
        }
    }
}

/// Why a write does what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The table says so for any guest.
    Table(Write),
    /// An address register that claims nothing.
    NoResource,
    /// BIST of a device that has no self-test.
    NoSelfTest,
    /// Dropped; a policy could open some of it.
    Closed,
    /// Dropped, whatever the policy.
    Locked,
    /// The capability is hidden.
    Hidden,
    /// The device is permissive.
    Permissive,
    /// The guest turns MSI and MSI-X on and off by itself.
    InterruptControl,
    /// These quirks.
    Quirks(Vec<Quirk>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table(Write::Command) => {
                "bus master, memory write and invalidate and INTx disable reach the device; decoding, parity and SERR# are virtual"
            }
            Self::Table(Write::CacheLineSize) => "drivers set it",
            Self::Table(Write::Bist) => "starts the self-test",
            Self::Table(Write::Base) => "reads as the size after ones were written; the address stays",
            Self::Table(Write::PowerState) => "power states, data select, PME status",
            Self::Table(Write::VpdAddress) => "asks for a read; writing VPD is refused",
            Self::Table(Write::MsiControl | Write::MsixControl) => {
                "a change is refused: vectors are asked for in their own way, but with interrupt-control=1"
            }
            Self::InterruptControl => "open by interrupt-control=1, one kind of interrupts at a time",
            Self::Table(Write::Ignore) => "dropped; drivers write it and need no effect",
            Self::Table(Write::DeviceControl | Write::FeaturesControl) => {
                "a function level reset is carried out where the device has one that dom0 knows; dropped otherwise"
            }
            Self::NoResource => "claims nothing",
            Self::NoSelfTest => "the device has no self-test",
            Self::Table(Write::Drop | Write::DropStatus) | Self::Closed => {
                "dropped; permissive=1 or a quirk opens some of it"
            }
            Self::Locked => "dropped, whatever the policy",
            Self::Hidden => "hidden by hide=, or as no guest can use it (show= shows it)",
            Self::Permissive => "open by permissive=1",
            Self::Quirks(quirks) => {
                f.write_str("open by")?;
                return quirks.iter().try_for_each(|quirk| write!(f, " quirk={quirk}"));
            }
        })
    }
}

/// A register's name, wherever it is.
#[derive(Clone, Copy)]
struct Name {
    name: &'static str,
    source: &'static str,
}

const UNNAMED: Name = Name { name: "", source: "" };

/// Registers of one function that have names, first come, first served.
struct Names {
    /// What each byte belongs to: a register by its first byte, and a block by its number.
    bytes: Vec<(Option<u16>, Option<usize>)>,
    /// By offset.
    names: Vec<(u16, u8, Name)>,
    blocks: Vec<String>,
}

impl Names {
    fn new(size: u16) -> Self {
        Self { bytes: (0..size).map(|_| (None, None)).collect(), names: Vec::new(), blocks: Vec::new() }
    }

    /// Names a register, if nothing of it has a name.
    fn name(&mut self, offset: u16, bytes: u8, name: Name) {
        let range = usize::from(offset)..usize::from(offset) + usize::from(bytes);
        if let Some(places) = self.bytes.get_mut(range).filter(|places| places.iter().all(|(name, _)| name.is_none())) {
            places.iter_mut().for_each(|place| place.0 = Some(offset));
            self.names.push((offset, bytes, name));
        }
    }

    /// Gives a block what of its bytes no other has.
    fn block(&mut self, block: String, offset: u16, dwords: u16) {
        let range = usize::from(offset)..usize::from(offset) + usize::from(dwords) * 4;
        let number = self.blocks.len();
        self.blocks.push(block);
        for place in self.bytes.iter_mut().skip(range.start).take(range.len()) {
            place.1.get_or_insert(number);
        }
    }

    /// All registers in order; bytes without a name in pieces that do not cross a dword.
    fn registers(&self) -> Vec<(u16, u8, Name, String)> {
        let mut registers: Vec<(u16, u8, Name, String)> = Vec::new();
        for (offset, (first, block)) in (0u16..).zip(&self.bytes) {
            let block = || block.and_then(|number| self.blocks.get(number)).cloned().unwrap_or_default();
            let named = self.names.iter().find(|(place, ..)| Some(*place) == *first);
            match (named, registers.last_mut()) {
                (Some((place, bytes, name)), _) if *place == offset => {
                    registers.push((offset, *bytes, *name, block()));
                }
                (Some(_), _) => {}
                (None, Some((last, bytes, name, owner)))
                    if name.name.is_empty() && *last / 4 == offset / 4 && *owner == block() =>
                {
                    *bytes += 1;
                }
                (None, _) => registers.push((offset, 1, UNNAMED, block())),
            }
        }
        registers
    }
}

impl VirtualConfig {
    /// All registers, in their order. `policy` is the one that the view was made with.
    #[must_use]
    pub fn inventory(&self, hw: &impl ConfigSpace, policy: &Policy) -> Vec<Entry> {
        let writable = WritableMask::new(hw, policy);
        let mut names = Names::new(self.size());
        if let Some(header) = blocks().next() {
            names.block("header".into(), 0, 16);
            header.registers.iter().for_each(|row| {
                names.name(row.at.into(), row.bytes, Name { name: row.name, source: row.source });
            });
        }
        self.name_capabilities(&mut names, &list(Walk::conventional(hw)).0, false);
        if self.size() > EXTENDED {
            self.name_capabilities(&mut names, &list(Walk::extended(hw)).0, true);
        }
        let registers = names.registers().into_iter();
        registers
            .map(|(offset, bytes, name, block)| self.entry(hw, policy, &writable, offset, bytes, name, block))
            .collect()
    }

    fn name_capabilities(&self, names: &mut Names, all: &[Capability], is_extended: bool) {
        for capability in all {
            let block = block_of(is_extended, capability);
            let is_hidden = self.layout.policy_flags.hides(is_extended, capability.id);
            let word = match block {
                Some(block) => block.name.into(),
                None if is_extended => format!("x{:x}", capability.id),
                None => format!("{:x}", capability.id),
            };
            let length = if is_hidden { Some(Length::ToNext) } else { block.map(|block| block.length) };
            let dwords = dwords_of(is_extended, capability, length, all);
            names.block(word, capability.offset, dwords);
            if is_hidden {
                names.name(capability.offset, 4, Name { name: "hidden", source: "" });
                continue;
            }
            if is_extended {
                names.name(capability.offset, 4, Name { name: "id, version, next", source: "PCIe 5.0 §7.6.3" });
            } else if block.is_none() {
                names.name(capability.offset, 2, Name { name: "id, next", source: "PCI 3.0 §6.7" });
            }
            for row in block.into_iter().flat_map(|block| block.registers) {
                if u16::from(row.at / 4) < dwords {
                    let name = Name { name: row.name, source: row.source };
                    names.name(capability.offset + u16::from(row.at), row.bytes, name);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of them are about one register")]
    fn entry(
        &self,
        hw: &impl ConfigSpace,
        policy: &Policy,
        writable: &WritableMask,
        offset: u16,
        bytes: u8,
        name: Name,
        block: String,
    ) -> Entry {
        let dword = usize::from(offset / 4);
        let at = offset.to_le_bytes()[0];
        let (mask, shift) = (field_mask(at, bytes), u32::from(at % 4) * 8);
        let own = self.answered_bits(dword) & mask;
        // In one access where there is one, as a guest would.
        let value = match Width::from_bytes(bytes.into()).filter(|width| offset.is_multiple_of(*width as u16)) {
            Some(width) => self.read(hw, offset.into(), width as i32).unwrap_or_default(),
            None => self.read(hw, (offset & !3).into(), 4).unwrap_or_default() >> shift & mask >> shift,
        };
        let is_hidden = self.is_hidden(dword);
        let answer = match own {
            _ if is_hidden => Answerer::Hidden,
            0 => Answerer::Device,
            _ if own == mask => Answerer::Copy,
            _ => Answerer::Both,
        };
        let mut entry = Entry {
            offset,
            bytes,
            block,
            name: name.name,
            source: name.source,
            value,
            answer,
            device_bits: 0,
            virtual_bits: 0,
            openable_bits: 0,
            reason: Reason::Hidden,
        };
        if is_hidden {
            return entry;
        }
        let is_this = |line: &&Line| line.mask() & mask != 0 && !line.write.is_drop();
        if let Some(line) = self.layout.lines(dword).iter().find(is_this) {
            self.of_table(&mut entry, dword, line.write);
        } else {
            self.of_policy(&mut entry, policy, writable.open(dword).bits & mask, shift);
            let resets = self.layout.lines(dword).iter().filter(|line| line.mask() == mask);
            for (write, bit) in resets.filter_map(|line| Some((line.write, self.reset_bit(line, dword)?))) {
                if entry.device_bits == 0 {
                    entry.reason = Reason::Table(write);
                }
                entry.device_bits |= bit;
            }
        }
        entry
    }

    /// What any guest may do with a register.
    fn of_table(&self, entry: &mut Entry, dword: usize, write: Write) {
        let is_permissive = self.layout.policy_flags.is_permissive();
        let more = if write == Write::Command { COMMAND_DEVICE & !write.device_bits() } else { 0 };
        entry.device_bits = write.device_bits() | if is_permissive { more } else { 0 };
        entry.openable_bits = if is_permissive { 0 } else { more };
        entry.reason = Reason::Table(write);
        match write {
            Write::Command => entry.virtual_bits = Read::Command.own(),
            Write::Base => {
                entry.virtual_bits = self.base_register(dword).map_or(0, |base| base.address ^ base.size_mask);
                if entry.virtual_bits == 0 {
                    entry.reason = Reason::NoResource;
                }
            }
            Write::MsiControl | Write::MsixControl if self.layout.policy_flags.controls_interrupts() => {
                entry.device_bits = write.interrupt_bits();
                entry.reason = Reason::InterruptControl;
            }
            Write::MsiControl | Write::MsixControl => entry.openable_bits = write.interrupt_bits(),
            Write::Bist if entry.value & u32::from(bist::CAPABLE) == 0 => {
                entry.device_bits = 0;
                entry.reason = Reason::NoSelfTest;
            }
            _ => {}
        }
    }

    /// What a guest may do by the device's own policy with a register of which these bits can be opened.
    fn of_policy(&self, entry: &mut Entry, policy: &Policy, openable: u32, shift: u32) {
        let dword = entry.offset / 4;
        let bits = |quirk: &Quirk| quirk.mask() << (8 * (quirk.offset() % 4)) & openable;
        let quirks: Vec<Quirk> =
            policy.quirks().filter(|quirk| quirk.offset() / 4 == dword && bits(quirk) != 0).copied().collect();
        let open = if policy.permissive { openable } else { quirks.iter().fold(0, |all, quirk| all | bits(quirk)) };
        entry.device_bits = open >> shift;
        entry.openable_bits = (openable & !open) >> shift;
        entry.reason = match (open, openable) {
            (0, 0) => Reason::Locked,
            (0, _) => Reason::Closed,
            _ if policy.permissive => Reason::Permissive,
            _ => Reason::Quirks(quirks),
        };
    }

    /// The bits of a dword that the device does not answer.
    fn answered_bits(&self, dword: usize) -> u32 {
        match self.own.get(dword) {
            Some(_) => self.own_bits(dword),
            None => self.layout.extended_value(dword).map_or(0, |_| u32::MAX),
        }
    }

    /// Whether a dword is of a capability that is not shown.
    fn is_hidden(&self, dword: usize) -> bool {
        self.layout.hides(dword)
    }
}
