//! A client for xenstore, the configuration store of Xen: the wire protocol (`xs_wire.h`) without I/O of its own, and
//! the paths, states, permissions and numbers that frontends, backends and libxl keep there.
//!
//! The same client serves the shared ring of a bare-metal guest and `/dev/xen/xenbus` of a Linux one: it never blocks, reads no clock and opens nothing.
//! It needs an allocator and no operating system.
//!
//! | layer | what | for whom |
//! |---|---|---|
//! | [`Request`], [`Parser`], [`wire`], [`text`] and its neighbours | bytes of messages and of their payloads | who has a loop of his own |
//! | [`Client`] | request ids, transactions, watch events; is fed with bytes and gives bytes out | event loops |
//! | [`Store`] over a [`Transport`], [`Nodes`] | one call for each request, transactions that are repeated | programs that do one thing at a time |
//! | [`path`], [`XenbusState`], [`Permission`], [`number`] | what is in the nodes | all of them |
//!
//! # Limits
//! - A request that does not fit into xenstore's 4,096 bytes is refused before it is sent ([`Error::TooLong`]); long directories are read in parts where xenstored can do that.
//! - Watch events that are not taken are dropped beyond a bound; [`Client::take_overflowed`] tells once that some were.
//! - The paths of devices are those of `pci` alone.
//!
//! # Example
//! What a bare-metal domain does: requests go out as bytes, answers come in as bytes, in pieces of any size.
//! ```
//! use xenstore::{Client, Request, TxId};
//!
//! let mut client: Client = Client::default();
//! let id = client.submit(TxId::NONE, &Request::Read { path: "domid" })?;
//! let sent = client.outgoing().len(); // these bytes go to the ring
//! client.sent(sent);
//!
//! // From the ring: type READ (2), the request's id, no transaction, two bytes: "12".
//! let mut answer = Vec::new();
//! for word in [2_u32, id.0, 0, 2] {
//!     answer.extend(word.to_le_bytes());
//! }
//! answer.extend(b"12");
//! client.feed(&answer)?;
//! assert_eq!(client.take_reply(id), Some(Ok(b"12".to_vec())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod blocking;
mod client;
mod error;
mod events;
mod nodes;
mod outgoing;
mod parser;
mod permission;
mod reply;
mod request;
mod state;

pub mod number;
pub mod path;
pub mod wire;

pub use blocking::{Store, Transaction, Transport};
pub use client::{Client, Stats};
pub use error::{Error, ProtocolError, StoreError, UnknownName};
pub use events::WatchEvent;
pub use nodes::Nodes;
pub use parser::Parser;
pub use permission::{Access, Permission};
pub use reply::{directory_entries, permissions, text, transaction_id};
pub use request::Request;
pub use state::XenbusState;
pub use wire::{Message, MessageType, ReqId, TxId};

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
