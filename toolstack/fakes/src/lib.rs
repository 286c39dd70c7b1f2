//! A simulated machine for the tests of broker and commands: dom0's sysfs on a temporary folder, a hypervisor that knows every domain's
//! rights, the simulated xenstored (`tests/xenstored`) behind the real client, pages and event channels of stubs, and a stub and guests that
//! follow the protocol when a command waits for them.
//!
//! Time is simulated too: a wait that nobody answers takes no time. Faults can be injected into every change.
#![expect(missing_docs, reason = "fields and functions of fakes are named after what they stand for")]
#![expect(clippy::new_without_default, reason = "a new machine is no default one")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a fake that is used wrongly fails its test"
)]

pub mod bench;
pub mod broker;
mod firmware;
pub mod hypervisor;
mod kernel;
mod machine;
pub mod memory;
mod names;
pub mod peers;
mod process;
pub mod scripts;
mod store;
mod tree;
pub mod world;

pub use broker::{FakePhysdev, FakeReclaimer, FakeRings, FakeWatches, Wires};
pub use firmware::mcfg_table;
pub use hypervisor::FakeHypervisor;
pub use kernel::{FakeChanges, FakeKernel};
pub use machine::{Dump, FakeClock, FakeConsole, Machine};
pub use names::{DB, E1000, EDU, HVM, NVME, PHYSICAL, SATA, STUB, WEB, device};
pub use pci_config::fakes::Memory;
pub use process::FakeProcesses;
pub use scripts::GuestScript;
pub use store::FakeStore;
pub use tree::TempTree;
pub use world::{Killed, Mapped, ResetOutcome, World};
