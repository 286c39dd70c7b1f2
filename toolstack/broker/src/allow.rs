//! What may be written: the list that `pcidom attach` made for the device (`docs/broker.md`, "What may be written"). Everything that is not in
//! it is refused.

use dom0::sysfs::Width;
use pci_registers::{EXTENDED_BYTES, bist, vpd};
use pcidom_abi::{PermittedWrite, PermittedWrites, WriteKind};

use super::failure::Failure;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) kind: WriteKind,
    pub(crate) offset: u16,
    pub(crate) width: Width,
    pub(crate) mask: u32,
    pub(crate) value: u32,
    /// Bits that are written as zeros where they are not to change.
    zeros: u32,
}

/// Checks a write against the list. All bits to change must lie in one register, whether the access is wider or narrower; only of what the
/// admin has opened (`WriteKind::Open`, ranges) is the rest left out, and there may be several such registers.
pub(crate) fn check(asked: &Asked, permitted: &PermittedWrites) -> Result<Vec<Allowed>, Failure> {
    let place = Place::of(asked)?;
    let (open, single): (Vec<&PermittedWrite>, Vec<&PermittedWrite>) =
        permitted.registers.iter().filter(|write| write.offset / 4 == place.offset / 4).partition(is_open);
    for register in single {
        if place.mask & !in_dword(register.mask, register.offset) == 0 && place.mask != 0 {
            let allowed = place.at(register.kind, register.offset, register.width, register.mask, register.zeros);
            return check_value(&allowed).map(|()| vec![allowed]);
        }
    }
    let range = permitted.ranges.iter().find(|range| range.contains(place.offset));
    let range = range.map(|range| {
        let (mask, zeros) = (of_dword(range.mask, place.offset), of_dword(range.zeros, place.offset));
        place.at(WriteKind::Open, place.offset, place.width, mask, zeros & place.width.bits())
    });
    let open = open.into_iter().map(|write| place.at(write.kind, write.offset, write.width, write.mask, write.zeros));
    let allowed: Vec<Allowed> = range.into_iter().chain(open).filter(|allowed| allowed.mask != 0).collect();
    if allowed.is_empty() { Err(Failure::NotAllowed("asked for a write that is not on the list")) } else { Ok(allowed) }
}

fn is_open(write: &&PermittedWrite) -> bool {
    write.kind == WriteKind::Open
}

/// What some registers take only.
fn check_value(allowed: &Allowed) -> Result<(), Failure> {
    match allowed.kind {
        WriteKind::VpdAddress if allowed.value & u32::from(vpd::WRITE) != 0 => {
            Err(Failure::NotAllowed("asked to write VPD"))
        }
        WriteKind::Bist if allowed.value != bist::START.into() => {
            Err(Failure::NotAllowed("asked for a BIST write that does not start the test"))
        }
        WriteKind::Reset if allowed.value != allowed.mask => {
            Err(Failure::NotAllowed("asked for a write that starts no reset"))
        }
        _ => Ok(()),
    }
}

/// An access that there can be, which lies in one dword.
struct Place {
    offset: u16,
    width: Width,
    /// The bits to change and their values, as bits of the dword.
    mask: u32,
    value: u32,
}

impl Place {
    fn of(asked: &Asked) -> Result<Self, Failure> {
        let width = u32::try_from(asked.size).ok().and_then(Width::from_bytes).ok_or(Failure::BadAccess)?;
        let offset = u16::try_from(asked.offset).map_err(|_| Failure::BadAccess)?;
        if offset >= EXTENDED_BYTES || !offset.is_multiple_of(width as u16) {
            return Err(Failure::BadAccess);
        }
        let mask = asked.mask & width.bits();
        Ok(Self { offset, width, mask: in_dword(mask, offset), value: in_dword(asked.value & mask, offset) })
    }

    /// What of the access falls on these bits of a register in the same dword.
    fn at(&self, kind: WriteKind, offset: u16, width: Width, bits: u32, zeros: u32) -> Allowed {
        let mask = of_dword(self.mask, offset) & bits & width.bits();
        Allowed { kind, offset, width, mask, value: of_dword(self.value, offset) & mask, zeros }
    }
}

/// Bits of the register at `offset` as bits of its dword.
fn in_dword(bits: u32, offset: u16) -> u32 {
    bits << (8 * (offset % 4))
}

/// Bits of a dword as bits of the register at `offset`, and of what is above it.
fn of_dword(bits: u32, offset: u16) -> u32 {
    bits >> (8 * (offset % 4))
}

impl Allowed {
    /// What to write where `old` stands.
    pub(crate) fn merged(&self, old: u32) -> u32 {
        old & !self.zeros & !self.mask | self.value
    }
}

#[cfg(test)]
#[path = "judges_tests.rs"]
mod judges_tests;
#[cfg(test)]
#[path = "recorded_tests.rs"]
mod recorded_tests;
#[cfg(test)]
#[path = "allow_tests.rs"]
mod tests;
