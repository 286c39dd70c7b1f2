//! The PCI backend: what a frontend's requests mean, who sees which device where, and how devices come and go.
//!
//! Pure code: Xen and the hardware are behind the traits of [`platform`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod device;
pub mod ops;
pub mod platform;
pub mod topology;
