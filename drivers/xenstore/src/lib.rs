//! Xenstore from both ends of the machine: the wire codec, a client that does no I/O, and the paths, states,
//! permissions and numbers that pcidom keeps in it.
//!
//! [`Client`] is fed with bytes and gives bytes out, so the same one serves the ring in the stub and in the test guests
//! and `/dev/xen/xenbus` in dom0. [`Store`] is the blocking convenience over it for programs that do one thing at a time.
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
pub mod statistics;
pub mod wire;

pub use blocking::{Store, StoreError, Transaction, Transport};
pub use client::{Client, Stats};
pub use error::{Error, ProtocolError, UnknownName};
pub use events::WatchEvent;
pub use nodes::Nodes;
pub use parser::Parser;
pub use permission::{Access, Permission};
pub use reply::{directory_entries, permissions, text, transaction_id};
pub use request::Request;
pub use state::XenbusState;
pub use wire::{Message, MessageType, ReqId, TxId};
