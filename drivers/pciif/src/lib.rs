//! The page that a PCI frontend and its backend share: what Xen's `xen/include/public/io/pciif.h` lays down.
//!
//! One page, one request at a time, in both directions the same buffer. The frontend fills in `op` and sets
//! [`Flags::ACTIVE`]; the backend copies the request out **once** ([`BackendPage::take_request`]), acts on its own copy, writes
//! the answer and clears the bit. Whatever the other side does to the page meanwhile changes nothing for the copy.
//!
//! | module | what |
//! |---|---|
//! | [`layout`] | the structs of the header, only ever used for their sizes and offsets |
//! | [`Flags`], [`Command`], [`ErrorCode`], [`Request`], [`Reply`] | the words of the protocol |
//! | [`BackendPage`], [`FrontendPage`] | the two ends of a page |
//! | [`AerNotification`], [`ChannelState`], [`ErrorResult`] | what the backend tells about errors of a device, and the answer |
//! | [`SharedPage`], [`OwnedPage`] | memory for a page: any that promises to stay, or our own for tests and simulation |
//!
//! The only `unsafe` is in the module `page`, which turns offsets into atomic cells. No other code touches the page, and no reference to
//! its bytes ever exists: the other side may write them at any moment.
//!
//! # Example
//! Both ends in one program. A real frontend grants the page, and both notify each other over an event channel.
//! ```
//! use pciif::{BackendPage, Command, FrontendPage, OwnedPage, Reply, Request};
//!
//! let page = OwnedPage::new();
//! let (front, back) = (FrontendPage::new(&page), BackendPage::new(&page));
//!
//! let device = "0000:00:05.0".parse().unwrap();
//! front.publish(&Request::conf_read(device, 0, 4));
//!
//! let request = back.take_request().expect("a request");
//! assert_eq!((request.command(), request.offset, request.size), (Some(Command::ConfRead), 0, 4));
//! back.reply(&request, Reply::success(0x10d3_8086));
//!
//! assert_eq!(front.response().map(|response| response.value), Some(0x10d3_8086));
//! ```
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

#[cfg(feature = "aer")]
mod aer;
mod backend;
mod command;
mod error_code;
mod flags;
#[cfg(feature = "frontend")]
mod frontend;
pub mod layout;
mod page;
mod request;

#[cfg(feature = "aer")]
pub use aer::{AerNotification, ChannelState, ErrorResult};
pub use backend::BackendPage;
pub use command::Command;
pub use error_code::ErrorCode;
pub use flags::Flags;
#[cfg(feature = "frontend")]
pub use frontend::{FrontendPage, Response};
pub use page::{OwnedPage, SharedPage};
pub use request::{MsixEntries, ReadRequest, Reply, Request};

/// What a frontend writes to its `magic` node: the version of this layout (`XEN_PCI_MAGIC`). Nothing else is accepted.
pub const MAGIC: &str = "7";

/// Bytes in a shared page.
pub const PAGE_SIZE: usize = 4096;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
