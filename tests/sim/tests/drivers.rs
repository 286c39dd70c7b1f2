//! Guests that are not Linux, from the connect to the end and again (docs/protocol.md §7).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use drivers::{Driver, FreeBsd, MiniOs, NetBsd};
use pciback::platform::Width;
use pciif::{Request, Response};
use sim::tool::ecam;
use sim::world::{STUB, World, device_id};
use sim::{OtherGuest, SimFrontend};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const A1: Sbdf = Sbdf::from_devfn(0, 3, 1);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const GUEST: DomId = DomId(5);

fn virt(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

fn ids(device: Sbdf) -> u32 {
    u32::from(device_id(device)) << 16 | 0x8086
}

/// A world, and the frontend of a guest in it whose driver is for the test to be.
fn world() -> (World, SimFrontend) {
    let mut world = World::new(&[A, A1, B]);
    world.broker.start();
    world.work();
    let front = new_guest(&world);
    (world, front)
}

fn new_guest(world: &World) -> SimFrontend {
    world.tool.create_guest(GUEST);
    SimFrontend::new(world.xen.clone(), GUEST, STUB)
}

fn attach<D: Driver>(world: &mut World, guest: &mut OtherGuest<D>, devices: &[Sbdf]) {
    world.tool.attach(GUEST, devices);
    world.settle_with(guest);
}

fn own(world: &World) -> String {
    world.tool.backend(GUEST, "state").unwrap_or_default()
}

/// The guest's domain ends, and nothing is left.
fn end(mut world: World, front: &mut SimFrontend) -> World {
    front.died();
    world.tool.destroy_guest(GUEST);
    world.settle();
    world.tool.remove_dirs(GUEST);
    world.settle();
    world.assert_clean();
    world
}

fn status(world: &World, device: Sbdf) -> u32 {
    world.xen.with_function(ecam(device), |function| function.read(6, Width::Word)).expect("a function")
}

/// As its drivers do.
fn read(world: &mut World, guest: &mut OtherGuest<NetBsd>, address: Sbdf, offset: i32) -> u32 {
    guest.driver.read(&mut guest.front.with(&mut world.stub), address, offset).expect("it goes on")
}

/// A dword of its first device, for which the stub may need the broker. What it reads then.
fn write(world: &mut World, guest: &mut OtherGuest<NetBsd>, offset: i32, value: u32) -> u32 {
    guest.front.publish(&Request::conf_write(virt(0), offset, 4, value));
    world.work();
    let response = guest.front.response();
    assert!(response.is_some_and(|response| response.err == 0), "{value:#x} at {offset:#x}: {response:?}");
    read(world, guest, virt(0), offset)
}

#[test]
fn netbsd_finds_what_is_there_drives_it_and_closes() {
    let (mut world, front) = world();
    let mut guest = OtherGuest::new(NetBsd::default(), front);
    attach(&mut world, &mut guest, &[A, A1, B]);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("4", 4));
    assert_eq!(guest.driver.attached, [(virt(0), ids(A)), (virt(1), ids(A1)), (virt(8), ids(B))]);

    // Status has errors that a one would clear, and every write to Command is a write over it.
    world.xen.with_function(ecam(A), |function| function.write_register(6, Width::Word, 0xf910));
    let command = read(&mut world, &mut guest, virt(0), 0x04);
    assert_eq!(command, 0xf910_0000, "decoding off, so that it turns it on");
    assert_eq!(write(&mut world, &mut guest, 0x04, command | 7), 0xf910_0007);
    assert_eq!(status(&world, A), 0xf910);
    world.xen.with_function(ecam(A), |function| assert!(!function.is_quiesced(), "bus mastering"));

    // The same for cache line size, with BIST, header type and latency timer.
    let line = read(&mut world, &mut guest, virt(0), 0x0c) & !0xff | 0x10;
    assert_eq!(write(&mut world, &mut guest, 0x0c, line), line);

    // A BAR is sized with dwords.
    assert_eq!(write(&mut world, &mut guest, 0x10, u32::MAX), 0xffff_f000);
    assert_eq!(write(&mut world, &mut guest, 0x10, 0xfeb0_0000), 0xfeb0_0000);

    world.tool.request_close(GUEST);
    world.settle_with(&mut guest);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("6", 6));
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
    world.tool.remove_dirs(GUEST);
    world.settle();
    guest.front.forget();

    // Again, with new directories.
    let mut guest = OtherGuest::new(NetBsd::default(), guest.front);
    attach(&mut world, &mut guest, &[B]);
    assert_eq!(guest.driver.attached, [(virt(0), ids(B))]);
    let _ = end(world, &mut guest.front);
}

#[test]
fn netbsd_is_never_shown_7_unless_the_toolstack_does_it() {
    let (mut world, front) = world();
    let mut guest = OtherGuest::new(NetBsd::default(), front);
    attach(&mut world, &mut guest, &[A]);
    // Whatever else happens to the directory: it would panic in here.
    for (name, value) in [("online", "1"), ("num_devs", "1"), ("state-0", "3"), ("state-0", "6"), ("vdev-0", "")] {
        world.tool.write(&format!("{}/{name}", world.tool.backend_dir(GUEST)), value);
        world.settle_with(&mut guest);
    }
    // A device is taken by force.
    world.tool.remove_entries(GUEST, &[A]);
    world.settle_with(&mut guest);
    assert_eq!((own(&world).as_str(), world.tool.pool_state(A).as_deref()), ("4", Some("free")));
    assert_eq!(read(&mut world, &mut guest, virt(0), 0), u32::MAX);
    let _ = end(world, &mut guest.front);
}

/// A device's ids by its real address.
fn ask(world: &mut World, guest: &mut OtherGuest<MiniOs>, device: Sbdf) -> Option<Response> {
    guest.driver.read(&mut guest.front.with(&mut world.stub), device, 0, 4).expect("it goes on")
}

#[test]
fn mini_os_goes_by_real_addresses_and_comes_back() {
    let (mut world, front) = world();
    let mut guest = OtherGuest::new(MiniOs::default(), front);
    attach(&mut world, &mut guest, &[B, A]);
    for round in 0..3 {
        assert_eq!((own(&world).as_str(), guest.front.state()), ("4", 4), "round {round}");
        assert_eq!(guest.driver.scan(&mut guest.front.with(&mut world.stub)), [B, A]);
        for device in [A, B] {
            let response = ask(&mut world, &mut guest, device).expect("an address");
            assert_eq!((response.err, response.value), (0, ids(device)));
        }
        // It begins anew by itself: no toolstack is asked.
        guest.driver.shut_down(&mut guest.front.with(&mut world.stub));
        world.settle_with(&mut guest);
        assert!(guest.driver.is_off(), "it waits for ever");
        assert_eq!(own(&world), "3");
        guest.driver.wants_devices = true;
        world.settle_with(&mut guest);
    }
    world.tool.request_close(GUEST);
    world.settle_with(&mut guest);
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
    let _ = end(world, &mut guest.front);
}

#[test]
fn mini_os_finds_what_came_and_loses_what_left() {
    let (mut world, front) = world();
    let mut guest = OtherGuest::new(MiniOs::default(), front);
    attach(&mut world, &mut guest, &[A, B]);
    world.tool.hot_attach(GUEST, &[(A1, None)]);
    world.settle_with(&mut guest);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("4", 4));
    assert_eq!(ask(&mut world, &mut guest, A1).map(|response| response.value), Some(ids(A1)));

    world.tool.hot_detach(GUEST, &[A]);
    world.settle_with(&mut guest);
    // It has not looked at the entry, and asks for the device that is gone.
    let response = ask(&mut world, &mut guest, A).expect("the entry is there still");
    assert_eq!((response.err, response.value), (-1, u32::MAX));
    world.tool.remove_entries(GUEST, &[A]);
    world.settle_with(&mut guest);
    assert_eq!(guest.driver.scan(&mut guest.front.with(&mut world.stub)), [B, A1]);
    assert_eq!(ask(&mut world, &mut guest, A), None);
    for device in [B, A1] {
        assert_eq!(ask(&mut world, &mut guest, device).map(|response| response.value), Some(ids(device)));
    }
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
    let _ = end(world, &mut guest.front);
}

/// So many bytes of its first device's ids.
fn ids_of(world: &mut World, guest: &mut OtherGuest<FreeBsd>, size: i32) -> u32 {
    guest.driver.read(&mut guest.front.with(&mut world.stub), virt(1), 0, size)
}

#[test]
fn freebsd_as_a_guest_of_domain_0_lives_a_whole_life() {
    // It is told that its backend is domain 0, which is what it takes segment 0 for.
    let devices = (0..32).map(|bus| Sbdf::from_devfn(0, bus, 9)).collect::<Vec<_>>();
    let mut world = World::new(&devices);
    let mut guest = OtherGuest::new(FreeBsd::new(0), new_guest(&world));
    attach(&mut world, &mut guest, &devices);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("4", 4));
    assert_eq!(guest.driver.buses, [0]);
    let want = (0..).zip(&devices[..31]).map(|(slot, device)| (virt(slot << 3 | 1), ids(*device)));
    assert_eq!(guest.driver.found, want.collect::<Vec<_>>(), "it does not see the last slot");
    for size in [1, 2, 4] {
        assert_eq!(ids_of(&mut world, &mut guest, size), ids(devices[0]) & u32::MAX >> (32 - 8 * size));
    }

    // It does not answer 7; it is asked once and then left in peace.
    world.tool.hot_detach(GUEST, &devices[..1]);
    world.settle_with(&mut guest);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("7", 4));
    world.tool.roll_back_detach(GUEST, &devices[..1]);
    world.settle_with(&mut guest);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("4", 4));
    assert_eq!(ids_of(&mut world, &mut guest, 4), ids(devices[0]));

    // It goes to 5 and stays there: devices come back when its directory goes.
    world.tool.request_close(GUEST);
    world.settle_with(&mut guest);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("5", 5));
    assert_eq!(world.xen.held_by(STUB).pages, 0, "the page is let go of");
    world.tool.remove_dirs(GUEST);
    world.settle();
    assert_eq!(world.tool.pool_state(devices[0]).as_deref(), Some("free"));
    world.settle_with(&mut guest);
    let mut again = OtherGuest::new(FreeBsd::new(0), guest.front);
    again.front.forget();
    attach(&mut world, &mut again, &devices[..2]);
    assert_eq!(again.driver.found.len(), 2);
    let _ = end(world, &mut again.front);
}

#[test]
fn freebsd_closes_at_once_where_its_backend_is_another_domain() {
    let (mut world, front) = world();
    let mut guest = OtherGuest::new(FreeBsd::new(STUB.0), front);
    attach(&mut world, &mut guest, &[A]);
    assert_eq!((own(&world).as_str(), guest.front.state()), ("5", 5));
    assert_eq!(guest.driver.found, []);
    assert_eq!(world.xen.held_by(STUB).pages, 0);
    let mut world = end(world, &mut guest.front);
    // Others are not disturbed.
    let other = world.connect(6, &[A]);
    assert_eq!(world.guest(other).found, [(virt(0), ids(A))]);
}

#[test]
fn the_stub_s_domain_is_understood_as_the_segment_of_its_buses() {
    let mut world = World::new(&[A, B]);
    let guest = world.connect(6, &[A, B]);
    let mut ask = |segment: u32| {
        let request = Request { domain: segment, ..Request::conf_read(virt(8), 0, 4) };
        world.ask(guest, &request).map(|response| (response.err, response.value))
    };
    let there = Some((0, ids(B)));
    assert_eq!([0, STUB.0.into()].map(&mut ask), [there, there]);
    // Nobody else's, and not in more bits than a domain has.
    for segment in [1, 6, u32::from(STUB.0) + 1, u32::from(STUB.0) | 0x1_0000, u32::MAX] {
        assert_eq!(ask(segment).map(|(err, _)| err), Some(-1), "{segment:#x}");
    }
}
