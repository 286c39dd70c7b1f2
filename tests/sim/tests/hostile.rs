//! Hostile guests (docs/protocol.md §8.6), and a xenstored that refuses requests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciif::{ErrorCode, Request};
use sim::world::{STUB, World};
use sim::{SimTool, logs};
use xen_types::{DomId, Errno, Sbdf};
use xenstored::Fault;

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0);
const FIRST: Sbdf = Sbdf::from_devfn(0, 0, 0);

/// A guest at 4 that nobody may disturb, and one that has its directories.
fn two_guests() -> (World, DomId, DomId) {
    let mut world = World::new(&[A, B]);
    let good = world.create_guest(6);
    world.guest(good).scans_everything = false;
    world.tool.attach(good, &[B]);
    world.settle();
    let bad = world.create_guest(5);
    world.guest(bad).scans_everything = false;
    world.tool.attach(bad, &[A]);
    (world, good, bad)
}

fn assert_undisturbed(world: &mut World, good: DomId) {
    assert_eq!(world.states(good), ("4".to_string(), 4));
    let World { stub, guests, .. } = world;
    let response = guests[&good].ask(stub, &Request::conf_read(FIRST, 0, 2)).expect("an answer");
    assert_eq!((response.code(), response.value), (Some(ErrorCode::Success), 0x8086));
}

/// Whoever changes them all the time.
#[test]
fn nodes_that_always_change_meanwhile_are_looked_at_less_and_less_often() {
    let mut world = World::new(&[A]);
    let guest = world.create_guest(5);
    let always = Fault { kind: Some(7), path_end: String::new(), error: "EAGAIN", times: u32::MAX };
    world.xen.store().inject(always);
    world.tool.attach(guest, &[A]);
    let (began_ns, requests) = (world.xen.now_ns(), world.xen.store().requests());
    world.settle_deadlines(60);
    let (took_ns, requests) = (world.xen.now_ns() - began_ns, world.xen.store().requests() - requests);
    assert!(took_ns > 20_000_000_000 && requests < 3_000, "{requests} requests in {took_ns} ns");
    world.xen.store().clear_faults();
    world.settle_deadlines(60);
    assert_eq!(world.states(guest), ("4".to_owned(), 4));
}

#[test]
fn bad_keys_are_refused_with_a_reason_and_good_ones_accepted_after_them() {
    let long = "9".repeat(2_000);
    let cases: [(&str, Option<&str>, &str); 16] = [
        ("pci-op-ref", None, "2 the frontend has not written pci-op-ref"),
        ("event-channel", None, "2 the frontend has not written event-channel"),
        ("magic", None, "2 the frontend has not written magic"),
        ("magic", Some("8"), "14 magic is not 7"),
        ("magic", Some("77"), "14 magic is not 7"),
        ("magic", Some("7\u{0}7"), "14 magic is not 7"),
        ("pci-op-ref", Some(""), "22 pci-op-ref is not a number"),
        ("pci-op-ref", Some("-1"), "22 pci-op-ref is not a number"),
        ("pci-op-ref", Some("0x8"), "22 pci-op-ref is not a number"),
        ("pci-op-ref", Some("4294967296"), "22 pci-op-ref is not a number"),
        ("pci-op-ref", Some(&long), "22 pci-op-ref is not a number"),
        ("pci-op-ref", Some("4294967295"), "22 cannot map the page that it granted as 4294967295"),
        ("event-channel", Some("-1"), "22 event-channel is not a number"),
        ("event-channel", Some("1;reboot"), "22 event-channel is not a number"),
        ("event-channel", Some("\u{663}"), "22 event-channel is not a number"),
        ("event-channel", Some("4294967295"), "22 cannot bind its event channel 4294967295"),
    ];
    for (name, value, want) in cases {
        let (mut world, good, bad) = two_guests();
        world.stub.settle();
        let path = format!("{}/{name}", SimTool::frontend_dir(bad));
        // The driver publishes all keys and goes to 3; what it wrote last is what we see.
        world.guest(bad).probe();
        world.tool.change(|store| match value {
            Some(value) => store.write(&path, value),
            None => store.remove(&path),
        });
        world.stub.settle();
        assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("5"), "{name}={value:?}");
        assert_eq!(world.tool.error(bad).as_deref(), Some(want), "{name}={value:?}");
        let held = world.xen.held_by(STUB);
        assert_eq!((held.pages, held.ports), (1, 1), "only the other guest's");

        // Saying the same again is no reason to try again.
        let requests = world.xen.store().requests();
        world.guest(bad).set_state(3);
        world.stub.settle();
        assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("5"));
        assert!(world.xen.store().requests() < requests + 30, "one look");

        world.guest(bad).publish_keys();
        world.guest(bad).set_state(3);
        world.settle();
        assert_eq!(world.states(bad), ("4".to_string(), 4), "after {name}={value:?}");
        assert_undisturbed(&mut world, good);
    }
}

#[test]
fn somebody_elses_grants_and_ports_are_not_to_be_had() {
    let (mut world, good, bad) = two_guests();
    world.stub.settle();
    let (gref, port) = world.guest(good).keys().expect("keys");
    world.guest(bad).probe();
    world.guest(bad).write("pci-op-ref", format!("{}", gref.0 + 1)).expect("written");
    world.guest(bad).write("event-channel", format!("{}", port.0 + 1)).expect("written");
    world.stub.settle();
    assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("5"));
    assert_undisturbed(&mut world, good);
}

#[test]
fn keys_that_are_rewritten_while_connected_mean_nothing() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    for (name, value) in [("pci-op-ref", "77"), ("event-channel", "x"), ("magic", "8")] {
        world.guest(bad).write(name, value).expect("written");
    }
    world.guest(bad).set_state(4);
    world.settle();
    assert_undisturbed(&mut world, bad);
    assert_undisturbed(&mut world, good);
}

#[test]
fn a_grant_that_is_revoked_under_us_ends_with_the_connection() {
    let (mut world, _, bad) = two_guests();
    world.settle();
    let (gref, _) = world.guest(bad).keys().expect("keys");
    world.xen.revoke(bad, gref);
    assert_undisturbed(&mut world, bad);
    world.guest(bad).set_state(6);
    world.settle();
    assert_eq!(world.xen.held_by(STUB).pages, 1, "only the other guest's");
}

#[test]
fn states_that_make_no_sense_are_ignored_and_told_a_few_times() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    logs::collect(log::LevelFilter::Info);
    for round in 0..200 {
        for state in ["2", "8", "9", "-1", "", "reboot", "44"] {
            world
                .guest(bad)
                .write("state", format!("{state}{}", if round % 2 == 0 { "" } else { "\n" }))
                .expect("written");
            world.stub.settle();
            assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("4"), "{state:?}");
        }
    }
    let lines = logs::take();
    assert!((1..60).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().any(|line| line.contains("frontend 5: ignoring its state")), "{lines:?}");
    assert_undisturbed(&mut world, good);
}

#[test]
fn a_storm_of_states_costs_the_others_nothing_and_ends_with_a_connection() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    logs::collect(log::LevelFilter::Info);
    let before = world.xen.store().requests();
    for _ in 0..500 {
        for state in [3, 5, 3, 1, 6] {
            world.guest(bad).set_state(state);
            world.stub.settle();
        }
    }
    let requests = world.xen.store().requests() - before;
    assert!(requests < 60_000, "{requests} requests for 2,500 changes while no time passed");
    assert!(world.stub.backend.next_deadline_ns().is_some(), "the rest is for later");
    assert!(logs::take().len() < 100, "lines");
    assert_undisturbed(&mut world, good);
    // Somebody else is attached meanwhile, and at once.
    world.tool.add_to_pool(C, sim::device::Function::endpoint(0x8086, 1));
    let third = world.create_guest(7);
    world.tool.attach(third, &[C]);
    world.settle();
    assert_eq!(world.states(third), ("4".to_string(), 4));
    // And when it comes to its senses it is served.
    world.guest(bad).unload();
    world.settle_deadlines(200);
    world.xen.advance_ns(10_000_000_000); // it owes nothing any more
    world.guest(bad).set_state(1);
    world.settle_deadlines(50);
    assert_eq!(world.states(bad), ("4".to_string(), 4));
}

/// Each round takes the device back and assigns it again. Everything that is done for it is paid for: by the guest, and only by that.
#[test]
fn a_guest_that_comes_and_goes_pays_for_every_look() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    logs::collect(log::LevelFilter::Info);
    let state = format!("{}/state", SimTool::frontend_dir(bad));
    let rounds = |world: &mut World, count: u32, step_ns: u64| {
        let before = world.xen.store().requests();
        for _ in 0..count {
            world.xen.store().change(bad, |store| store.remove(&state)).expect("its own node");
            world.stub.settle();
            world.guest(bad).set_state(1);
            world.stub.settle();
            world.xen.advance_ns(step_ns);
            world.stub.settle();
        }
        world.xen.store().requests() - before
    };
    // What it may cause at once.
    let burst = rounds(&mut world, 150, 0);
    let nothing_more = rounds(&mut world, 150, 0);
    assert_eq!(nothing_more, 0, "after {burst} requests");
    // Then ten looks a second, of some twenty requests each; as many rounds as it likes.
    let sustained = rounds(&mut world, 1_000, 10_000_000);
    assert!((1_000..2_500).contains(&sustained), "{sustained} requests in ten seconds, after {burst}");
    let lines = logs::take();
    assert!(lines.len() < 60, "{} lines", lines.len());
    assert_undisturbed(&mut world, good);
    // A change of the honest guest's devices is not paid for by anybody.
    for _ in 0..50 {
        world.tool.hot_detach(good, &[B]);
        world.settle();
        world.tool.remove_entries(good, &[B]);
        world.tool.hot_attach(good, &[(B, None)]);
        world.settle();
        assert!(world.tool.is_settled(good));
    }
    world.guest(bad).unload();
    world.settle_deadlines(200);
    world.xen.advance_ns(10_000_000_000); // it owes nothing any more
    world.guest(bad).set_state(1);
    world.settle_deadlines(50);
    assert_eq!(world.states(bad), ("4".to_string(), 4));
}

#[test]
fn nodes_below_state_do_not_pile_up() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    for number in 0..900 {
        world.guest(bad).write(&format!("state/{number}"), "x").expect("written");
        if number % 100 == 0 {
            world.stub.settle();
        }
    }
    world.settle_deadlines(50);
    assert_undisturbed(&mut world, good);
    assert_eq!(world.states(bad).0, "4");
}

#[test]
fn a_guest_that_hides_its_directory_is_gone() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    let dir = SimTool::frontend_dir(bad);
    let hide = |store: &mut xenstored::Direct<'_>| store.set_permissions(&format!("{dir}/state"), &["n5"]);
    world.xen.store().change(bad, hide).expect("its own node");
    // Nobody is told when a node becomes unreadable; the next look finds it so.
    world.tool.write(&format!("{}/online", world.tool.backend_dir(bad)), "1");
    world.stub.settle();
    assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("6"));
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
    assert_undisturbed(&mut world, good);
}

#[test]
fn a_frontend_node_that_names_another_guest_is_refused() {
    for (name, value) in [("frontend", "/local/domain/6/device/pci/0"), ("frontend-id", "6"), ("frontend", "")] {
        let (mut world, good, bad) = two_guests();
        let dir = world.tool.backend_dir(bad);
        world.tool.write(&format!("{dir}/{name}"), value);
        world.stub.settle();
        assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("5"));
        let error = world.tool.error(bad).expect("an error");
        assert!(error.starts_with("22 frontend or frontend-id"), "{error}");
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
        assert_undisturbed(&mut world, good);
    }
}

#[test]
fn an_error_of_an_earlier_life_is_cleared() {
    let (mut world, _, bad) = two_guests();
    let dir = world.tool.backend_dir(bad);
    world.tool.write(&format!("{dir}/frontend-id"), "6");
    world.stub.settle();
    assert!(world.tool.error(bad).is_some());
    world.tool.change(|store| {
        store.write(&format!("{dir}/frontend-id"), "5")?;
        store.write(&format!("{dir}/state"), "1")
    });
    world.settle();
    assert_eq!(world.states(bad), ("4".to_string(), 4));
    assert_eq!(world.tool.error(bad), None);
}

#[test]
fn one_device_that_cannot_be_had_fails_alone_and_is_tried_again_when_it_comes() {
    let (mut world, _, bad) = two_guests();
    world.tool.change(|store| {
        world.tool.write_device(store, bad, 1, C)?; // not in the pool
        world.tool.write_device(store, bad, 2, B)?; // assigned to the other
        store.write(&format!("{}/dev-3", world.tool.backend_dir(bad)), "no device")?;
        store.write(&format!("{}/num_devs", world.tool.backend_dir(bad)), "4")
    });
    world.stub.settle();
    let node = |world: &World, name: &str| world.tool.backend(bad, name).unwrap_or_default();
    assert_eq!(node(&world, "state"), "3");
    assert_eq!(["state-0", "state-1", "state-2"].map(|name| node(&world, name)), ["3", "6", "6"]);
    let error = world.tool.error(bad).expect("an error");
    let want = "19 0000:06:00.0 is not in the pool; 0000:05:02.0 is assigned to domain 6; dev-3 is no PCI address";
    assert_eq!(error, want);

    world.tool.add_to_pool(C, sim::device::Function::endpoint(0x8086, 1));
    world.stub.settle();
    assert_eq!(["state-0", "state-1", "state-2"].map(|name| node(&world, name)), ["3", "3", "6"]);
    assert_eq!(node(&world, "vdev-1"), "0000:00:01.00");
    world.settle();
    assert_eq!(world.guest(bad).found.len(), 2);
}

#[test]
fn xen_that_says_no_is_reported_and_leaves_nothing_half_done() {
    for (call, want) in
        [("map_grant", "12 cannot map the page"), ("bind_interdomain", "12 cannot bind its event channel")]
    {
        let (mut world, good, bad) = two_guests();
        world.stub.settle();
        world.xen.fail_next(call, Errno::ENOMEM);
        world.guest(bad).probe();
        world.stub.settle();
        assert_eq!(world.tool.backend(bad, "state").as_deref(), Some("5"));
        assert!(world.tool.error(bad).is_some_and(|error| error.starts_with(want)));
        let held = world.xen.held_by(STUB);
        assert_eq!((held.pages, held.ports), (1, 1), "only the other guest's");
        assert_undisturbed(&mut world, good);
    }
}

/// The numbers of `xs_wire.h`.
const KINDS: [(u32, &str); 8] =
    [(2, "READ"), (4, "WATCH"), (6, "START"), (7, "END"), (11, "WRITE"), (13, "RM"), (1, "DIRECTORY"), (5, "UNWATCH")];

#[test]
fn a_store_that_refuses_anything_for_a_while_delays_and_breaks_nothing() {
    for (kind, name) in KINDS {
        for error in ["EAGAIN", "ENOMEM", "EIO", "ENOSPC", "EBUSY", "EACCES", "EWHATEVER"] {
            let (mut world, good, bad) = two_guests();
            world.xen.store().inject(Fault { kind: Some(kind), path_end: String::new(), error, times: 5 });
            world.settle_deadlines(100);
            world.xen.store().clear_faults();
            world.settle_deadlines(100);
            // A guest whose nodes could not be read for a while may have been taken for gone; it would have to load its
            // driver again. Ours does.
            if world.states(bad).0 != "4" {
                world.guest(bad).forget();
                world.guest(bad).set_state(1);
                world.settle_deadlines(100);
            }
            assert_eq!(world.states(bad), ("4".to_string(), 4), "{name}: {error}");
            assert_undisturbed(&mut world, good);
            for guest in [good, bad] {
                world.destroy(guest);
            }
            world.settle_deadlines(100);
            for guest in [good, bad] {
                world.tool.remove_dirs(guest);
            }
            world.settle_deadlines(100);
            world.assert_clean();
        }
    }
}

#[test]
fn a_node_that_we_may_not_write_is_reported_by_name() {
    let (mut world, good, bad) = two_guests();
    let path = format!("{}/vdev-0", world.tool.backend_dir(bad));
    world.tool.change(|store| store.set_permissions(&path, &["n0", "r3", "r5"]));
    world.stub.settle();
    assert_eq!(world.tool.error(bad).as_deref(), Some("13 cannot write vdev-0"));
    assert_undisturbed(&mut world, good);
    // Once that is put right, it goes on by itself.
    world.tool.change(|store| store.set_permissions(&path, &["n0", "b3", "r5"]));
    world.settle_deadlines(10);
    assert_eq!(world.states(bad), ("4".to_string(), 4));
}

#[test]
fn more_guests_than_watches_are_served_all_the_same() {
    let devices = (0..110).map(|bus| Sbdf::from_devfn(0, bus, 0)).collect::<Vec<_>>();
    let mut world = World::new(&devices);
    for (domid, device) in (10..).zip(&devices) {
        let guest = world.create_guest(domid);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[*device]);
    }
    world.settle_deadlines(20);
    for domid in 10..120 {
        assert_eq!(world.states(DomId(domid)), ("4".to_string(), 4), "guest {domid}");
    }
}

#[test]
fn a_guest_that_cannot_be_watched_is_looked_at_once_a_second_and_no_more() {
    let (mut world, _, bad) = two_guests();
    world.xen.store().inject(Fault { kind: Some(4), path_end: String::new(), error: "E2BIG", times: 1 });
    world.settle_deadlines(5);
    assert_eq!(world.states(bad), ("4".to_string(), 4));
    // Other reasons to look do not add to that.
    for _ in 0..50 {
        world.tool.write(&format!("{}/online", world.tool.backend_dir(bad)), "1");
        world.xen.advance_ns(10_000_000);
        world.stub.settle();
    }
    let before = world.xen.store().requests();
    for _ in 0..1_000 {
        world.xen.advance_ns(10_000_000);
        world.stub.settle();
    }
    let requests = world.xen.store().requests() - before;
    assert!((100..200).contains(&requests), "{requests} requests in ten seconds");
}

#[test]
fn a_page_full_of_lies_is_answered_and_harms_nobody() {
    let (mut world, good, bad) = two_guests();
    world.settle();
    let mut random = sim::random::Random::new(7);
    for _ in 0..3_000 {
        let World { stub, guests, .. } = &mut world;
        let page = guests[&bad].page().expect("a page");
        for _ in 0..random.below(20) {
            page.set_word(random.below(1024) * 4, random.word());
        }
        let mut request = Request::conf_read(FIRST, 0, 4);
        match random.below(4) {
            0 => request.cmd = random.word() % 16,
            1 => (request.offset, request.size) = (random.word().cast_signed(), random.word().cast_signed() % 8),
            2 => (request.domain, request.bus, request.devfn) = (random.word(), random.word(), random.word()),
            _ => request.value = random.word(),
        }
        let response = guests[&bad].ask(stub, &request);
        assert!(response.is_some_and(|response| response.code().is_some()), "{request}: {response:?}");
    }
    assert_undisturbed(&mut world, good);
}

#[test]
fn a_guest_that_never_stops_asking_does_not_keep_the_others_waiting() {
    use pciback::Served;
    use pciif::Flags;
    use sim::stub::Turn;

    let (mut world, good, bad) = two_guests();
    world.settle();
    // Its page is always active: each answer finds the flag set again, as a second CPU of the guest could do.
    let page = std::sync::Arc::clone(world.guest(bad).page().expect("a page"));
    let (_, port) = world.guest(bad).keys().expect("keys");
    for _ in 0..100 {
        page.set_word(0, Flags::ACTIVE.bits());
        world.xen.notify(bad, port);
        assert!(world.stub.turn(Turn::Serve));
    }
    // A burst of one event is bounded even if it never ends.
    let ports = world.stub.backend.ports().collect::<Vec<_>>();
    for port in ports {
        assert!(matches!(
            world.stub.backend.serve(port),
            Served::Nothing | Served::Reads | Served::Done | Served::More
        ));
    }
    assert_undisturbed(&mut world, good);
}

/// A function that takes 10 ms for a read, and a guest that has the next request in the page as soon as it has its answer: the turn of the others comes
/// after two of its reads, and it has half of the time at most.
#[test]
fn a_function_that_answers_slowly_does_not_keep_the_others_waiting() {
    const READ_NS: u64 = 10_000_000;
    let (mut world, good, bad) = two_guests();
    world.settle();
    world.xen.make_slow(sim::tool::ecam(A), READ_NS);
    let now_ns = |world: &World| pciback::platform::Clock::now_ns(&world.xen.platform(STUB));
    let status = Request::conf_read(FIRST, 6, 2);
    let page = std::sync::Arc::clone(world.guest(bad).page().expect("a page"));
    // The good guest connected first, and the broker's port was before both.
    let port = (STUB, world.stub.backend.ports().last().expect("a port"));
    world.xen.make_hasty(port, &page, status, 40);
    let start_ns = now_ns(&world);
    world.guest(bad).publish(&status);
    let (mut longest_ns, mut answers) = (0, 0);
    while world.xen.haste_left(port) > 0 {
        let asked_ns = now_ns(&world);
        assert_undisturbed(&mut world, good);
        answers += 1;
        longest_ns = longest_ns.max(now_ns(&world) - asked_ns);
        let left = world.xen.haste_left(port);
        if world.stub.backend.next_deadline_ns().is_some_and(|due_ns| due_ns > now_ns(&world)) {
            world.xen.advance_ns(1_000_000); // nobody else has anything to do
        }
        world.stub.turn(sim::stub::Turn::Run);
        assert!(world.xen.haste_left(port) == left, "served in its turn only");
        assert!(answers < 10_000, "it comes to its end");
    }
    assert!(longest_ns <= 2 * READ_NS, "{longest_ns} ns");
    let took_ns = now_ns(&world) - start_ns;
    assert!(took_ns >= 40 * READ_NS * 7 / 5, "{took_ns} ns for 40 reads of 10 ms each");
    // It is slow, and not refused.
    world.xen.advance_ns(1_000_000_000);
    world.settle();
    assert_eq!(world.ask(bad, &status).map(|response| response.err), Some(0));
}
