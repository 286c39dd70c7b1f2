//! A simulated machine for tests: dom0's sysfs on a temporary folder, a hypervisor that knows every domain's rights, xenstore
//! in memory with permissions, and a stub and guests that follow the protocol when a command waits for them.
//!
//! Time is simulated too: a wait that nobody answers takes no time. Faults can be injected into every change.

mod broker;
mod hypervisor;
mod image;
mod kernel;
mod machine;
mod memory;
mod peers;
mod process;
mod store;
mod tree;
mod with_stub;
mod world;
mod xl;

pub(crate) use broker::{FakePhysdev, FakeReclaimer, FakeRings, FakeWatches, Wires};
pub(crate) use image::{ConfigImage, mcfg_table};
pub(crate) use machine::{DB, Dump, E1000, EDU, Machine, NVME, PHYSICAL, SATA, STUB, WEB, device};
pub(crate) use peers::GuestScript;
pub(crate) use tree::TempTree;
pub(crate) use with_stub::MachineWithStub;
pub(crate) use world::{Killed, Mapped, World};
pub(crate) use xl::UUID;
