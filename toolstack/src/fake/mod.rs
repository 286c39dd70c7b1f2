//! The simulated machine of the crate `fakes` as commands see it: with domctls, guests' memory, xl, and the real stub where that is wanted.

mod hypervisor;
mod kernel;
mod machine;
mod memory;
mod points;
mod process;
mod store;
mod with_stub;
mod xl;

pub(crate) use fakes::{
    DB, Dump, E1000, EDU, GuestScript, HVM, Killed, NVME, PHYSICAL, SATA, STUB, TempTree, WEB, World, device,
    mcfg_table,
};
pub(crate) use machine::Machine;
pub(crate) use with_stub::MachineWithStub;
pub(crate) use xl::UUID;
