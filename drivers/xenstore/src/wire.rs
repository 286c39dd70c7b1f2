//! Messages as they are on the wire (`xen/include/public/io/xs_wire.h`, 4.17): a header of four little-endian `u32`
//! and a payload.

use alloc::vec::Vec;
use core::fmt;

/// The longest payload (`XENSTORE_PAYLOAD_MAX`).
pub const MAX_PAYLOAD: usize = 4096;
/// The longest answer that the blocking client takes: oxenstored tells a directory's names in one message however long it is, over its
/// socket (`send_reply`, `tools/ocaml/xenstored/connection.ml`).
pub const MAX_LISTING: usize = 1 << 20;
/// The longest path that begins at the root (`XENSTORE_ABS_PATH_MAX`).
pub const MAX_ABSOLUTE_PATH: usize = 3072;
/// The longest path that begins at the caller's own directory (`XENSTORE_REL_PATH_MAX`).
pub const MAX_RELATIVE_PATH: usize = 2048;
/// The longest token that we register: with it, the event for any path still fits into a message.
/// Xenstored drops events that do not.
pub const MAX_TOKEN: usize = MAX_PAYLOAD - MAX_ABSOLUTE_PATH - 2;
/// Size of `struct xsd_sockmsg`.
pub const HEADER_SIZE: usize = 16;

/// Which question an answer belongs to (`req_id`). The asker chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReqId(pub u32);

/// A transaction (`tx_id`). Xenstored chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub u32);

impl TxId {
    /// Outside any transaction.
    pub const NONE: Self = Self(0);
}

/// What a message is (`enum xsd_sockmsg_type`). Numbers without a name here are possible: they come from the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageType(pub u32);

impl MessageType {
    /// `XS_DIRECTORY`.
    pub const DIRECTORY: Self = Self(1);
    /// `XS_READ`.
    pub const READ: Self = Self(2);
    /// `XS_GET_PERMS`.
    pub const GET_PERMISSIONS: Self = Self(3);
    /// `XS_WATCH`.
    pub const WATCH: Self = Self(4);
    /// `XS_UNWATCH`.
    pub const UNWATCH: Self = Self(5);
    /// `XS_TRANSACTION_START`.
    pub const TRANSACTION_START: Self = Self(6);
    /// `XS_TRANSACTION_END`.
    pub const TRANSACTION_END: Self = Self(7);
    /// `XS_WRITE`.
    pub const WRITE: Self = Self(11);
    /// `XS_MKDIR`.
    pub const MKDIR: Self = Self(12);
    /// `XS_RM`.
    pub const REMOVE: Self = Self(13);
    /// `XS_SET_PERMS`.
    pub const SET_PERMISSIONS: Self = Self(14);
    /// `XS_WATCH_EVENT`.
    pub const WATCH_EVENT: Self = Self(15);
    /// `XS_ERROR`.
    pub const ERROR: Self = Self(16);
    /// `XS_RESET_WATCHES`.
    pub const RESET_WATCHES: Self = Self(21);
    /// `XS_DIRECTORY_PART`, which oxenstored does not know.
    pub const DIRECTORY_PART: Self = Self(22);
}

/// The header (`struct xsd_sockmsg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: MessageType,
    /// The asker's number, given back in the answer; 0 in watch events.
    pub req_id: ReqId,
    /// The transaction.
    pub tx_id: TxId,
    /// Bytes of payload behind the header. On the wire this can be any number.
    pub length: u32,
}

impl Header {
    /// As bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let words = [self.kind.0, self.req_id.0, self.tx_id.0, self.length];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// From bytes. Any bytes are a header; the length is not checked.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER_SIZE]) -> Self {
        let mut words = [0; HEADER_SIZE / 4];
        for (word, place) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*place);
        }
        let [kind, req_id, tx_id, length] = words;
        Self { kind: MessageType(kind), req_id: ReqId(req_id), tx_id: TxId(tx_id), length }
    }
}

/// A whole message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: MessageType,
    /// The asker's number.
    pub req_id: ReqId,
    /// The transaction.
    pub tx_id: TxId,
    /// At most [`MAX_PAYLOAD`] bytes in every message that came out of a [`crate::Parser`].
    pub payload: Vec<u8>,
}

impl Message {
    /// As bytes, or nothing when the payload is over [`MAX_PAYLOAD`].
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = u32::try_from(self.payload.len()).ok().filter(|_| self.payload.len() <= MAX_PAYLOAD)?;
        let header = Header { kind: self.kind, req_id: self.req_id, tx_id: self.tx_id, length };
        let mut bytes = Vec::with_capacity(HEADER_SIZE + self.payload.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&self.payload);
        Some(bytes)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?} \"{}\"", self.kind, self.req_id, self.tx_id, self.payload.escape_ascii())
    }
}
