//! What may be written, as a table (`docs/broker.md`, "What may be written"). Everything that is not in it is refused.

use pci_config::{PermittedWrite, WritableMask};

use super::capabilities::Capabilities;
use super::failure::Failure;
use dom0::sysfs::Width;

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Header(u64),
    /// So many bytes into the capability.
    Power(u64),
    Vpd(u64),
}

/// What is special about a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// INTx Disable stays set in hardware while vectors are mapped.
    Command,
    /// The test can be started, nothing else; and only where there is one.
    Bist,
    /// Takes time, and the header with it.
    PowerState,
    /// Bit 15 would make a read of the data a write.
    VpdAddress,
    /// None of the list: the device's own policy opens it.
    Open,
}

/// A register that may be written.
#[derive(Debug)]
pub(crate) struct Rule {
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader, and for tests"))]
    name: &'static str,
    place: Place,
    pub(crate) width: Width,
    /// The bits that may change.
    bits: u32,
    /// And those that may besides where the device is permissive.
    permissive: u32,
    /// Those of them that clear when ones are written.
    ones_clear: u32,
    pub(crate) kind: Kind,
    /// Where it says what the bits do.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader, and for tests"))]
    source: &'static str,
}

/// The list.
const RULES: [Rule; 5] = [
    Rule {
        name: "Command",
        place: Place::Header(0x04),
        width: Width::Word,
        bits: BUS_MASTER | MEMORY_WRITE_AND_INVALIDATE | INTX_DISABLE,
        permissive: HARMLESS_COMMAND,
        ones_clear: 0,
        kind: Kind::Command,
        source: "PCI 3.0 §6.2.2",
    },
    Rule {
        name: "Cache Line Size",
        place: Place::Header(0x0c),
        width: Width::Byte,
        bits: 0xff,
        permissive: 0,
        ones_clear: 0,
        kind: Kind::Plain,
        source: "PCI 3.0 §6.2.4",
    },
    Rule {
        name: "BIST",
        place: Place::Header(0x0f),
        width: Width::Byte,
        bits: START_BIST,
        permissive: 0,
        ones_clear: 0,
        kind: Kind::Bist,
        source: "PCI 3.0 §6.2.4",
    },
    Rule {
        name: "PMCSR",
        place: Place::Power(4),
        width: Width::Word,
        bits: POWER_STATE | DATA_SELECT | PME_STATUS,
        permissive: 0,
        ones_clear: PME_STATUS,
        kind: Kind::PowerState,
        source: "PCI PM 1.2 §3.2.4",
    },
    Rule {
        name: "VPD address",
        place: Place::Vpd(2),
        width: Width::Word,
        bits: 0xffff,
        permissive: 0,
        ones_clear: 0,
        kind: Kind::VpdAddress,
        source: "PCI 3.0 §I",
    },
];

pub(crate) const BUS_MASTER: u32 = 1 << 2;
const MEMORY_WRITE_AND_INVALIDATE: u32 = 1 << 4;
pub(crate) const INTX_DISABLE: u32 = 1 << 10;
/// Special cycles, palette snoop, stepping, fast back-to-back.
const HARMLESS_COMMAND: u32 = 1 << 3 | 1 << 5 | 1 << 7 | 1 << 9;
const START_BIST: u32 = 0x40;
const HAS_BIST: u32 = 0x80;
const POWER_STATE: u32 = 3;
const DATA_SELECT: u32 = 0xf << 9;
const PME_STATUS: u32 = 1 << 15;
const VPD_WRITE: u32 = 1 << 15;

const NOT_ON_THE_LIST: &str = "asked for a write that is not on the list";

/// Bytes of a function's configuration space.
const CONFIG_BYTES: i32 = 4096;

/// A write as it was asked for: the stub's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) offset: i32,
    pub(crate) size: i32,
    pub(crate) value: u32,
    /// The bits to change.
    pub(crate) mask: u32,
}

/// A write that is on the list, in terms of its register.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub(crate) kind: Kind,
    pub(crate) width: Width,
    pub(crate) offset: u64,
    pub(crate) mask: u32,
    pub(crate) value: u32,
    /// Bits that clear when ones are written.
    ones_clear: u32,
}

/// Checks a write against the list. All bits to change must lie in one register; the access may be wider or narrower.
pub(crate) fn check(asked: &Asked, capabilities: &Capabilities, is_permissive: bool) -> Result<Allowed, Failure> {
    let (offset, width) = asked.place()?;
    let (value, mask) = (asked.value, asked.mask & width.bits());
    for rule in &RULES {
        let Some(register) = rule.offset(capabilities) else { continue };
        let (Some(mask), Some(value)) = (moved(mask, offset, register), moved(value & mask, offset, register)) else {
            continue;
        };
        let bits = rule.bits | if is_permissive { rule.permissive } else { 0 };
        if mask == 0 || mask & !bits != 0 || capabilities.is_interrupt_register(register, rule.width as u64) {
            continue;
        }
        if rule.kind == Kind::VpdAddress && value & VPD_WRITE != 0 {
            return Err(Failure::NotAllowed("asked to write VPD"));
        }
        if rule.kind == Kind::Bist && value != START_BIST {
            return Err(Failure::NotAllowed("asked for a BIST write that does not start the test"));
        }
        let Rule { kind, width, ones_clear, .. } = *rule;
        return Ok(Allowed { kind, width, offset: register, mask, value, ones_clear });
    }
    Err(Failure::NotAllowed(NOT_ON_THE_LIST))
}

/// What the device's own policy allows of a write that is not on the list, register by register. `openings` are what the broker itself has
/// found in the device.
pub(crate) fn check_policy(
    asked: &Asked,
    capabilities: &Capabilities,
    writable: &WritableMask,
) -> Result<Vec<Allowed>, Failure> {
    let (offset, width) = asked.place()?;
    let place = u16::try_from(offset).map_err(|_| Failure::BadAccess)?;
    let granted = writable.grant(place, width, asked.mask, asked.value);
    if granted.is_empty() || capabilities.is_interrupt_register(offset, width as u64) {
        return Err(Failure::NotAllowed(NOT_ON_THE_LIST));
    }
    let allowed = |PermittedWrite { offset, width, mask, value, ones_clear }| Allowed {
        kind: Kind::Open,
        width,
        offset: offset.into(),
        mask,
        value,
        ones_clear,
    };
    Ok(granted.into_iter().map(allowed).collect())
}

impl Asked {
    /// Where, and how wide.
    fn place(&self) -> Result<(u64, Width), Failure> {
        let width = u32::try_from(self.size).ok().and_then(Width::from_bytes).ok_or(Failure::BadAccess)?;
        let in_space = (0..CONFIG_BYTES).contains(&self.offset) && self.offset % self.size == 0;
        if in_space { Ok((self.offset.unsigned_abs().into(), width)) } else { Err(Failure::BadAccess) }
    }
}

/// Bits at one offset as bits at another; `None` where some of them would be lost.
fn moved(bits: u32, from: u64, to: u64) -> Option<u32> {
    let wide = u128::from(bits);
    // Accesses that are further apart than a dword have no bit in common.
    let moved = match (from.checked_sub(to), to.checked_sub(from)) {
        (Some(up @ 0..=3), _) => wide << (8 * up),
        (_, Some(down @ 0..=3)) if wide.trailing_zeros() >= 8 * u32::try_from(down).ok()? => wide >> (8 * down),
        _ => return (bits == 0).then_some(0),
    };
    u32::try_from(moved).ok()
}

impl Rule {
    fn offset(&self, capabilities: &Capabilities) -> Option<u64> {
        match self.place {
            Place::Header(offset) => Some(offset),
            Place::Power(offset) => capabilities.power.map(|at| at + offset),
            Place::Vpd(offset) => capabilities.vpd.map(|at| at + offset),
        }
    }
}

impl Allowed {
    /// What to write where `old` stands. Bits that clear by ones are written as ones only where that was asked for.
    pub(crate) fn merged(&self, old: u32) -> Result<u32, Failure> {
        if self.kind == Kind::Bist && old & HAS_BIST == 0 {
            return Err(Failure::NotAllowed("asked for a self-test that the device does not have"));
        }
        let kept = match self.kind {
            Kind::VpdAddress => old & !VPD_WRITE, // "a read is done" would read as "write"
            _ => old & !self.ones_clear,
        };
        Ok(kept & !self.mask | self.value)
    }
}

#[cfg(test)]
#[path = "allow_tests.rs"]
mod tests;
