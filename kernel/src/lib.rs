//! Xen's PV platform for a single-vCPU unikernel: everything that talks to the hypervisor, and the one crate where `unsafe` is at home.
//!
//! What was chosen, and what it costs:
//! - **No upcalls.** Event delivery stays masked for ever and the main loop waits in [`events::wait`] (`SCHEDOP_poll`). Xen pushes
//!   event frames straight below `rsp` and the prebuilt `core` may keep data there (the red zone), so interrupted code could
//!   not be resumed. Traps end in [`traps`], which never resumes either.
//! - **Linear memory.** Page frame `n` of the domain is at [`layout::VIRT_BASE`]` + n * 4096`; the domain is linked there and the domain
//!   builder mapped it so. Foreign pages (grants, MMIO, `shared_info`) go into [`fixmap`] slots outside of it.
//! - **Hypercalls** are made with a bare `syscall`; the hypercall page is not needed for a 64-bit PV guest and costs a page.
//!
//! Facts come from Xen's public headers (4.17) and are cited where they are used.
#![no_std]

extern crate alloc;

pub mod clock;
pub mod console;
pub mod control;
#[cfg(feature = "counting")]
pub mod counting;
pub mod culprit;
#[cfg(not(test))]
mod elfnotes;
mod entry;
pub mod events;
#[cfg(feature = "faults")]
mod faults;
pub mod fixmap;
mod frames;
pub mod grants;
pub mod heap;
pub mod hypercall;
mod lasting;
pub mod layout;
pub mod memory;
pub mod mmio;
mod paging;
#[cfg(not(test))]
mod panic;
pub mod poll_list;
mod ring;
mod rt;
mod shared_info;
pub mod start_info;
pub mod survivor;
pub mod timer;
pub mod trace;
pub mod traps;
mod tsc;
pub mod xenstore_ring;

#[cfg(not(test))]
pub use elfnotes::Note;
pub use entry::{init, xen_version};
pub use start_info::BootInfo;
