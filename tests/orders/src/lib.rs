//! Both ends of the shared page (`drivers/pciif`) over the cells of [`loom`], which plays all orders in which the accesses of two sides can meet,
//! and all values that the memory model lets each of them see (`tests/`).
//!
//! The files are those of the crate itself; only its module `page`, which makes atomic cells of memory, is another one here.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![forbid(unsafe_code)]

#[path = "../../../drivers/pciif/src/aer.rs"]
mod aer;
#[path = "../../../drivers/pciif/src/backend.rs"]
mod backend;
#[path = "../../../drivers/pciif/src/command.rs"]
mod command;
#[path = "../../../drivers/pciif/src/error_code.rs"]
mod error_code;
#[path = "../../../drivers/pciif/src/flags.rs"]
mod flags;
#[path = "../../../drivers/pciif/src/frontend.rs"]
mod frontend;
#[path = "../../../drivers/pciif/src/layout.rs"]
pub mod layout;
mod page;
#[path = "../../../drivers/pciif/src/request.rs"]
mod request;

use bitflags as _; // by `flags.rs`

pub use aer::{AerNotification, ChannelState, ErrorResult};
pub use backend::BackendPage;
pub use command::Command;
pub use error_code::ErrorCode;
pub use flags::Flags;
pub use frontend::{FrontendPage, Response};
pub use page::{Page, SharedPage};
pub use request::{MsixEntries, ReadRequest, Reply, Request};
