//! Memory use of the backend with many guests and devices: a stub of 2 MiB must have room for 64 guests and 256 functions.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sim::world::{World, device_id};
use xen_types::{DomId, Sbdf};

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static IN_USE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts the bytes that the backend has.
struct Counting;

impl Counting {
    /// The image's allocator hands out multiples of 8, and 16 at least.
    fn count(layout: Layout, sign: isize) {
        if IS_COUNTING.with(Cell::get) {
            let bytes = layout.size().next_multiple_of(8).max(16);
            IN_USE.with(|count| count.set(count.get() + sign * isize::try_from(bytes).unwrap_or(isize::MAX)));
            PEAK.with(|peak| peak.set(peak.get().max(IN_USE.with(Cell::get))));
        }
    }
}

// SAFETY: everything is passed on to the system's allocator, which keeps the promises of the trait.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout, 1);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::count(layout, -1);
        // SAFETY: as above; `pointer` came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted<R>(work: impl FnOnce() -> R) -> R {
    IS_COUNTING.with(|is_counting| is_counting.set(true));
    let result = work();
    IS_COUNTING.with(|is_counting| is_counting.set(false));
    result
}

/// The image's shell: what xenstored says comes through a ring of 1 KiB.
fn settle(world: &World, backend: &mut pciback::Backend<sim::xen::SimPlatform>) {
    const RING: usize = 1024;
    let connection = world.stub.connection();
    loop {
        counted(|| backend.run());
        let bytes = backend.with_store(|client| client.outgoing().iter().copied().take(RING).collect::<Vec<_>>());
        counted(|| backend.with_store(|client| client.sent(bytes.len())));
        world.xen.store().send(connection, &bytes);
        let received = world.xen.store().receive(connection, RING);
        counted(|| backend.with_store(|client| client.feed(&received).expect("whole messages")));
        if bytes.is_empty() && received.is_empty() {
            return;
        }
    }
}

#[test]
fn sixty_four_guests_with_four_functions_each_fit_into_2_mib() {
    const GUESTS: u16 = 64;
    let devices = |number: u16| {
        let bus = u8::try_from(number).expect("a bus for each");
        (0..4).map(|function| Sbdf::from_devfn(0, bus, function)).collect::<Vec<_>>()
    };
    let all = (0..GUESTS).flat_map(devices).collect::<Vec<_>>();
    let mut world = World::new(&[]);
    let mut backend =
        counted(|| pciback::Backend::new(world.xen.platform(world.stub.domid()), pciback::Options::default()));
    // Everything at once, as after a restart of the host.
    for device in &all {
        let function = sim::device::Function::endpoint(0x8086, device_id(*device));
        world.tool.add_to_pool(*device, function);
    }
    settle(&world, &mut backend);
    let pool = IN_USE.with(Cell::get);
    for number in 0..GUESTS {
        let guest = world.create_guest(10 + number);
        world.tool.attach(guest, &devices(number));
        world.guest(guest).probe();
    }
    settle(&world, &mut backend);
    for number in 0..GUESTS {
        assert_eq!(world.states(DomId(10 + number)).0, "4");
        world.guest(DomId(10 + number)).set_state(4);
    }
    settle(&world, &mut backend);
    let (in_use, peak) = (IN_USE.with(Cell::get), PEAK.with(Cell::get));
    println!("256 functions: {pool} bytes; with 64 guests: {in_use}, {peak} at most");
    // Of about 1.7 MiB behind the image; the rest is for what dom0 and guests ask of it at the same time.
    assert!(peak < 512 << 10, "{peak} bytes");
}

#[test]
fn devices_that_come_and_go_take_nothing_with_them() {
    const STAYS: Sbdf = Sbdf::from_devfn(0, 6, 0);
    const MOVE: [Sbdf; 3] = [Sbdf::from_devfn(0, 5, 0x10), Sbdf::from_devfn(0, 3, 0), Sbdf::from_devfn(0, 3, 1)];
    let mut world = World::new(&[&[STAYS], &MOVE[..]].concat());
    let guest = world.create_guest(5);
    world.tool.attach(guest, &[STAYS]);
    world.settle();
    let mut round = || {
        counted(|| {
            world.tool.hot_attach(guest, &MOVE.map(|device| (device, None)));
            world.settle_deadlines(50);
            world.tool.hot_detach(guest, &MOVE);
            world.settle_deadlines(50);
            world.tool.remove_entries(guest, &MOVE);
            world.settle_deadlines(50);
            // The guest's own notes are not the stub's memory.
            world.guest(guest).goodbyes = Vec::new();
            world.guest(guest).states.take();
        });
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        IN_USE.with(Cell::get)
    };
    // Lists keep the room that they once needed.
    for _ in 0..20 {
        round();
    }
    let before = round();
    for _ in 0..200 {
        round();
    }
    assert_eq!(round(), before);
}
