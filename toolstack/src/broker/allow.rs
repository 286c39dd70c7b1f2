//! What may be written, as a table (`docs/broker.md`, "What may be written"). Everything that is not in it is refused.

use super::capabilities::Capabilities;
use super::failure::Failure;
use crate::sysfs::Width;

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
        ones_clear: 0,
        kind: Kind::Command,
        source: "PCI 3.0 §6.2.2",
    },
    Rule {
        name: "Cache Line Size",
        place: Place::Header(0x0c),
        width: Width::Byte,
        bits: 0xff,
        ones_clear: 0,
        kind: Kind::Plain,
        source: "PCI 3.0 §6.2.4",
    },
    Rule {
        name: "BIST",
        place: Place::Header(0x0f),
        width: Width::Byte,
        bits: START_BIST,
        ones_clear: 0,
        kind: Kind::Bist,
        source: "PCI 3.0 §6.2.4",
    },
    Rule {
        name: "PMCSR",
        place: Place::Power(4),
        width: Width::Word,
        bits: POWER_STATE | DATA_SELECT | PME_STATUS,
        ones_clear: PME_STATUS,
        kind: Kind::PowerState,
        source: "PCI PM 1.2 §3.2.4",
    },
    Rule {
        name: "VPD address",
        place: Place::Vpd(2),
        width: Width::Word,
        bits: 0xffff,
        ones_clear: 0,
        kind: Kind::VpdAddress,
        source: "PCI 3.0 §I",
    },
];

const BUS_MASTER: u32 = 1 << 2;
const MEMORY_WRITE_AND_INVALIDATE: u32 = 1 << 4;
pub(crate) const INTX_DISABLE: u32 = 1 << 10;
const START_BIST: u32 = 0x40;
const HAS_BIST: u32 = 0x80;
const POWER_STATE: u32 = 3;
const DATA_SELECT: u32 = 0xf << 9;
const PME_STATUS: u32 = 1 << 15;
const VPD_WRITE: u32 = 1 << 15;

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
    pub(crate) rule: &'static Rule,
    pub(crate) offset: u64,
    pub(crate) mask: u32,
    pub(crate) value: u32,
}

/// Checks a write against the list. All bits to change must lie in one register; the access may be wider or narrower.
pub(crate) fn check(asked: &Asked, capabilities: &Capabilities) -> Result<Allowed, Failure> {
    let Asked { offset, size, value, mask } = *asked;
    let in_space = matches!(size, 1 | 2 | 4) && (0..CONFIG_BYTES).contains(&offset) && offset % size == 0;
    if !in_space {
        return Err(Failure::BadAccess);
    }
    let asked_bits = u32::MAX >> (32 - 8 * size);
    let mask = mask & asked_bits;
    let offset = u64::from(offset.unsigned_abs());
    for rule in &RULES {
        let Some(register) = rule.offset(capabilities) else { continue };
        let (Some(mask), Some(value)) = (moved(mask, offset, register), moved(value & mask, offset, register)) else {
            continue;
        };
        if mask == 0 || mask & !rule.bits != 0 || capabilities.is_interrupt_register(register, rule.width as u64) {
            continue;
        }
        if rule.kind == Kind::VpdAddress && value & VPD_WRITE != 0 {
            return Err(Failure::NotAllowed("asked to write VPD"));
        }
        if rule.kind == Kind::Bist && value != START_BIST {
            return Err(Failure::NotAllowed("asked for a BIST write that does not start the test"));
        }
        return Ok(Allowed { rule, offset: register, mask, value });
    }
    Err(Failure::NotAllowed("asked for a write that is not on the list"))
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
        if self.rule.kind == Kind::Bist && old & HAS_BIST == 0 {
            return Err(Failure::NotAllowed("asked for a self-test that the device does not have"));
        }
        let kept = match self.rule.kind {
            Kind::VpdAddress => old & !VPD_WRITE, // "a read is done" would read as "write"
            _ => old & !self.rule.ones_clear,
        };
        Ok(kept & !self.mask | self.value)
    }
}

#[cfg(test)]
#[path = "tests/allow.rs"]
mod tests;
