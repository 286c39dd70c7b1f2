//! Ends and restarts of connections: closed, cut at any moment, restarted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciif::{ErrorCode, Request};
use sim::stub::Turn;
use sim::world::{World, device_id};
use sim::{SimStub, SimTool};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0);
const FIRST: Sbdf = Sbdf::from_devfn(0, 0, 0);

/// The same without the guest.
fn stub_steps(world: &mut World, steps: usize) {
    for step in 0..steps {
        let turns = [Turn::Run, Turn::Send(300), Turn::Receive(150)];
        world.stub.turn(turns[step % turns.len()]);
    }
}

fn two_devices() -> (World, DomId) {
    let mut world = World::new(&[A, B]);
    let guest = world.create_guest(5);
    world.guest(guest).scans_everything = false;
    world.tool.attach(guest, &[A, B]);
    (world, guest)
}

/// Does `end` after each possible number of steps of a connect, then `check`s.
fn at_every_step(end: fn(&mut World, DomId), check: fn(&mut World, DomId)) {
    at_steps(1, end, check);
}

/// The same after every third step: for ends that share their first half with one that is tried at every step.
fn at_every_third_step(end: fn(&mut World, DomId), check: fn(&mut World, DomId)) {
    at_steps(3, end, check);
}

fn at_steps(stride: usize, end: fn(&mut World, DomId), check: fn(&mut World, DomId)) {
    let mut count = 0;
    loop {
        let (mut world, guest) = two_devices();
        let was_under_way = world.steps(count);
        end(&mut world, guest);
        world.settle();
        check(&mut world, guest);
        if !was_under_way {
            assert!(count > 50, "a connect takes more than {count} steps");
            return;
        }
        count += stride;
    }
}

#[test]
fn a_guest_that_dies_at_any_moment_leaves_nothing() {
    at_every_step(World::destroy, |world, guest| {
        assert_eq!(world.tool.backend(guest, "state").as_deref(), Some("6"));
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
        assert_eq!(world.tool.pool_state(B).as_deref(), Some("free"));
        world.tool.remove_dirs(guest);
        world.settle();
        world.assert_clean();
    });
}

#[test]
fn a_directory_that_is_removed_at_any_moment_leaves_nothing() {
    let remove = |world: &mut World, guest: DomId| {
        world.guests.remove(&guest); // a guest without a directory does nothing
        world.tool.remove_dirs(guest);
    };
    at_every_step(remove, |world, _| {
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
        world.assert_clean();
    });
}

#[test]
fn a_directory_that_is_replaced_at_any_moment_starts_anew() {
    let replace = |world: &mut World, guest: DomId| {
        world.guest(guest).forget();
        world.tool.remove_dirs(guest);
        world.tool.attach(guest, &[B]);
    };
    at_every_third_step(replace, |world, guest| {
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        let ids = u32::from(device_id(B)) << 16 | 0x8086;
        assert_eq!(world.guest(guest).found, [(FIRST, ids)]);
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
        assert_eq!(world.tool.pool_state(B).as_deref(), Some("assigned 5"));
    });
}

#[test]
fn a_directory_that_comes_back_at_any_moment_is_noticed() {
    for count in 0..20 {
        let (mut world, guest) = two_devices();
        world.stub.settle();
        // Only the device's own directory: the one above it would be listed when it comes back.
        world.tool.change(|store| store.remove(&world.tool.backend_dir(guest)));
        for _ in 0..count {
            for turn in [Turn::Receive(usize::MAX), Turn::Run, Turn::Send(usize::MAX)] {
                world.stub.turn(turn);
            }
        }
        // Here xenstored has answered what was asked, about the time before, and the stub has not read it.
        world.tool.attach(guest, &[A]);
        world.settle();
        assert_eq!(world.states(guest), ("4".to_string(), 4), "after {count} round trips");
    }
}

#[test]
fn entries_that_move_down_at_any_moment_keep_their_addresses() {
    for count in 0..100 {
        let mut world = World::new(&[A, B, C]);
        let guest = world.create_guest(5);
        world.tool.attach(guest, &[A, B, C]);
        world.stub.settle();
        let dir = world.tool.backend_dir(guest);
        world.tool.write(&format!("{dir}/online"), "1"); // has the stub read everything
        stub_steps(&mut world, count);
        // As libxl removes index 0 (docs/protocol.md §1.3).
        world.tool.change(|store| {
            for (from, to) in [(1, 0), (2, 1)] {
                for name in ["dev", "key", "vdev", "state"] {
                    let value = store.read(&format!("{dir}/{name}-{from}"))?;
                    store.write(&format!("{dir}/{name}-{to}"), value)?;
                }
            }
            for name in ["dev-2", "key-2", "vdev-2", "state-2"] {
                store.remove(&format!("{dir}/{name}"))?;
            }
            store.write(&format!("{dir}/num_devs"), "2")
        });
        world.stub.settle();
        let node = |name: &str| world.tool.backend(guest, name).unwrap_or_default();
        assert_eq!(["vdev-0", "vdev-1"].map(node), ["0000:00:01.00", "0000:00:02.00"], "after {count} steps");
        assert_eq!(["state-0", "state-1"].map(node), ["3", "3"], "after {count} steps");
        let states = [A, B, C].map(|device| world.tool.pool_state(device).unwrap_or_default());
        assert_eq!(states, ["free", "assigned 5", "assigned 5"], "after {count} steps");
    }
}

#[test]
fn a_device_that_is_asked_back_goes_to_nobody_else() {
    for count in 0..150 {
        let (mut world, guest) = two_devices();
        world.settle();
        world.tool.set_online(A, false);
        world.settle();
        world.tool.request_close(guest);
        world.steps(count);
        let next = world.create_guest(6);
        world.tool.attach(next, &[A]);
        world.settle();
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("released"), "after {count} steps");
        assert_eq!(world.tool.backend(next, "state-0").as_deref(), Some("6"), "after {count} steps");
    }
}

#[test]
fn who_waits_for_a_device_gets_it_when_it_comes_back_and_as_new() {
    let (mut world, guest) = two_devices();
    world.settle();
    let next = world.create_guest(6);
    world.tool.attach(next, &[A]);
    world.stub.settle();
    assert_eq!(world.tool.error(next).as_deref(), Some("16 0000:03:00.0 is assigned to domain 5"));
    {
        let World { stub, guests, .. } = &mut world;
        guests[&guest].ask(stub, &Request::conf_write(FIRST, 0x10, 4, u32::MAX));
    }
    // Once a guest is connected, it is the tool's turn to offer the device again.
    let waiting = world.guests.remove(&next).unwrap();
    world.tool.request_close(guest);
    world.settle();
    world.guests.insert(next, waiting);
    world.settle();
    let World { stub, guests, .. } = &mut world;
    let bar = guests[&next].ask(stub, &Request::conf_read(FIRST, 0x10, 4)).map(|response| response.value);
    assert_eq!(bar, Some(0xfeb0_0000), "not its size, as the guest before had asked");
}

#[test]
fn a_close_that_is_asked_for_at_any_moment_gives_everything_back() {
    at_every_third_step(
        |world, guest| world.tool.request_close(guest),
        |world, guest| {
            assert_eq!(world.tool.backend(guest, "state").as_deref(), Some("6"));
            assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
            world.guests.remove(&guest);
            world.tool.remove_dirs(guest);
            world.settle();
            world.assert_clean();
        },
    );
}

#[test]
fn a_driver_that_is_reloaded_at_any_moment_connects_again_at_the_same_addresses() {
    let reload = |world: &mut World, guest: DomId| {
        let guest = world.guest(guest);
        guest.unload();
        guest.set_state(1);
    };
    at_every_step(reload, |world, guest| {
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.guest(guest).found.len(), 2);
        assert_eq!(world.tool.backend(guest, "vdev-0").as_deref(), Some("0000:00:00.00"));
        assert_eq!(world.tool.backend(guest, "vdev-1").as_deref(), Some("0000:00:01.00"));
    });
}

#[test]
fn a_kernel_that_crashed_and_starts_again_without_closing_connects_again() {
    for state in [1, 3] {
        let (mut world, guest) = two_devices();
        world.settle();
        let before = world.guest(guest).found.clone();
        world.guest(guest).forget();
        if state == 1 {
            world.guest(guest).set_state(1);
        } else {
            world.guest(guest).probe(); // its new keys and 3 at once, which may be the same numbers as before
        }
        world.settle();
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.guest(guest).found, before);
    }
}

#[test]
fn mini_os_closes_in_three_steps_and_is_waited_for_in_each() {
    let (mut world, guest) = two_devices();
    world.settle();
    for (theirs, ours) in [(5, "5"), (6, "6"), (1, "3")] {
        world.guest(guest).set_state(theirs);
        world.stub.settle();
        assert_eq!(world.tool.backend(guest, "state").as_deref(), Some(ours), "frontend at {theirs}");
    }
}

#[test]
fn a_closed_frontend_keeps_its_devices_while_it_is_online() {
    let (mut world, guest) = two_devices();
    world.settle();
    world.guest(guest).unload();
    world.stub.settle();
    assert_eq!(world.states(guest), ("6".to_string(), 6));
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));
    let held = world.xen.held_by(world.stub.domid());
    assert_eq!((held.pages, held.ports), (0, 0));
}

#[test]
fn the_next_connection_sees_nothing_of_the_one_before() {
    let (mut world, guest) = two_devices();
    world.settle();
    let read = |world: &mut World| {
        let World { stub, guests, .. } = world;
        let ask = |request: &Request, stub: &mut SimStub| guests[&guest].ask(stub, request).expect("an answer");
        let bar = ask(&Request::conf_read(FIRST, 0x10, 4), stub).value;
        (bar, ask(&Request::conf_read(FIRST, 4, 2), stub).value & 3)
    };
    let fresh = read(&mut world);
    {
        let World { stub, guests, .. } = &mut world;
        guests[&guest].ask(stub, &Request::conf_write(FIRST, 0x10, 4, u32::MAX));
        guests[&guest].ask(stub, &Request::conf_write(FIRST, 4, 1, 3));
    }
    assert_ne!(read(&mut world), fresh, "sizing and decode were taken");
    world.guest(guest).unload();
    world.guest(guest).set_state(1);
    world.settle();
    assert_eq!(read(&mut world), fresh);
}

#[test]
fn a_request_that_waits_when_the_connection_ends_is_answered() {
    let (mut world, guest) = two_devices();
    world.settle();
    world.guest(guest).publish(&Request::conf_read(FIRST, 0, 4));
    world.guest(guest).set_state(5);
    world.stub.settle(); // no event is served here
    let response = world.guest(guest).response().expect("an answer");
    assert_eq!((response.code(), response.value), (Some(ErrorCode::DevNotFound), u32::MAX));
}

#[test]
fn requests_are_answered_between_all_steps_of_another_guests_connect() {
    let (mut world, guest) = two_devices();
    world.settle();
    let other = world.create_guest(6);
    world.tool.attach(other, &[]);
    for _ in 0..300 {
        world.steps(1);
        let World { stub, guests, .. } = &mut world;
        let response = guests[&guest].ask(stub, &Request::conf_read(FIRST, 0, 2)).expect("an answer");
        assert_eq!(response.value, 0x8086);
    }
    world.settle();
    assert_eq!(world.states(other), ("4".to_string(), 4));
}

#[test]
fn a_hundred_lives_of_one_guest_leave_nothing_more_than_one() {
    let mut world = World::new(&[A]);
    let mut nodes = Vec::new();
    for life in 0..100 {
        let guest = world.create_guest(5);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[A]);
        world.settle();
        assert_eq!(world.states(guest).0, "4", "life {life}");
        world.destroy(guest);
        world.tool.remove_dirs(guest);
        world.settle();
        if life == 0 {
            nodes = world.xen.store().dump();
        }
    }
    assert_eq!(world.xen.store().dump(), nodes);
    world.assert_clean();
}

#[test]
fn frontend_dirs_are_where_the_tool_says() {
    // The path that the stub derives from its directory's name is the one that the toolstack writes.
    assert_eq!(SimTool::frontend_dir(DomId(5)), xenstore::path::frontend_dir(DomId(5)));
}

/// A stream that makes no sense is begun anew. The watches may be gone with it, and what they would have told.
#[test]
fn a_connection_to_xenstored_that_begins_anew_misses_nothing() {
    for loses_watches in [true, false] {
        let a = Sbdf::from_devfn(0, 3, 0);
        let b = Sbdf::from_devfn(0, 5, 0x10);
        let mut world = World::new(&[a]);
        let guest = world.connect(5, &[a]);
        let connection = world.stub.connection();
        let watches = world.xen.store().watches(connection);
        if loses_watches {
            world.xen.store().forget_watches(connection);
        }
        // In the middle of something, with events that nobody gets.
        world.tool.add_to_pool(b, sim::device::Function::endpoint(0x8086, 1));
        world.tool.hot_attach(guest, &[(b, None)]);
        world.stub.turn(Turn::Run);
        world.stub.backend.reset_store();
        world.settle_deadlines(20);
        let sorted = |mut list: Vec<(String, String)>| {
            list.sort();
            list
        };
        assert_eq!(sorted(world.xen.store().watches(connection)), sorted(watches));
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.guest(guest).found.len(), 2);
        world.guest(guest).unload();
        world.settle();
        assert_eq!(world.tool.backend(guest, "state").as_deref(), Some("6"), "its state is watched");
    }
}
