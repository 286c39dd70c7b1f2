//! The cases, in the order they run.

mod clock;
mod events;
mod grants;
mod heap;
mod hypercalls;
mod memory;
mod mmio;
mod runtime;

use crate::check::Outcome;

/// A case's name and what it does.
type Case = (&'static str, fn() -> Outcome);

/// Every case.
pub(crate) const ALL: &[Case] = &[
    ("runtime: memcpy and friends", runtime::memory_functions),
    ("hypercall: version of the running Xen", hypercalls::version),
    ("hypercall: all five arguments arrive", hypercalls::five_arguments),
    ("hypercall: a refusal is an errno", hypercalls::errors),
    ("memory: frame list agrees with the page tables", memory::frame_list),
    ("memory: the image's pages have only the rights they need", memory::protection),
    ("memory: every page of the domain is mapped", memory::all_mapped),
    ("heap: blocks are disjoint, aligned and come back", heap::blocks),
    ("heap: holds what the image does not use", heap::covers_memory),
    ("fixmap: grows beyond its first page table", memory::fixmap_growth),
    ("mmio: a device's ECAM page can be read", mmio::ecam),
    ("mmio: a protected page is known to be read-only", mmio::protected),
    ("mmio: a frame that is not ours is refused", mmio::refused),
    ("grant: both ends see one page", grants::shared),
    ("grant: read-only means read-only", grants::read_only),
    ("grant: one bad entry of a batch fails alone", grants::batch),
    ("grant: nothing is left behind", grants::no_leak),
    ("event: both directions of a channel", events::pair),
    ("event: a closed end can be bound again", events::reconnect),
    ("event: a scan finds exactly the pending ports", events::scan),
    ("event: waiting", events::wait),
    ("event: bad ports are refused", events::refused),
    ("clock: runs forward at the right speed", clock::runs),
    ("timer: fires once, at its time", clock::timer),
    ("timer: the periodic one is off", clock::no_periodic_timer),
];
