//! dom0 as the broker and the commands meet it: Xen's libraries, xenstore, sysfs, and locks between processes.
//!
//! | module | what |
//! |---|---|
//! | [`xen`] | hypercalls, grants, event channels, signals: the only code that says `unsafe` |
//! | [`store`] | a connection to xenstored, transactions as lists of changes, watches |
//! | [`sysfs`] | what Linux says about a PCI function, and its configuration space |
//! | [`lock`] | locks that the kernel gives back when their holder ends |
//! | [`changes`] | how often the device database was changed |
//! | [`domain`], [`process`] | whether a domain or a process is still there |
//! | [`Dom0`] | all of it together: the real things in dom0, fakes in tests |
//!
//! What only commands need (domctls that change something, other domains' memory, xl, resets) is not here: the broker is resident as
//! root, and this crate is a part of it.
#![deny(unsafe_code)]

pub mod changes;
pub mod domain;
mod error;
mod host;
pub mod lock;
pub mod process;
pub mod store;
pub mod sysfs;
pub mod xen;

pub use error::{Doing, Error, Seconds};
pub use host::{Clock, Console, Dom0, SinceStart, StandardError, say};
