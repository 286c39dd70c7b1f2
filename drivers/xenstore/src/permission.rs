//! Who may read and write a node.

use alloc::string::String;
use core::fmt::{self, Write as _};
use core::str::FromStr;

use xen_types::DomId;

use crate::error::Error;
use crate::number;

/// Access rights of a domain to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing: `n`.
    None,
    /// Read: `r`.
    Read,
    /// Write: `w`.
    Write,
    /// Read and write: `b`.
    Both,
}

/// One entry of a node's list, such as `r5`.
///
/// The first entry of a list is special: its domain owns the node and may do everything, and its access is what all
/// domains may do that no later entry names (xenstore protocol, `docs/misc/xenstore.txt` of Xen).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permission {
    /// The domain.
    pub domid: DomId,
    /// What it (or, in the first entry, all other domains) may do.
    pub access: Access,
}

impl Permission {
    /// `n…`: as the first entry, owned by `domid` and closed to all others.
    #[must_use]
    pub const fn none(domid: DomId) -> Self {
        Self { domid, access: Access::None }
    }

    /// `r…`: `domid` may read.
    #[must_use]
    pub const fn read(domid: DomId) -> Self {
        Self { domid, access: Access::Read }
    }

    /// `w…`: `domid` may write.
    #[must_use]
    pub const fn write(domid: DomId) -> Self {
        Self { domid, access: Access::Write }
    }

    /// `b…`: `domid` may read and write.
    #[must_use]
    pub const fn both(domid: DomId) -> Self {
        Self { domid, access: Access::Both }
    }

    /// The entries as SET_PERMS takes them and GET_PERMS answers them: each with a NUL behind it.
    /// [`crate::permissions`] is the way back.
    #[must_use]
    pub fn encode_list(list: &[Self]) -> String {
        let mut text = String::new();
        for entry in list {
            // Writing to a String cannot fail.
            let _ = write!(text, "{entry}\0");
        }
        text
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.access {
            Access::None => "n",
            Access::Read => "r",
            Access::Write => "w",
            Access::Both => "b",
        };
        write!(f, "{letter}{}", self.domid)
    }
}

impl FromStr for Permission {
    type Err = Error;

    /// Reads a letter and a domain id.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut letters = text.chars();
        let access = match letters.next() {
            Some('n') => Access::None,
            Some('r') => Access::Read,
            Some('w') => Access::Write,
            Some('b') => Access::Both,
            _ => return Err(Error::Protocol),
        };
        let digits = letters.as_str();
        if !digits.starts_with(|first: char| first.is_ascii_digit()) || digits.ends_with(['\n', '\0']) {
            return Err(Error::Protocol); // leniency is for values that guests write, not for xenstored
        }
        let domid = number::decimal(digits).ok().and_then(|domid| u16::try_from(domid).ok());
        Ok(Self { domid: DomId(domid.ok_or(Error::Protocol)?), access })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_reads_back() {
        for access in [Access::None, Access::Read, Access::Write, Access::Both] {
            for domid in [0, 1, 9, 10, 0x7fef, u16::MAX] {
                let entry = Permission { domid: DomId(domid), access };
                assert_eq!(entry.to_string().parse(), Ok(entry));
            }
        }
        assert_eq!("n0".parse(), Ok(Permission::none(DomId(0))));
        assert_eq!("r5".parse(), Ok(Permission::read(DomId(5))));
        assert_eq!("w3".parse(), Ok(Permission::write(DomId(3))));
        assert_eq!("b7".parse(), Ok(Permission::both(DomId(7))));
    }

    #[test]
    fn garbage_is_no_permission() {
        for text in ["", "n", "5", "x5", "N5", "r-5", "r+5", "r 5", "r5 ", "r5\n", "r65536", "r5x", "ü5"] {
            assert_eq!(text.parse::<Permission>(), Err(Error::Protocol), "{text:?}");
        }
    }
}
