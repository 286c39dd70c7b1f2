//! The PCI backend: what a frontend's requests mean, who sees which device where, and how devices come and go.
//!
//! Pure code: Xen and the hardware are behind the traits of [`platform`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod adaptive_polling;
mod backend;
mod broker_client;
mod frontend;
mod handshake;
pub mod platform;
mod pool;
mod rate;
pub mod requests;
mod shared;
mod signal;
mod tasks;
pub mod topology;

pub use adaptive_polling::AdaptivePolling;
pub use backend::{Backend, Options, Served};
pub use pci_config as config;
pub use pool::device_info as device;
pub use requests::Counters;
pub use tasks::shutdown::Shutdown;
