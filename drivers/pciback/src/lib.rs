//! The PCI backend: requests of frontends, virtual topology, xenbus handshake and hotplug.
//!
//! Pure code: Xen and the hardware are behind the traits of [`platform`]. [`Backend`] is the whole of it, for a shell that moves bytes and events.
//!
//! Each module uses only those below it:
//!
//! | module | what |
//! |---|---|
//! | `backend` | [`Backend`]: the events of frontends ([`Backend::serve`]), xenstore's bytes, the tasks |
//! | `tasks` | the control plane: everything that waits for xenstore, as futures |
//! | `shared` | what tasks and events share: the frontends, the pool, the broker's client, alarms, watches, statistics |
//! | `frontend` | one frontend: a state that has a page and a port only while it is connected, its devices, the requests in its page |
//! | `pool` | the devices: who has which, and whether it is fit to be assigned |
//! | `broker_client` | the ring to the broker in dom0, and who waits for it |
//! | `requests` | one request in, one reply out |
//! | `handshake` | the xenbus handshake as a function: what the nodes say and what we hold decide what is done |
//! | [`topology`] | which virtual address each function has |
//! | [`platform`], `options`, `rate`, `signal`, `adaptive_polling` | Xen's services, the command line, token buckets, flags to wait for, when to look before sleeping |
//!
//! A read of configuration space, which most requests are, takes this way: [`Backend::serve`], `frontend/requests_in_page.rs`, `requests/read.rs`,
//! [`config`]. `docs/walks.md` follows it and others through all crates.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod adaptive_polling;
mod backend;
mod broker_client;
mod frontend;
mod handshake;
mod options;
pub mod platform;
mod pool;
mod rate;
mod requests;
mod shared;
mod signal;
mod tasks;
pub mod topology;

pub use adaptive_polling::AdaptivePolling;
pub use backend::Backend;
pub use frontend::Served;
pub use options::Options;
pub use pci_config as config;
pub use requests::{Count, Counters};
pub use shared::Shutdown;
