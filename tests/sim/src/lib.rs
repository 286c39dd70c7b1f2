//! A simulated Xen for host tests: everything the stub meets outside of its own code. Its xenstored is the crate `xenstored`.
//!
//! | module | what |
//! |---|---|
//! | [`xen`] | domains, grants, event channels, ECAM pages and a clock that is set by hand |
//! | [`stub`] | the backend under test on top of them, moved one step at a time or until nothing moves |
//! | [`broker`] | dom0's real broker, which can be stopped and killed anywhere, and made to lie |
//! | `points` | calls that fail, each once |
//! | [`process`] | a process of dom0: real code that goes on when the test says so |
//! | [`frontend`] | a guest that does what Linux's pcifront does, or another one |
//! | [`other_guest`] | a guest with the driver of another system (`tests/drivers`) |
//! | [`tool`] | dom0: the directories that the toolstack writes |
//! | [`hotplug`] | dom0: how it changes them while the guest runs |
//! | [`admin`] | dom0: whole commands, and the books on rights |
//! | [`kind`] | the guests whose drivers we know |
//! | [`world`] | all of it together |
//!
//! It is strict where the real Xen is only unhelpful: a port closed twice, an event on a port that never was, a page that stays
//! mapped or a transaction that stays open fail the test.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]
#![forbid(unsafe_code)]

pub mod admin;
pub mod broker;
pub mod device;
pub mod frontend;
pub mod hotplug;
pub mod kind;
pub mod logs;
pub mod other_guest;
mod points;
pub mod process;
pub mod random;
pub mod stub;
pub mod tool;
mod vectors;
pub mod world;
pub mod xen;

pub use broker::SimBroker;
pub use frontend::SimFrontend;
pub use kind::Kind;
pub use other_guest::OtherGuest;
pub use stub::SimStub;
pub use tool::SimTool;
pub use world::World;
pub use xen::SimXen;
