//! Devices that come and go while their guest runs (docs/protocol.md §2.4, §8.2 and §8.3).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciif::{ErrorCode, Request};
use sim::Kind;
use sim::stub::Turn;
use sim::world::{World, device_id};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const A1: Sbdf = Sbdf::from_devfn(0, 3, 1);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0);

fn virt(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

/// What a guest finds at a virtual address.
fn at(devfn: u8, device: Sbdf) -> (Sbdf, u32) {
    (virt(devfn), u32::from(device_id(device)) << 16 | 0x8086)
}

/// A guest that is connected with these devices, out of A, A1, B and C.
fn running(devices: &[Sbdf]) -> (World, DomId) {
    running_as(Kind::Linux, devices)
}

fn running_as(kind: Kind, devices: &[Sbdf]) -> (World, DomId) {
    let mut world = World::new(&[A, A1, B, C]);
    let guest = world.create_guest(5);
    world.guest(guest).scans_everything = false;
    world.guest(guest).kind = kind;
    world.tool.attach(guest, devices);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    (world, guest)
}

fn step(world: &mut World, guest: DomId) {
    let World { stub, guests, .. } = world;
    assert!(guests.get_mut(&guest).expect("a guest").step(stub), "the guest has something to do");
    world.stub.settle();
}

fn node(world: &World, guest: DomId, name: &str) -> String {
    world.tool.backend(guest, name).unwrap_or_default()
}

fn pool(world: &World, device: Sbdf) -> String {
    world.tool.pool_state(device).unwrap_or_default()
}

fn states(world: &World, guest: DomId) -> (String, u32) {
    world.states(guest)
}

fn both(ours: u32, theirs: u32) -> (String, u32) {
    (ours.to_string(), theirs)
}

/// A read of the first dword, as any guest does it.
fn read(world: &mut World, guest: DomId, devfn: u8) -> (i32, u32) {
    let World { stub, guests, .. } = world;
    let response = guests[&guest].ask(stub, &Request::conf_read(virt(devfn), 0, 4)).expect("an answer");
    (response.err, response.value)
}

const NO_DEVICE: (i32, u32) = (-1, u32::MAX);

#[test]
fn xenstore_trace_b_a_function_joins_its_slot() {
    let (mut world, guest) = running(&[A]);
    world.tool.hot_attach(guest, &[(A1, None)]);
    world.stub.settle();
    assert_eq!(states(&world, guest), both(7, 4), "the stub waits for the guest");
    assert_eq!(node(&world, guest, "state-1"), "1");
    assert_eq!(pool(&world, A1), "free");

    step(&mut world, guest);
    assert_eq!(states(&world, guest), both(8, 7));
    assert_eq!(node(&world, guest, "vdev-1"), "0000:00:00.01");
    assert_eq!(node(&world, guest, "state-1"), "3");
    assert_eq!((node(&world, guest, "root_num"), node(&world, guest, "root-0")), ("1".into(), "0000:00".into()));
    assert_eq!(pool(&world, A1), "assigned 5");

    step(&mut world, guest);
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(0, A), at(1, A1)]);
    assert!(world.tool.is_settled(guest));
    assert_eq!(world.tool.error(guest), None);
}

#[test]
fn xenstore_trace_c_index_0_leaves_and_the_next_moves_down() {
    let (mut world, guest) = running(&[A, A1]);
    world.tool.hot_detach(guest, &[A]);
    world.stub.settle();
    assert_eq!(states(&world, guest), both(7, 4));
    assert_eq!(pool(&world, A), "assigned 5", "not before the guest has let go");
    step(&mut world, guest);
    assert_eq!(world.guest(guest).goodbyes, [(virt(0), Some(0))], "its driver was served to the end");
    assert_eq!(states(&world, guest), both(8, 7));
    assert_eq!(pool(&world, A), "free");
    assert_eq!(node(&world, guest, "state-0"), "5", "until the tool removes the entry");
    step(&mut world, guest);
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(1, A1)]);

    world.tool.remove_entries(guest, &[A]);
    world.settle();
    assert_eq!(node(&world, guest, "dev-0"), A1.to_string());
    assert_eq!(node(&world, guest, "vdev-0"), "0000:00:00.01");
    assert_eq!(node(&world, guest, "state-0"), "3");
    assert_eq!(read(&mut world, guest, 1), (0, at(1, A1).1));
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE);

    world.tool.hot_detach(guest, &[A1]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(read(&mut world, guest, 1), NO_DEVICE);
    assert_eq!(pool(&world, A1), "free");
    assert_eq!(world.guest(guest).found, []);
}

#[test]
fn several_devices_come_and_go_in_one_transition() {
    let (mut world, guest) = running(&[]);
    world.tool.hot_attach(guest, &[(A, None), (B, None), (A1, None), (C, None)]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    let all = [at(0, A), at(1, A1), at(8, B)];
    assert_eq!(world.guest(guest).found, all, "as far as this guest looks");
    assert_eq!(node(&world, guest, "vdev-3"), "0000:00:02.00");

    world.tool.hot_detach(guest, &[C, A, B]);
    world.settle();
    world.tool.remove_entries(guest, &[A, B, C]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(1, A1)]);
    assert_eq!([A, A1, B, C].map(|device| pool(&world, device)), ["free", "assigned 5", "free", "free"]);
}

#[test]
fn devices_come_and_go_in_the_same_transition_and_slots_are_used_again() {
    let (mut world, guest) = running(&[A, B]);
    world.tool.hot_change(guest, &[(C, None)], &[A]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(0, C), at(8, B)]);
    assert_eq!(node(&world, guest, "vdev-2"), "0000:00:00.00");
    world.tool.remove_entries(guest, &[A]);
    world.settle();
    // A second time, to a slot that is free because another left before.
    world.tool.hot_detach(guest, &[B]);
    world.settle();
    world.tool.remove_entries(guest, &[B]);
    world.tool.hot_attach(guest, &[(A1, None), (A, None)]);
    world.settle();
    assert_eq!(world.guest(guest).found, [at(0, C), at(8, A), at(9, A1)]);
}

#[test]
fn an_addressed_wish_is_granted_where_the_slot_is_free_and_forgotten_where_it_is_not() {
    let (mut world, guest) = running(&[A]);
    world.tool.hot_attach(guest, &[(B, Some(0x1f)), (A1, Some(9)), (C, Some(0))]);
    world.settle();
    let vdevs = [0, 1, 2, 3].map(|index| node(&world, guest, &format!("vdev-{index}")));
    assert_eq!(vdevs, ["0000:00:00.00", "0000:00:1f.00", "0000:00:09.01", "0000:00:01.00"]);
}

#[test]
fn a_device_that_cannot_be_had_fails_alone_and_the_others_come() {
    let (mut world, guest) = running(&[A]);
    let other = world.connect(6, &[C]);
    let absent = Sbdf::from_devfn(0, 9, 0);
    world.tool.hot_attach(guest, &[(C, None), (B, None), (absent, None)]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert!(world.tool.is_settled(guest));
    let found = [0, 1, 2, 3].map(|index| node(&world, guest, &format!("state-{index}")));
    assert_eq!(found, ["3", "6", "3", "6"]);
    assert_eq!(world.guest(guest).found, [at(0, A), at(8, B)]);
    let error = world.tool.error(guest).expect("a reason");
    assert_eq!(error, "16 0000:06:00.0 is assigned to domain 6; 0000:09:00.0 is not in the pool");
    assert_eq!(world.guest(other).found, [at(0, C)]);

    // The tool takes the entries away, and can try again when the device is free.
    world.tool.remove_entries(guest, &[C, absent]);
    world.destroy(other);
    world.settle();
    world.tool.hot_attach(guest, &[(C, None)]);
    world.settle();
    assert_eq!(node(&world, guest, "state-2"), "3");
}

#[test]
fn a_page_that_cannot_be_mapped_or_a_full_bus_fails_one_device() {
    let devices = (0..33).map(|bus| Sbdf::from_devfn(1, bus, 0)).collect::<Vec<_>>();
    let mut world = World::new(&devices);
    let guest = world.connect(5, &devices[..31]);
    world.tool.hot_attach(guest, &[(devices[31], None), (devices[32], None)]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(node(&world, guest, "state-31"), "3");
    assert_eq!(node(&world, guest, "state-32"), "6");
    assert_eq!(world.tool.error(guest).as_deref(), Some("28 0001:20:00.0: no free slot on the virtual bus"));
    assert_eq!(pool(&world, devices[32]), "free");
}

#[test]
fn a_guest_that_never_answers_is_waited_for_quietly_and_can_be_rolled_back() {
    for kind in [Kind::Silent, Kind::FreeBsd] {
        let (mut world, guest) = running_as(kind, &[A, B]);
        world.tool.hot_attach(guest, &[(C, None)]);
        world.settle_deadlines(100);
        assert_eq!(states(&world, guest), both(7, 4));
        assert_eq!(world.stub.backend.next_deadline_ns(), None, "nothing to do by the clock");
        world.tool.roll_back_attach(guest, &[C]);
        world.settle();
        assert_eq!(states(&world, guest), both(4, 4));
        assert_eq!(pool(&world, C), "free");

        world.tool.hot_detach(guest, &[A]);
        world.settle();
        assert_eq!(states(&world, guest), both(7, 4));
        world.tool.roll_back_detach(guest, &[A]);
        world.settle();
        assert_eq!(states(&world, guest), both(4, 4));
        assert_eq!(node(&world, guest, "state-0"), "3");
        assert_eq!(read(&mut world, guest, 0), (0, at(0, A).1));
        assert_eq!(pool(&world, A), "assigned 5");
        // By force: the guest has no say.
        world.tool.remove_entries(guest, &[A]);
        world.settle();
        assert_eq!(read(&mut world, guest, 0), NO_DEVICE);
        assert_eq!(read(&mut world, guest, 8), (0, at(8, B).1));
        assert_eq!((pool(&world, A), states(&world, guest)), ("free".to_string(), both(4, 4)));
        // It closes at the end like any other.
        world.tool.request_close(guest);
        world.settle();
        world.destroy(guest);
        world.tool.remove_dirs(guest);
        world.settle();
        world.assert_clean();
    }
}

#[test]
fn an_answer_that_comes_after_the_roll_back_is_answered_too() {
    let (mut world, guest) = running(&[A]);
    world.tool.hot_attach(guest, &[(B, None)]);
    world.stub.settle();
    world.tool.roll_back_attach(guest, &[B]);
    world.stub.settle();
    world.guest(guest).set_state(7); // it had seen our 7
    world.stub.settle();
    assert_eq!(states(&world, guest), both(8, 7));
    assert_eq!(pool(&world, B), "free");
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(0, A)]);

    // The same with an attempt that is under way again.
    world.tool.hot_attach(guest, &[(B, None)]);
    world.stub.settle();
    world.tool.roll_back_attach(guest, &[B]);
    world.tool.hot_attach(guest, &[(C, None)]);
    world.guest(guest).set_state(7);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(0, A), at(8, C)]);
}

#[test]
fn a_change_that_is_queued_at_8_gets_a_round_of_its_own() {
    let (mut world, guest) = running(&[A, B]);
    world.tool.hot_attach(guest, &[(C, None)]);
    world.stub.settle();
    step(&mut world, guest);
    assert_eq!(states(&world, guest), both(8, 7));
    // Nothing waits for 4 here: entries only, then with 7 besides.
    for writes_7 in [false, true] {
        let detached = if writes_7 { A } else { B };
        world.tool.hot_detach(guest, &[detached]);
        if writes_7 {
            world.tool.write(&format!("{}/state", world.tool.backend_dir(guest)), "7");
        }
        world.stub.settle();
        assert_eq!(states(&world, guest), both(8, 7), "the guest has not looked at the new entry");
        assert_eq!(pool(&world, detached), "assigned 5");
    }
    step(&mut world, guest);
    assert_eq!(states(&world, guest), both(7, 4), "the second round");
    assert_eq!((pool(&world, A), pool(&world, B)), ("assigned 5".to_string(), "assigned 5".to_string()));
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    let goodbyes = world.guest(guest).goodbyes.clone();
    assert_eq!(goodbyes, [(virt(0), Some(0)), (virt(8), Some(0))]);
    assert_eq!([A, B, C].map(|device| pool(&world, device)), ["free", "free", "assigned 5"]);
}

#[test]
fn a_device_that_was_appended_just_when_the_guest_connected_gets_a_round_by_itself() {
    let (mut world, guest) = running(&[A]);
    // No 7: the tool saw us at 3.
    world.tool.change(|store| {
        world.tool.write_device(store, guest, 1, B)?;
        store.write(&format!("{}/num_devs", world.tool.backend_dir(guest)), "2")
    });
    world.stub.settle();
    assert_eq!(states(&world, guest), both(7, 4));
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(world.guest(guest).found, [at(0, A), at(8, B)]);
}

#[test]
fn a_guest_that_sees_7_before_4_is_connected_and_finds_everything() {
    for stub_connects_first in [false, true] {
        let mut world = World::new(&[A, B]);
        let guest = world.create_guest(5);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[A]);
        world.stub.settle();
        world.guest(guest).probe();
        if stub_connects_first {
            world.stub.settle();
            assert_eq!(states(&world, guest), both(4, 3));
        }
        world.tool.hot_attach(guest, &[(B, None)]);
        world.tool.write(&format!("{}/state", world.tool.backend_dir(guest)), "7");
        step(&mut world, guest);
        assert_eq!(states(&world, guest), both(8, 7), "{stub_connects_first}");
        step(&mut world, guest);
        assert_eq!(states(&world, guest), both(4, 4));
        assert_eq!(world.guest(guest).found, [at(0, A), at(8, B)]);
    }
}

#[test]
fn mini_os_echoes_without_looking_and_is_served() {
    let (mut world, guest) = running_as(Kind::MiniOs, &[A]);
    world.tool.hot_attach(guest, &[(B, None)]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(read(&mut world, guest, 8), (0, at(8, B).1));
    world.tool.hot_detach(guest, &[A]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    // It goes on using what it has lost.
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE);
    assert_eq!(pool(&world, A), "free");
    // It closes and begins anew, with what is its own.
    world.guest(guest).set_state(6);
    world.stub.settle();
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(read(&mut world, guest, 8), (0, at(8, B).1));
    assert_eq!(pool(&world, A), "free");
}

#[test]
fn the_first_device_and_the_last_come_and_go_while_the_guest_runs() {
    let (mut world, guest) = running(&[]);
    for _ in 0..3 {
        world.tool.hot_attach(guest, &[(A, None)]);
        world.settle();
        assert_eq!(world.guest(guest).found, [at(0, A)]);
        world.tool.hot_detach(guest, &[A]);
        world.settle();
        world.tool.remove_entries(guest, &[A]);
        world.settle();
        assert_eq!((states(&world, guest), pool(&world, A)), (both(4, 4), "free".to_string()));
    }
    world.tool.request_close(guest);
    world.settle();
    assert_eq!(states(&world, guest), both(6, 6));
    world.guest(guest).forget();
    world.tool.remove_dirs(guest);
    world.settle();
    world.assert_clean();
    // A directory of its own again.
    world.tool.attach(guest, &[B]);
    world.settle();
    assert_eq!(world.guest(guest).found, [at(0, B)]);
}

#[test]
fn before_the_guest_runs_and_while_its_driver_is_not_there_nobody_is_asked() {
    let mut world = World::new(&[A, B]);
    let guest = world.create_guest(5);
    world.tool.attach(guest, &[A]);
    world.stub.settle();
    for (detach, at_3) in [(A, "5"), (B, "5")] {
        let attach = if detach == A { B } else { A };
        world.tool.hot_change(guest, &[(attach, None)], &[detach]);
        world.tool.write(&format!("{}/state", world.tool.backend_dir(guest)), "7");
        world.stub.settle();
        assert_eq!(states(&world, guest), both(3, 1));
        assert_eq!((node(&world, guest, "state-0"), node(&world, guest, "state-1")), (at_3.into(), "3".into()));
        assert_eq!((pool(&world, attach), pool(&world, detach)), ("assigned 5".to_string(), "free".to_string()));
        world.tool.remove_entries(guest, &[detach]);
        world.stub.settle();
    }
    world.settle();
    world.guest(guest).unload();
    world.settle();
    assert_eq!(states(&world, guest), both(6, 6));
    world.tool.hot_change(guest, &[(B, None)], &[A]);
    world.settle();
    assert_eq!((states(&world, guest), pool(&world, A)), (both(6, 6), "free".to_string()));
    world.guest(guest).set_state(1);
    world.settle();
    assert_eq!((states(&world, guest), pool(&world, B)), (both(4, 4), "assigned 5".to_string()));
}

#[test]
fn a_guest_that_turns_in_circles_by_itself_gets_its_answers_and_nothing_else() {
    let (mut world, guest) = running(&[A]);
    let other = world.connect(6, &[B]);
    for state in [7, 4, 7, 8, 7, 4, 4, 7, 2, 7, 4] {
        world.guest(guest).set_state(state);
        world.stub.settle();
        let own = node(&world, guest, "state");
        assert_eq!(own, if state == 4 { "4" } else { "8" }, "at {state}");
        assert_eq!(read(&mut world, guest, 0), (0, at(0, A).1));
    }
    assert_eq!(world.guest(other).found, [at(0, B)]);
}

#[test]
fn a_device_that_is_taken_by_force_is_gone_at_any_moment() {
    let mut count = 0;
    loop {
        let (mut world, guest) = running(&[A, B]);
        world.tool.hot_change(guest, &[(C, None)], &[B]);
        let was_under_way = world.steps(count);
        world.tool.remove_entries(guest, &[A, B]);
        world.settle();
        assert_eq!(states(&world, guest), both(4, 4), "after {count} steps");
        assert_eq!([A, B, C].map(|device| pool(&world, device)), ["free", "free", "assigned 5"], "after {count} steps");
        // The new one is at a slot of its own, or at one that was free again.
        let served =
            [0, 8, 16].map(|devfn| read(&mut world, guest, devfn)).into_iter().filter(|found| *found != NO_DEVICE);
        assert_eq!(served.collect::<Vec<_>>(), [(0, at(0, C).1)], "after {count} steps");
        if !was_under_way {
            assert!(count > 50, "{count} steps");
            return;
        }
        count += 1;
    }
}

/// The guest's driver still has what was there, and would drive the next one with its state.
#[test]
fn the_address_of_a_device_that_was_taken_by_force_waits_for_the_driver_to_go() {
    let (mut world, guest) = running(&[A, B]);
    world.tool.remove_entries(guest, &[A]);
    world.settle();
    assert_eq!((pool(&world, A).as_str(), read(&mut world, guest, 0)), ("free", NO_DEVICE));
    for device in [C, A, A1] {
        world.tool.hot_attach(guest, &[(device, None)]);
        world.settle();
        assert_eq!(states(&world, guest), both(4, 4));
    }
    let vdev: Vec<String> = (1..4).map(|index| node(&world, guest, &format!("vdev-{index}"))).collect();
    assert_eq!(vdev, ["0000:00:02.00", "0000:00:03.00", "0000:00:03.01"]);
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE);
    // Not where it is wished for either.
    world.tool.remove_entries(guest, &[C]);
    world.settle();
    world.tool.hot_attach(guest, &[(C, Some(0))]);
    world.settle();
    assert_eq!(node(&world, guest, "vdev-3"), "0000:00:04.00");
    // A driver that is loaded anew has forgotten it.
    world.tool.hot_detach(guest, &[C]);
    world.settle();
    world.tool.remove_entries(guest, &[C]);
    world.guest(guest).unload();
    world.settle();
    world.guest(guest).probe();
    world.settle();
    world.tool.hot_attach(guest, &[(C, None)]);
    world.settle();
    assert_eq!(states(&world, guest), both(4, 4));
    assert_eq!(
        (node(&world, guest, "vdev-3").as_str(), read(&mut world, guest, 0)),
        ("0000:00:00.00", (0, at(0, C).1))
    );
}

#[test]
fn whoever_has_removed_an_entry_and_finds_the_device_free_may_give_it_away() {
    let mut count = 0;
    let mut found = Vec::new();
    loop {
        let (mut world, guest) = running(&[A]);
        world.tool.hot_attach(guest, &[(B, None)]);
        let was_under_way = world.steps(count);
        world.tool.remove_entries(guest, &[B]);
        let is_free = pool(&world, B) == "free";
        found.push(is_free);
        for turn in [Turn::Receive(100), Turn::Run, Turn::Send(200)].into_iter().cycle().take(60) {
            let is_served = read(&mut world, guest, 8) != NO_DEVICE;
            assert!(!is_free || !is_served, "after {count} steps");
            world.stub.turn(turn);
        }
        world.settle();
        assert_eq!((pool(&world, B), read(&mut world, guest, 8)), ("free".to_string(), NO_DEVICE));
        if !was_under_way {
            assert!(found.contains(&true) && found.contains(&false));
            return;
        }
        count += 1;
    }
}

#[test]
fn xenstored_that_refuses_delays_a_change_and_does_not_lose_it() {
    for (kind, path_end) in [(11, "/state"), (11, "/state-1"), (7, ""), (6, ""), (2, "/num_devs")] {
        let (mut world, guest) = running(&[A]);
        world.xen.store().inject(xenstored::Fault {
            kind: Some(kind),
            path_end: path_end.to_string(),
            error: "ENOSPC",
            times: 3,
        });
        world.tool.hot_attach(guest, &[(B, None)]);
        world.settle_deadlines(20);
        assert_eq!(states(&world, guest), both(4, 4), "{kind} {path_end}");
        assert_eq!(world.guest(guest).found, [at(0, A), at(8, B)], "{kind} {path_end}");
    }
}

#[test]
fn a_detached_device_is_made_quiet_before_it_is_free() {
    let (mut world, guest) = running(&[A]);
    world.broker.start();
    let master = Request::conf_write(virt(0), 4, 2, 4);
    assert_eq!(world.ask(guest, &master).map(|response| response.code()), Some(Some(ErrorCode::Success)));
    let is_quiesced = |world: &World| world.xen.with_function(sim::tool::ecam(A), |function| function.is_quiesced());
    assert_eq!(is_quiesced(&world), Some(false));
    // By force: the guest's driver turns nothing off.
    world.broker.stop();
    world.tool.remove_entries(guest, &[A]);
    world.settle();
    assert_eq!(pool(&world, A), "assigned 5", "not before the broker is done with it");
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE);
    world.broker.go_on();
    world.settle();
    assert_eq!((is_quiesced(&world), pool(&world, A)), (Some(true), "free".to_string()));
}
