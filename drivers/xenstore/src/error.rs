//! What can go wrong, by whose doing.

use alloc::string::String;

use thiserror::Error;
use xen_types::Errno;

/// Why one request did not succeed. The connection is fine, except after [`Error::Disconnected`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Xenstored said no, with one of the names of `xs_wire.h`.
    #[error("xenstored answered {0}")]
    Store(Errno),
    /// Xenstored said no with a name that `xs_wire.h` (4.17) does not list; at most [`Error::MAX_NAME`] characters of it.
    #[error("xenstored answered {0:?}")]
    Unknown(String),
    /// The path cannot exist in xenstore: empty, a character outside `A-Za-z0-9-/_@`, an empty component or a slash at its end.
    /// Also a token with a NUL in it. Nothing was sent.
    #[error("not a xenstore path or token")]
    InvalidPath,
    /// The path, the token or the whole request is longer than xenstore allows. Nothing was sent.
    #[error("longer than xenstore allows")]
    TooLong,
    /// The connection was reset before the answer came; the request may or may not have been carried out.
    #[error("the connection to xenstored was reset")]
    Disconnected,
    /// The answer came but makes no sense, such as a transaction id that is no number.
    #[error("xenstored's answer makes no sense")]
    Protocol,
    /// The value is not UTF-8.
    #[error("the value is not text")]
    NotText,
}

impl Error {
    /// How much of an unknown error name is kept.
    pub const MAX_NAME: usize = 64;

    /// True when this is xenstored's answer `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        *self == Self::Store(errno)
    }

    /// Reads the payload of an ERROR message: a name of `xsd_errors` (`xs_wire.h`), usually with a NUL behind it.
    #[must_use]
    pub fn from_reply(payload: &[u8]) -> Self {
        let name = payload.strip_suffix(&[0]).unwrap_or(payload);
        match NAMES.iter().find(|(known, _)| known.as_bytes() == name) {
            Some((_, errno)) => Self::Store(*errno),
            None => {
                let kept = name.get(..Self::MAX_NAME).unwrap_or(name);
                Self::Unknown(String::from_utf8_lossy(kept).into_owned())
            }
        }
    }
}

/// `xsd_errors` of `xs_wire.h`.
const NAMES: [(&str, Errno); 16] = [
    ("EINVAL", Errno::EINVAL),
    ("EACCES", Errno::EACCES),
    ("EEXIST", Errno::EEXIST),
    ("EISDIR", Errno::EISDIR),
    ("ENOENT", Errno::ENOENT),
    ("ENOMEM", Errno::ENOMEM),
    ("ENOSPC", Errno::ENOSPC),
    ("EIO", Errno::EIO),
    ("ENOTEMPTY", Errno::ENOTEMPTY),
    ("ENOSYS", Errno::ENOSYS),
    ("EROFS", Errno::EROFS),
    ("EBUSY", Errno::EBUSY),
    ("EAGAIN", Errno::EAGAIN),
    ("EISCONN", Errno::EISCONN),
    ("E2BIG", Errno::E2BIG),
    ("EPERM", Errno::EPERM),
];

/// The byte stream cannot be understood any more: where the next message starts is unknown. Only a new connection helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A header announces more than `XENSTORE_PAYLOAD_MAX` (`xs_wire.h`) bytes.
    #[error("xenstored announced a message of {0} bytes, over the limit of 4096")]
    Oversize(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_become_numbers_with_and_without_nul() {
        for (name, errno) in NAMES {
            assert_eq!(Error::from_reply(name.as_bytes()), Error::Store(errno));
            let mut ended = name.as_bytes().to_vec();
            ended.push(0);
            assert_eq!(Error::from_reply(&ended), Error::Store(errno));
            assert_eq!(errno.name(), Some(name));
        }
    }

    #[test]
    fn unknown_names_are_kept_but_bounded() {
        assert_eq!(Error::from_reply(b"EWHATEVER\0"), Error::Unknown("EWHATEVER".into()));
        assert_eq!(Error::from_reply(b""), Error::Unknown(String::new()));
        assert_eq!(Error::from_reply(&[b'x'; 4096]), Error::Unknown("x".repeat(Error::MAX_NAME)));
        assert!(matches!(Error::from_reply(&[0xff, 0]), Error::Unknown(_)));
    }
}
