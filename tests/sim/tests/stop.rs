//! Shutdown of the stub: it closes its frontends first.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciback::Shutdown;
use pciback::platform::Clock as _;
use pciif::Request;
use sim::tool::ecam;
use sim::world::{STUB, World};
use sim::{Kind, SimTool};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0);
const FIRST: Sbdf = Sbdf::from_devfn(0, 0, 0);

fn ask_to_stop(world: &World, word: &str) {
    world.tool.write(&format!("/local/domain/{STUB}/control/shutdown"), word);
}

/// Lets everybody go on until the stub is ready to end; how many milliseconds that took.
fn milliseconds_to_the_end(world: &mut World, want: Shutdown) -> u64 {
    let now_ns = |world: &World| world.xen.platform(STUB).now_ns();
    let start_ns = now_ns(world);
    world.settle();
    while world.stub.backend.shutdown_request().is_none() {
        let deadline_ns = world.stub.backend.next_deadline_ns().expect("it waits for something");
        world.xen.advance_ns(deadline_ns.saturating_sub(now_ns(world)));
        world.settle();
    }
    assert_eq!(world.stub.backend.shutdown_request(), Some(want));
    assert_eq!(world.tool.read(&format!("/local/domain/{STUB}/control/shutdown")).as_deref(), Some(""));
    (now_ns(world) - start_ns) / 1_000_000
}

/// Nothing is held, and each directory says 6.
fn assert_closed(world: &mut World, guests: &[DomId]) {
    for guest in guests {
        assert_eq!(world.tool.backend(*guest, "state").as_deref(), Some("6"));
        world.destroy(*guest);
        world.tool.remove_dirs(*guest);
    }
    assert!(world.pool_states().values().all(|state| state == "free"), "{:?}", world.pool_states());
    assert_eq!(world.xen.held_by(STUB).pages, 0);
    assert_eq!(world.xen.held_by(STUB).ports, 0);
}

#[test]
fn without_guests_it_ends_at_once() {
    for (word, want) in [("poweroff", Shutdown::Poweroff), ("halt", Shutdown::Poweroff), ("reboot", Shutdown::Reboot)] {
        let mut world = World::new(&[A]);
        ask_to_stop(&world, word);
        assert_eq!(milliseconds_to_the_end(&mut world, want), 0);
    }
}

#[test]
fn guests_close_in_order_wherever_they_are() {
    let mut world = World::new(&[A, B, C]);
    let running = world.connect(5, &[A]);
    let paused = world.create_guest(6);
    world.guests.remove(&paused);
    world.tool.attach(paused, &[B]);
    let unloaded = world.connect(7, &[C]);
    world.guest(unloaded).unload();
    world.settle();
    ask_to_stop(&world, "poweroff");
    let milliseconds = milliseconds_to_the_end(&mut world, Shutdown::Poweroff);
    assert!(milliseconds <= 20, "{milliseconds}");
    assert_eq!(world.states(running), ("6".to_string(), 6));
    world.guest(running).forget();
    assert_closed(&mut world, &[running, unloaded]);
    assert_eq!(world.tool.backend(paused, "state").as_deref(), Some("6"));
}

#[test]
fn a_guest_in_the_middle_of_a_change_closes_too() {
    let mut count = 0;
    loop {
        let mut world = World::new(&[A, B]);
        let guest = world.create_guest(5);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[A]);
        world.settle();
        world.tool.hot_change(guest, &[(B, None)], &[A]);
        let was_under_way = world.steps(count);
        ask_to_stop(&world, "reboot");
        let milliseconds = milliseconds_to_the_end(&mut world, Shutdown::Reboot);
        assert!(milliseconds <= 20, "after {count} steps: {milliseconds}");
        assert_eq!(world.states(guest), ("6".to_string(), 6));
        assert_closed(&mut world, &[guest]);
        if !was_under_way {
            return;
        }
        count += 7;
    }
}

#[test]
fn requests_are_answered_until_the_driver_is_done() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    world.broker.start();
    assert_eq!(world.ask(guest, &Request::conf_write(FIRST, 4, 2, 4)).map(|response| response.err), Some(0));
    ask_to_stop(&world, "poweroff");
    world.work();
    assert_eq!(world.states(guest), ("5".to_string(), 4));
    assert_eq!(world.ask(guest, &Request::conf_read(FIRST, 0, 4)).map(|response| response.err), Some(0));
    milliseconds_to_the_end(&mut world, Shutdown::Poweroff);
    assert_eq!(world.xen.with_function(ecam(A), |function| function.is_quiesced()), Some(true));
}

#[test]
fn silent_guests_are_waited_for_together_and_not_for_long() {
    let mut world = World::new(&[A, B, C]);
    let guests = [(5, A, Kind::Silent), (6, B, Kind::Silent), (7, C, Kind::Linux)].map(|(domid, device, kind)| {
        let guest = world.create_guest(domid);
        world.guest(guest).kind = kind;
        world.tool.attach(guest, &[device]);
        world.settle();
        guest
    });
    world.tool.hot_detach(guests[1], &[B]); // which it does not answer
    ask_to_stop(&world, "poweroff");
    let milliseconds = milliseconds_to_the_end(&mut world, Shutdown::Poweroff);
    assert!((5_000..5_100).contains(&milliseconds), "{milliseconds}");
    assert_eq!(world.states(guests[2]), ("6".to_string(), 6));
    assert_closed(&mut world, &guests);
}

/// It has used up what it may cause, and owes more than the end may take.
#[test]
fn a_guest_that_owes_looks_is_closed_in_time() {
    let mut world = World::new(&[A]);
    let guest = world.create_guest(5);
    world.guest(guest).kind = Kind::Silent;
    world.tool.attach(guest, &[A]);
    world.settle();
    let state = format!("{}/state", SimTool::frontend_dir(guest));
    for _ in 0..300 {
        world.xen.store().change(guest, |store| store.remove(&state)).expect("its own node");
        world.stub.settle();
        world.guest(guest).set_state(1);
        world.stub.settle();
    }
    ask_to_stop(&world, "poweroff");
    milliseconds_to_the_end(&mut world, Shutdown::Poweroff);
    assert_closed(&mut world, &[guest]);
}

#[test]
fn who_comes_when_it_is_ending_is_closed() {
    let mut world = World::new(&[A, B]);
    let silent = world.create_guest(5);
    world.guest(silent).kind = Kind::Silent;
    world.tool.attach(silent, &[A]);
    world.settle();
    ask_to_stop(&world, "poweroff");
    world.settle();
    let late = world.create_guest(6);
    world.tool.attach(late, &[B]);
    world.settle();
    assert_eq!(world.tool.backend(late, "state").as_deref(), Some("6"));
    // And who tries to come back stays closed.
    world.guest(late).set_state(1);
    milliseconds_to_the_end(&mut world, Shutdown::Poweroff);
    assert_closed(&mut world, &[silent, late]);
}

#[test]
fn a_xenstored_that_refuses_everything_delays_it_for_some_seconds_only() {
    let mut world = World::new(&[A]);
    world.connect(5, &[A]);
    ask_to_stop(&world, "poweroff");
    world.xen.store().inject(xenstored::Fault {
        kind: Some(6),
        path_end: String::new(),
        error: "EIO",
        times: 1_000_000,
    });
    let milliseconds = milliseconds_to_the_end(&mut world, Shutdown::Poweroff);
    assert!(milliseconds <= 6_100, "{milliseconds}");
}

#[test]
fn nobody_else_is_disturbed_by_a_word_that_means_nothing() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    for word in ["suspend", "crash", "", "poweroff now"] {
        ask_to_stop(&world, word);
        world.settle();
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.stub.backend.shutdown_request(), None);
    }
}
