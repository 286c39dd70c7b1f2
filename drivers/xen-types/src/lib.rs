//! The words that programs around Xen exchange: domain ids, event channel ports, grant references,
//! frame numbers, pirqs, PCI addresses and what devices decode. Each is a type of its own, so that one is never passed for
//! another.
#![no_std]
#![forbid(unsafe_code)]

mod errno;
mod ids;
mod resource;
mod sbdf;

pub use errno::Errno;
pub use ids::{DomId, GrantRef, Mfn, Pfn, Pirq, Port};
pub use resource::{Resource, ResourceError, ResourceKind};
pub use sbdf::{ParseSbdfError, Sbdf};

/// A number of hexadecimal digits and nothing else.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        if value >> 60 == 0 { Some(value << 4 | u64::from(digit)) } else { None }
    })
}

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
