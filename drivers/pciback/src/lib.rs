//! The PCI backend: what a frontend's requests mean, who sees which device where, and how devices come and go.
//!
//! Pure code: Xen and the hardware are behind the traits of [`platform`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod adaptive_polling;
mod backend;
mod broker;
mod control;
pub mod device;
mod guest;
mod guests;
pub mod ops;
pub mod platform;
mod pool;
mod port_table;
mod rate;
mod service;
pub mod topology;
mod xenbus;

pub use adaptive_polling::AdaptivePolling;
pub use backend::{Backend, Options, Served};
pub use control::shutdown::Shutdown;
pub use ops::Counters;
pub use pci_config as config;
