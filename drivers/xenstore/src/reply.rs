//! Reads the payloads of answers.

use alloc::vec::Vec;
use core::str;

use crate::error::Error;
use crate::number;
use crate::permission::Permission;
use crate::wire::TxId;

/// A value as text, without one NUL or newline at its end: shells and C programs leave them behind.
///
/// # Errors
/// [`Error::NotText`] when it is not UTF-8. A guest can write any bytes into its own nodes.
pub fn text(value: &[u8]) -> Result<&str, Error> {
    str::from_utf8(number::strip_one_end(value)).map_err(|_| Error::NotText)
}

/// The names in the answer to DIRECTORY. What is not text or empty is left out: no such node can exist.
pub fn directory_entries(payload: &[u8]) -> impl Iterator<Item = &str> {
    payload.split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok()).filter(|name| !name.is_empty())
}

/// A part of a directory's list, as the answer to DIRECTORY_PART tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// Changes with the list: parts of two generations do not belong together.
    pub(crate) generation: &'a [u8],
    /// The names, each with a NUL behind it.
    pub(crate) names: &'a [u8],
    /// Nothing follows.
    pub(crate) is_last: bool,
}

/// The answer to DIRECTORY_PART: the generation, names, and an empty string behind the last of all.
///
/// # Errors
/// [`Error::Protocol`] when it is none, or one after which there would be no end.
pub(crate) fn directory_part(payload: &[u8]) -> Result<Part<'_>, Error> {
    let end = payload.iter().position(|byte| *byte == 0).ok_or(Error::Protocol)?;
    let (generation, rest) = payload.split_at(end);
    let rest = rest.get(1..).unwrap_or_default();
    match rest {
        [0] => Ok(Part { generation, names: &[], is_last: true }),
        [names @ .., 0, 0] => {
            Ok(Part { generation, names: rest.get(..names.len() + 1).unwrap_or_default(), is_last: true })
        }
        [_, .., 0] => Ok(Part { generation, names: rest, is_last: false }),
        _ => Err(Error::Protocol),
    }
}

/// The entries in the answer to GET_PERMS.
///
/// # Errors
/// [`Error::Protocol`] when one of them is no permission or there is none.
pub fn permissions(payload: &[u8]) -> Result<Vec<Permission>, Error> {
    let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
    payload.split(|byte| *byte == 0).map(|entry| str::from_utf8(entry).map_err(|_| Error::Protocol)?.parse()).collect()
}

/// The id in the answer to TRANSACTION_START.
///
/// # Errors
/// [`Error::Protocol`] when it is not a number, or 0, which would mean "no transaction".
pub fn transaction_id(payload: &[u8]) -> Result<TxId, Error> {
    match number::decimal(payload) {
        Ok(id) if id != 0 => Ok(TxId(id)),
        _ => Err(Error::Protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_types::DomId;

    #[test]
    fn text_loses_one_end_mark_only() {
        assert_eq!(text(b"0000:03:00.0"), Ok("0000:03:00.0"));
        assert_eq!(text(b"5\n"), Ok("5"));
        assert_eq!(text(b"5\0"), Ok("5"));
        assert_eq!(text(b"5\n\0"), Ok("5\n"));
        assert_eq!(text(b"\n\n"), Ok("\n"));
        assert_eq!(text(b""), Ok(""));
        assert_eq!(text(&[0xc3]), Err(Error::NotText));
    }

    #[test]
    fn listings_are_split_at_nul() {
        let names = |payload| directory_entries(payload).collect::<Vec<_>>();
        assert_eq!(names(b"a\0state-0\0"), ["a", "state-0"]);
        assert_eq!(names(b"a\0b"), ["a", "b"]);
        assert_eq!(names(b""), [""; 0]);
        assert_eq!(names(b"\0\0"), [""; 0]);
        assert_eq!(names(b"a\0\xff\0b\0"), ["a", "b"]);
    }

    #[test]
    fn parts_of_listings_have_a_generation_and_the_last_an_empty_name() {
        let part = |generation, names, is_last| Ok(Part { generation, names, is_last });
        assert_eq!(directory_part(b"17\0a\0b\0"), part(b"17", b"a\0b\0", false));
        assert_eq!(directory_part(b"17\0a\0b\0\0"), part(b"17", b"a\0b\0", true));
        assert_eq!(directory_part(b"17\0\0"), part(b"17", b"", true));
        for payload in [&b""[..], b"17", b"17\0", b"17\0a"] {
            assert_eq!(directory_part(payload), Err(Error::Protocol), "{payload:?}");
        }
    }

    #[test]
    fn permission_lists_are_all_or_nothing() {
        let want = vec![Permission::none(DomId(0)), Permission::read(DomId(5))];
        assert_eq!(permissions(b"n0\0r5\0"), Ok(want.clone()));
        assert_eq!(permissions(b"n0\0r5"), Ok(want));
        for payload in [&b""[..], b"\0", b"n0\0\0", b"n0\0x5\0", b"n0\0\xff\0"] {
            assert_eq!(permissions(payload), Err(Error::Protocol), "{payload:?}");
        }
    }

    #[test]
    fn transaction_ids_are_positive_numbers() {
        assert_eq!(transaction_id(b"4711\0"), Ok(TxId(4711)));
        assert_eq!(transaction_id(b"4294967295"), Ok(TxId(u32::MAX)));
        for payload in [&b""[..], b"0\0", b"-1\0", b"x\0", b"4294967296\0"] {
            assert_eq!(transaction_id(payload), Err(Error::Protocol), "{payload:?}");
        }
    }
}
