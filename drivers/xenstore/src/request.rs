//! Requests to xenstored, checked before they are sent.

use alloc::vec::Vec;

use crate::error::Error;
use crate::path;
use crate::permission::Permission;
use crate::wire::{MAX_PAYLOAD, MAX_TOKEN, MessageType};

/// One question. Paths are absolute, or relative to the caller's own `/local/domain/N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The names of a node's children: [`crate::directory_entries`].
    Directory {
        /// The node.
        path: &'a str,
    },
    /// A node's value.
    Read {
        /// The node.
        path: &'a str,
    },
    /// Who may do what: [`crate::permissions`].
    GetPermissions {
        /// The node.
        path: &'a str,
    },
    /// Says who may do what.
    SetPermissions {
        /// The node.
        path: &'a str,
        /// The whole new list, the owner first.
        permissions: &'a [Permission],
    },
    /// Asks for an event at every change of a node or below it, and for one at once.
    Watch {
        /// The node, or `@introduceDomain` or `@releaseDomain`.
        path: &'a str,
        /// Comes back in the events.
        token: &'a str,
    },
    /// Ends a watch; events that are under way still come.
    Unwatch {
        /// As it was given to [`Request::Watch`].
        path: &'a str,
        /// As it was given to [`Request::Watch`].
        token: &'a str,
    },
    /// Begins a transaction: [`crate::transaction_id`].
    TransactionStart,
    /// Ends the transaction that the request is submitted in. `EAGAIN`: nothing was done, another client changed what
    /// was read; begin again.
    TransactionEnd {
        /// Keep the changes, or throw them away.
        commit: bool,
    },
    /// Writes a value; the node and those above it are created where they are missing.
    Write {
        /// The node.
        path: &'a str,
        /// Any bytes.
        value: &'a [u8],
    },
    /// Creates an empty node; no error if it exists.
    Mkdir {
        /// The node.
        path: &'a str,
    },
    /// Removes a node and everything below it.
    Remove {
        /// The node.
        path: &'a str,
    },
    /// The names of a node's children from a place in their list on: what does not fit into one answer to [`Request::Directory`].
    DirectoryPart {
        /// The node.
        path: &'a str,
        /// A decimal number: bytes of that list.
        offset: &'a str,
    },
    /// Ends all watches and transactions of the connection: for who takes over a ring that somebody else has used.
    ResetWatches,
}

impl Request<'_> {
    /// The message type, which a good answer has too.
    #[must_use]
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Directory { .. } => MessageType::DIRECTORY,
            Self::DirectoryPart { .. } => MessageType::DIRECTORY_PART,
            Self::Read { .. } => MessageType::READ,
            Self::GetPermissions { .. } => MessageType::GET_PERMISSIONS,
            Self::SetPermissions { .. } => MessageType::SET_PERMISSIONS,
            Self::Watch { .. } => MessageType::WATCH,
            Self::Unwatch { .. } => MessageType::UNWATCH,
            Self::TransactionStart => MessageType::TRANSACTION_START,
            Self::TransactionEnd { .. } => MessageType::TRANSACTION_END,
            Self::Write { .. } => MessageType::WRITE,
            Self::Mkdir { .. } => MessageType::MKDIR,
            Self::Remove { .. } => MessageType::REMOVE,
            Self::ResetWatches => MessageType::RESET_WATCHES,
        }
    }

    /// The payload.
    ///
    /// # Errors
    /// [`Error::InvalidPath`] or [`Error::TooLong`]: xenstored would refuse it, or drop the connection.
    pub fn payload(&self) -> Result<Vec<u8>, Error> {
        let list;
        // The path and its end, a token, and what follows.
        let (path, rest, token): (&str, &[u8], &str) = match *self {
            Self::TransactionStart | Self::ResetWatches => return Ok(b"\0".to_vec()),
            Self::TransactionEnd { commit } => return Ok(if commit { b"T\0" } else { b"F\0" }.to_vec()),
            Self::Directory { path }
            | Self::Read { path }
            | Self::GetPermissions { path }
            | Self::Mkdir { path }
            | Self::Remove { path } => (path, b"", ""),
            Self::SetPermissions { path, permissions } => {
                list = Permission::encode_list(permissions);
                (path, list.as_bytes(), "")
            }
            Self::Watch { path, token }
            | Self::Unwatch { path, token }
            | Self::DirectoryPart { path, offset: token } => (path, b"\0", token),
            Self::Write { path, value } => (path, value, ""),
        };
        path::validate(path)?;
        if token.bytes().any(|byte| byte == 0) {
            return Err(Error::InvalidPath);
        }
        if token.len() > MAX_TOKEN {
            return Err(Error::TooLong);
        }
        let payload = [path.as_bytes(), b"\0", token.as_bytes(), rest].concat();
        if payload.len() > MAX_PAYLOAD { Err(Error::TooLong) } else { Ok(payload) }
    }
}
