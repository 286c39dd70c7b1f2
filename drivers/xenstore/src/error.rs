//! Errors, by who caused them.

use core::fmt;
use core::str;

use thiserror::Error;
use xen_types::Errno;

/// Why one request did not succeed. The connection is fine, except after [`Error::Disconnected`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Xenstored said no, with one of the names of `xs_wire.h`.
    #[error("xenstored answered {0}")]
    Store(Errno),
    /// Xenstored said no with a name that [`Errno`] does not know.
    #[error("xenstored answered {0}")]
    Unknown(UnknownName),
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
    /// True when this is xenstored's answer `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        *self == Self::Store(errno)
    }

    /// Reads the payload of an ERROR message: a name of `xsd_errors` (`xs_wire.h`), usually with a NUL behind it.
    #[must_use]
    pub fn from_reply(payload: &[u8]) -> Self {
        let name = payload.strip_suffix(&[0]).unwrap_or(payload);
        match Errno::from_name(name) {
            Some(errno) => Self::Store(errno),
            None => Self::Unknown(UnknownName::new(name)),
        }
    }
}

/// The beginning of an error name that we do not know, printable whatever was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownName {
    bytes: [u8; Self::MAX],
    length: usize,
}

impl UnknownName {
    /// How much of a name is kept: more than the longest that `xs_wire.h` lists.
    pub const MAX: usize = 16;

    /// Keeps what fits, with `?` in place of what is not printable.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let mut bytes = [0; Self::MAX];
        for (place, byte) in bytes.iter_mut().zip(name) {
            *place = if byte.is_ascii_graphic() { *byte } else { b'?' };
        }
        Self { bytes, length: name.len().min(Self::MAX) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
    }
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The byte stream cannot be understood any more: where the next message starts is unknown. Only a new connection helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A header announces more than `XENSTORE_PAYLOAD_MAX` (`xs_wire.h`) bytes, or than the connection may have.
    #[error("xenstored announced a message of {0} bytes, which is over the limit")]
    Oversize(u32),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError<E> {
    /// This request failed; others may succeed.
    #[error(transparent)]
    Request(#[from] Error),
    /// The connection is useless from now on.
    #[error(transparent)]
    Stream(#[from] ProtocolError),
    /// The transport failed or was interrupted.
    #[error("{0}")]
    Transport(E),
    /// Xenstored did not take or answer the request before the deadline of [`Store::set_deadline`](crate::Store::set_deadline); it may still be carried
    /// out.
    #[error("xenstored does not answer")]
    NoAnswer,
}

impl<E> StoreError<E> {
    /// True when xenstored answered `errno`.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Request(error) if error.is(errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `xsd_errors` of `xs_wire.h`.
    const NAMES: [&str; 16] = [
        "EINVAL",
        "EACCES",
        "EEXIST",
        "EISDIR",
        "ENOENT",
        "ENOMEM",
        "ENOSPC",
        "EIO",
        "ENOTEMPTY",
        "ENOSYS",
        "EROFS",
        "EBUSY",
        "EAGAIN",
        "EISCONN",
        "E2BIG",
        "EPERM",
    ];

    #[test]
    fn known_names_become_numbers_with_and_without_nul() {
        for name in NAMES {
            let errno = Errno::from_name(name.as_bytes()).unwrap();
            assert_eq!(Error::from_reply(name.as_bytes()), Error::Store(errno));
            let mut ended = name.as_bytes().to_vec();
            ended.push(0);
            assert_eq!(Error::from_reply(&ended), Error::Store(errno));
            assert_eq!(errno.name(), Some(name));
        }
    }

    #[test]
    fn unknown_names_are_kept_but_bounded() {
        let text = |payload: &[u8]| Error::from_reply(payload).to_string();
        assert_eq!(text(b"EWHATEVER\0"), "xenstored answered EWHATEVER");
        assert_eq!(text(b""), "xenstored answered ");
        assert_eq!(text(&[b'x'; 4096]), format!("xenstored answered {}", "x".repeat(UnknownName::MAX)));
        assert_eq!(text(b"\xff\n\0E\0"), "xenstored answered ???E");
    }
}
