//! The drivers of guests that are not Linux, each with its habits (docs/protocol.md §7): what they write and in which order, how they look for
//! devices, what they do on each state of the backend. Written from that description.
//!
//! They work on whatever has a page and two directories ([`Front`]): guests of the simulated Xen (`tests/sim`) and a test image on the
//! real one (`tests/guests/frontend`).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod driver;
mod freebsd;
mod front;
mod mini_os;
mod netbsd;
mod panic;

pub use driver::Driver;
pub use freebsd::FreeBsd;
pub use front::Front;
pub use mini_os::MiniOs;
pub use netbsd::NetBsd;
pub use panic::Panic;
