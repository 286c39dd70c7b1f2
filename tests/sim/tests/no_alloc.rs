//! Serving a request takes no memory: a guest that asks a lot cannot exhaust the stub, and a stub that is out of memory still
//! answers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use pciif::Request;
use sim::world::{STUB, World};
use xen_types::Sbdf;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: everything is passed on to the system's allocator, which keeps the promises of the trait.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_request_is_served_without_allocating() {
    const DEVICE: Sbdf = Sbdf::from_devfn(0, 3, 0);
    const FIRST: Sbdf = Sbdf::from_devfn(0, 0, 0);
    let mut world = World::new(&[DEVICE]);
    let guest = world.connect(5, &[DEVICE]);
    let port = world.stub.backend.ports().next().expect("a port");
    let requests = [
        Request::conf_read(FIRST, 0, 4),
        Request::conf_read(FIRST, 0x104, 4),
        Request::conf_read(FIRST, -4, 4),
        Request::conf_read(Sbdf::from_devfn(0, 0, 8), 0, 4),
        Request::conf_write(FIRST, 0x10, 4, u32::MAX),
        Request::conf_write(FIRST, 0x2c, 4, 1),
        Request::conf_write(FIRST, 4, 2, 6),
        Request { cmd: 2, ..Request::conf_read(FIRST, 0, 0) },
        Request { cmd: 4, value: 200, ..Request::conf_read(FIRST, 0, 0) },
        Request { cmd: 77, ..Request::conf_read(FIRST, 0, 0) },
    ];
    for request in requests {
        world.guest(guest).publish(&request);
        let before = ALLOCATIONS.with(Cell::get);
        let served = world.stub.backend.serve(port);
        let after = ALLOCATIONS.with(Cell::get);
        assert!(matches!(served, pciback::Served::Reads | pciback::Served::Done), "{request}");
        // The simulated hypercall notes the event in a table of its own, which may grow once.
        assert!(after - before <= 1, "{request}: {} allocations", after - before);
        let _ = world.xen.take_pending(STUB);
        let _ = world.xen.take_pending(guest);
    }
}
