//! The image crashes and is started again in the same domain: no guest notices (docs/restart.md).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::time::Duration;

use pciback::Options;
use pciif::{Command, ErrorCode, Request};
use sim::SimXen;
use sim::random::Random;
use sim::stub::Turn;
use sim::world::{STUB, World, device_id};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0x20);

/// The ids that a guest finds for a real device.
fn ids(address: Sbdf) -> u32 {
    u32::from(device_id(address)) << 16 | 0x8086
}

/// A stub with these devices, which have MSI and MSI-X, in its pool.
fn world(devices: &[Sbdf]) -> World {
    World::with(SimXen::new(), devices, Options::default(), |function| function.with_interrupts(4))
}

fn slot(slot: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, slot << 3)
}

fn read(world: &mut World, guest: DomId, at: Sbdf, offset: i32) -> Option<(i32, u32)> {
    world.ask(guest, &Request::conf_read(at, offset, 4)).map(|response| (response.err, response.value))
}

/// All nodes of our directory for a guest.
fn nodes(world: &World, guest: DomId) -> Vec<Option<String>> {
    let names = ["state", "num_devs", "root_num", "root-0", "vdev-0", "state-0", "vdev-1", "state-1", "vdev-2"];
    names.iter().map(|name| world.tool.backend(guest, name)).collect()
}

#[test]
fn connections_devices_and_what_a_guest_had_written_outlive_a_crash() {
    let mut world = world(&[A, B, C]);
    world.broker.start();
    let (first, second) = (world.connect(5, &[A, B]), world.connect(6, &[C]));
    let before = (nodes(&world, first), nodes(&world, second), world.pool_states(), world.xen.held_by(STUB));
    // A base address register is being sized, and decode is on.
    world.ask(first, &Request::conf_write(slot(0), 0x10, 4, u32::MAX)).unwrap();
    world.ask(first, &Request::conf_write(slot(0), 4, 2, 0x0406)).unwrap();
    let seen: Vec<_> = [0, 4, 0x10, 0x14].map(|offset| read(&mut world, first, slot(0), offset)).into();
    for _ in 0..3 {
        world.stub.crash();
        world.settle();
        assert_eq!((nodes(&world, first), nodes(&world, second), world.pool_states(), world.xen.held_by(STUB)), before);
        let now: Vec<_> = [0, 4, 0x10, 0x14].map(|offset| read(&mut world, first, slot(0), offset)).into();
        assert_eq!(now, seen);
        assert_eq!(read(&mut world, second, slot(0), 0), Some((0, ids(C))));
    }
    let restarts = world.tool.read(&format!("/local/domain/{STUB}/data/pcidom/restarts")).unwrap();
    assert_eq!(restarts, "3 0 the simulation");
    // And it all comes to its end as ever.
    for guest in [first, second] {
        world.destroy(guest);
        world.tool.remove_dirs(guest);
    }
    world.settle_deadlines(100);
    world.assert_clean();
}

#[test]
fn a_request_that_waits_in_the_page_is_answered_by_the_next_life() {
    let mut world = world(&[A]);
    let guest = world.connect(5, &[A]);
    world.guest(guest).publish(&Request::conf_read(slot(0), 0, 4));
    world.stub.crash();
    world.settle();
    let response = world.guest(guest).response().unwrap();
    assert_eq!((response.err, response.value), (0, ids(A)));
}

/// How many messages to xenstored it takes after a crash until the guests that wait for an answer have it, and until all is taken over. Of so many guests
/// with four devices each those with these numbers wait.
fn messages(guests: u8, waiting: &[u8]) -> [usize; 2] {
    let devices: Vec<_> =
        (0..guests).map(|guest| [0, 1, 2, 3].map(|number| Sbdf::from_devfn(0, 1 + guest, number << 3))).collect();
    let mut world = world(&devices.concat());
    for (devices, guest) in devices.iter().zip(5..) {
        world.connect(guest, devices);
    }
    for guest in waiting {
        world.guest(DomId(5 + u16::from(*guest))).publish(&Request::conf_read(slot(0), 0, 4));
    }
    world.stub.crash();
    let begun = world.stub.messages();
    let mut answered = None;
    let restarts = format!("/local/domain/{STUB}/data/pcidom/restarts");
    while world.tool.read(&restarts).is_none() {
        assert!(world.stub.messages() < begun + 100_000);
        // As much as there is room for on the way to xenstored.
        for turn in [Turn::Run, Turn::Send(1024), Turn::Receive(usize::MAX)] {
            world.stub.turn(turn);
        }
        world.stub.serve();
        let is_answered = |guest: &u8| world.guests[&DomId(5 + u16::from(*guest))].response().is_some();
        if answered.is_none() && waiting.iter().all(is_answered) {
            answered = Some(world.stub.messages() - begun);
        }
    }
    for guest in waiting {
        let response = world.guest(DomId(5 + u16::from(*guest))).response().unwrap();
        assert_eq!((response.err, response.value), (0, ids(devices[usize::from(*guest)][0])));
    }
    [answered.unwrap(), world.stub.messages() - begun]
}

#[test]
fn a_guest_that_waits_is_answered_before_all_others_are_looked_at() {
    let [alone, _] = messages(1, &[0]);
    // The first, the last, one in between, and two.
    for waiting in [&[0][..], &[63], &[31], &[62, 63]] {
        let [answered, whole] = messages(64, waiting);
        println!(
            "{waiting:?}: {answered} messages until answered ({alone} with one guest), {whole} until all is taken over"
        );
        assert!(answered < 3 * alone, "{waiting:?}: {answered} of {whole}, and {alone} with one guest");
        assert!(whole > 2_000, "{whole}");
    }
}

#[test]
fn interrupts_that_were_on_are_known_and_one_that_was_being_turned_on_comes() {
    let mut world = world(&[A, B]);
    world.broker.start();
    let guest = world.connect(5, &[A, B]);
    let msi = Request::new(Command::EnableMsi, slot(0));
    assert_eq!(world.ask(guest, &msi).unwrap().err, 0);
    world.stub.crash();
    world.settle();
    assert_eq!(world.xen.pirqs().len(), 1, "what is on stays on");
    assert_eq!(world.ask(guest, &msi).unwrap().err, ErrorCode::OpFailed.raw(), "a second time, as without a crash");
    assert_eq!(world.ask(guest, &Request::new(Command::DisableMsi, slot(0))).unwrap().err, 0);
    assert_eq!(world.xen.pirqs().len(), 0);
    // The broker has the request when the image dies; it answers before or after that.
    for is_answered in [false, true] {
        world.guest(guest).publish(&msi);
        world.stub.serve();
        if is_answered {
            world.broker.step();
        }
        world.stub.crash();
        world.settle();
        assert_eq!(world.guest(guest).response().map(|response| response.err), Some(0), "{is_answered}");
        assert_eq!(world.xen.pirqs().len(), 1, "{is_answered}");
        assert_eq!(world.ask(guest, &Request::new(Command::DisableMsi, slot(0))).unwrap().err, 0);
        assert_eq!(world.xen.pirqs().len(), 0, "{is_answered}");
    }
}

#[test]
fn devices_of_a_guest_that_died_meanwhile_come_back_quiesced() {
    let mut world = world(&[A, B]);
    world.broker.start();
    let guest = world.connect(5, &[A, B]);
    world.ask(guest, &Request::conf_write(slot(0), 4, 2, 0x0406)).unwrap();
    world.destroy(guest);
    world.tool.remove_dirs(guest);
    world.stub.crash();
    world.settle_deadlines(100);
    world.assert_clean();
    assert!(world.pool_states().values().all(|state| state == "free"), "{:?}", world.pool_states());
}

#[test]
fn a_frontend_that_is_put_aside_gets_errors_and_the_others_are_served() {
    let mut world = world(&[A, B]);
    let (bad, good) = (world.connect(5, &[A]), world.connect(6, &[B]));
    world.xen.put_aside(STUB, bad);
    world.stub.crash();
    world.settle();
    assert_eq!(read(&mut world, bad, slot(0), 0).map(|(err, _)| err), Some(ErrorCode::DevNotFound.raw()));
    assert_eq!(read(&mut world, good, slot(0), 0), Some((0, ids(B))));
    assert!(world.tool.error(bad).unwrap().contains("crashed the backend"), "{:?}", world.tool.error(bad));
    assert_eq!(world.states(bad).1, 4);
}

#[test]
fn a_frontend_that_is_put_aside_gets_no_further_device_and_no_new_connection() {
    let mut world = world(&[A, B]);
    let bad = world.connect(5, &[A]);
    world.xen.put_aside(STUB, bad);
    world.stub.crash();
    world.settle();
    world.tool.hot_attach(bad, &[(B, None)]);
    world.settle();
    assert_eq!(world.tool.entries(bad)[1], (B, "6".to_string()));
    assert_eq!(world.tool.pool_state(B).as_deref(), Some("free"));
}

#[test]
fn a_driver_that_left_while_the_image_was_down_leaves_its_devices_quiesced() {
    let mut world = world(&[A]);
    world.broker.start();
    let guest = world.connect(5, &[A]);
    assert_eq!(world.ask(guest, &Request::conf_write(slot(0), 4, 2, 0x0406)).unwrap().err, 0);
    assert_eq!(world.ask(guest, &Request::new(Command::EnableMsi, slot(0))).unwrap().err, 0);
    // It closes, and its keys are those of no page that is mapped.
    world.guest(guest).unload();
    world.guest(guest).forget();
    for key in ["pci-op-ref", "event-channel"] {
        world.guest(guest).write(key, "4000").unwrap();
    }
    world.stub.crash();
    world.settle_deadlines(20);
    assert_eq!(world.xen.pirqs().len(), 0, "vectors of a driver that is gone");
    let is_quiesced = world.xen.with_function(sim::tool::ecam(A), |function| function.is_quiesced());
    assert_eq!(is_quiesced, Some(true));
}

#[test]
fn msi_that_a_guest_turned_off_without_a_broker_goes_off_in_the_next_life() {
    let mut world = world(&[A]);
    world.broker.start();
    let guest = world.connect(5, &[A]);
    let msi = Request::new(Command::EnableMsi, slot(0));
    assert_eq!(world.ask(guest, &msi).unwrap().err, 0);
    world.broker.kill();
    world.work();
    assert_eq!(world.ask(guest, &Request::new(Command::DisableMsi, slot(0))).unwrap().err, 0);
    world.stub.crash();
    world.settle();
    world.broker.start();
    world.settle_deadlines(20);
    assert_eq!(world.xen.pirqs().len(), 0);
    assert_eq!(world.ask(guest, &msi).unwrap().err, 0);
}

#[test]
fn what_xenstored_refuses_at_first_is_taken_over_later() {
    // XS_DIRECTORY and XS_READ.
    for (kind, path) in [(1, "3/pool"), (1, "3/backend/pci"), (2, "pool/0000-00-03-0/ecam")] {
        let mut world = world(&[A, B]);
        let guests = [world.connect(5, &[A]), world.connect(6, &[B])];
        let held = world.xen.held_by(STUB);
        let fault = xenstored::Fault { kind: Some(kind), path_end: path.to_string(), error: "EAGAIN", times: 1 };
        world.xen.store().inject(fault);
        world.stub.crash();
        world.settle_deadlines(10);
        for (guest, device) in guests.into_iter().zip([A, B]) {
            assert_eq!(read(&mut world, guest, slot(0), 0), Some((0, ids(device))), "{kind} {path}");
            assert_eq!(world.states(guest), ("4".to_string(), 4), "{kind} {path}");
            assert_eq!(world.tool.error(guest), None, "{kind} {path}");
        }
        assert_eq!(world.xen.held_by(STUB), held, "{kind} {path}");
    }
}

/// Where the image crashes in a [`story`].
#[derive(Clone, Copy, Debug)]
enum Crash {
    Never,
    /// In the turn of the shell with this number: before it acts, or with some bytes of a message moved.
    Turn(usize),
    /// Before or after one of its calls to Xen.
    Call(usize),
    /// In several turns.
    Turns([usize; 3]),
}

/// What a guest, the tool and the broker do in one life, step by step: connect, hot-plug, interrupts, writes, unplug, plug the same again.
fn story(crash: Crash) -> (World, Vec<Option<(i32, u32)>>) {
    let mut world = world(&[A, B, C]);
    world.broker.start();
    match crash {
        Crash::Never => {}
        Crash::Turn(number) => world.stub.crash_at(number),
        Crash::Call(number) => world.xen.crash_at_call(STUB, number),
        Crash::Turns(numbers) => numbers.iter().for_each(|number| world.stub.crash_at(*number)),
    }
    let mut answers = Vec::new();
    let go = |world: &mut World| {
        for _ in 0..400 {
            let has_moved = world.steps(10);
            if !world.broker.step() && !has_moved {
                break;
            }
        }
        world.settle_deadlines(5);
    };
    let guest = world.create_guest(5);
    world.guest(guest).scans_everything = false;
    world.tool.attach(guest, &[A]);
    go(&mut world);
    world.guest(guest).publish(&Request::conf_write(slot(0), 4, 2, 0x0406));
    go(&mut world);
    answers.push(world.guest(guest).response().map(|response| (response.err, response.value)));
    world.guest(guest).publish(&Request::new(Command::EnableMsi, slot(0)));
    go(&mut world);
    answers.push(world.guest(guest).response().map(|response| (response.err, 0)));
    answers.push(u32::try_from(world.xen.pirqs().len()).ok().map(|vectors| (0, vectors)));
    world.tool.hot_attach(guest, &[(B, None), (C, None)]);
    go(&mut world);
    world.tool.hot_detach(guest, &[A]);
    go(&mut world);
    world.tool.remove_entries(guest, &[A]);
    go(&mut world);
    // One that is to leave, and to come at once.
    world.tool.hot_change(guest, &[(B, None)], &[B]);
    go(&mut world);
    world.tool.remove_entries(guest, &[B]);
    go(&mut world);
    for at in 0..3 {
        answers.push(read(&mut world, guest, slot(at), 0));
    }
    (world, answers)
}

/// What is left of a story: nodes, the pool, resources, vectors, the guest's states, and the answers that it got.
fn ending((world, answers): &(World, Vec<Option<(i32, u32)>>)) -> String {
    let guest = DomId(5);
    let states = world.guests[&guest].states.borrow().clone();
    let (held, pirqs) = (world.xen.held_by(STUB), world.xen.pirqs());
    format!(
        "{:?}\n{:?}\n{held:?} {pirqs:?} {:?} {states:?} {answers:?}",
        nodes(world, guest),
        world.pool_states(),
        world.tool.error(guest)
    )
}

#[test]
fn a_crash_at_any_step_of_a_life_changes_nothing_that_a_guest_sees() {
    let whole = story(Crash::Never);
    let wanted = ending(&whole);
    assert_eq!(whole.0.states(DomId(5)), ("4".to_string(), 4));
    // Every third step; each with `LIVES=` in the environment.
    let every = if std::env::var_os("LIVES").is_some() { 1 } else { 3 };
    let first = world(&[A, B, C]).stub.turns();
    let turns = (first + 1..whole.0.stub.turns()).step_by(every).map(Crash::Turn);
    let calls = (0..whole.0.xen.moments(STUB)).map(Crash::Call);
    let mut crashes = 0;
    for crash in turns.chain(calls) {
        let story = story(crash);
        crashes += usize::from(story.0.tool.read(&format!("/local/domain/{STUB}/data/pcidom/restarts")).is_some());
        assert_eq!(ending(&story), wanted, "{crash:?}");
    }
    println!("{crashes} crashes");
    assert!(crashes > 400 / every, "{crashes}");
}

/// The later ones hit lives that are taking over what the first has left, or have just done so.
#[test]
fn crashes_that_follow_each_other_change_nothing_that_a_guest_sees() {
    let whole = story(Crash::Never);
    let wanted = ending(&whole);
    let first = world(&[A, B, C]).stub.turns();
    let mut random = Random::new(13);
    let stories = if std::env::var_os("LIVES").is_some() { 20_000 } else { 300 };
    for _ in 0..stories {
        let begin = first + 1 + random.below(whole.0.stub.turns() - first);
        let second = begin + 1 + random.below(80);
        let crash = Crash::Turns([begin, second, second + 1 + random.below(80)]);
        assert_eq!(ending(&story(crash)), wanted, "{crash:?}");
    }
}

/// After the crash it is given back once, because its entry has no address yet, and taken again.
#[test]
fn a_crash_while_a_device_comes_that_nobody_could_quiesce_has_it_come_all_the_same() {
    for moment in 0..120 {
        let mut world = world(&[A, B]);
        world.broker.start();
        let guest = world.connect(5, &[B, A]);
        assert_eq!(world.ask(guest, &Request::conf_write(slot(1), 4, 2, 0x0406)).unwrap().err, 0);
        world.broker.kill();
        world.quiesce(guest, A); // by a command in dom0
        world.tool.hot_detach(guest, &[A]);
        world.settle_deadlines(10);
        world.tool.remove_entries(guest, &[A]);
        world.settle_deadlines(10);
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
        world.broker.start();
        world.settle_deadlines(10);
        world.stub.crash_at(world.stub.turns() + moment);
        world.tool.hot_attach(guest, &[(A, None)]);
        // It is not refused in between either: a command that waits for it would fail.
        for _ in 0..200 {
            world.steps(5);
            assert_eq!(world.tool.error(guest), None, "crash at {moment}");
        }
        world.settle_deadlines(10);
        assert_eq!(
            world.tool.entries(guest)[1],
            (A, "3".to_string()),
            "crash at {moment}: {:?}",
            world.tool.error(guest)
        );
    }
}

/// A guest has let go of a device that it had used, and the broker has not quiesced it yet.
fn let_go() -> (World, DomId) {
    let mut world = world(&[A, B]);
    world.broker.start();
    let guest = world.connect(5, &[B, A]);
    assert_eq!(world.ask(guest, &Request::conf_write(slot(1), 4, 2, 0x0406)).unwrap().err, 0);
    world.tool.hot_detach(guest, &[A]);
    // Without the broker, until the guest is done.
    for _ in 0..200 {
        world.steps(5);
    }
    (world, guest)
}

#[test]
fn a_crash_while_a_device_that_was_let_go_is_quiesced_does_not_ask_the_guest_again() {
    let (mut world, guest) = let_go();
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));
    world.stub.crash();
    world.settle_deadlines(10);
    let rounds = world.guests[&guest].states.borrow().iter().filter(|state| **state == 7).count();
    assert_eq!((rounds, world.states(guest)), (1, ("4".to_string(), 4)));
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
}

/// Its `state` says for some steps more that the guest has it.
#[test]
fn a_crash_when_a_device_that_was_let_go_has_just_been_quiesced_does_not_ask_the_guest_again() {
    for moment in 0..40 {
        let (mut world, guest) = let_go();
        world.stub.crash_at(world.stub.turns() + moment);
        world.settle_deadlines(10);
        let rounds = world.guests[&guest].states.borrow().iter().filter(|state| **state == 7).count();
        assert_eq!((rounds, world.states(guest)), (1, ("4".to_string(), 4)), "crash at {moment}");
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"), "crash at {moment}");
    }
}

#[test]
fn many_crashes_at_any_moment_leave_nothing_behind() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut world = world(&[A, B, C]);
        world.broker.start();
        let guests = [world.connect(5, &[A]), world.connect(6, &[B, C])];
        for _ in 0..60 {
            let count = random.below(600);
            match random.below(12) {
                0 => world.stub.crash(),
                1..4 => drop(world.stub.turn(Turn::Run)),
                4..6 => drop(world.stub.turn(Turn::Send(count))),
                6..8 => drop(world.stub.turn(Turn::Receive(count))),
                8 => drop(world.stub.turn(Turn::Serve)),
                9 => drop(world.broker.step()),
                10 => {
                    let guest = guests[random.below(2)];
                    if world.guest(guest).response().is_some() {
                        world.guest(guest).publish(&Request::conf_read(slot(0), 0, 4));
                    }
                }
                _ => {
                    let World { stub, guests: all, .. } = &mut world;
                    all.values_mut().for_each(|guest| {
                        guest.step(stub);
                    });
                }
            }
        }
        world.settle_deadlines(20);
        for (guest, device) in guests.into_iter().zip([A, B]) {
            assert_eq!(world.states(guest), ("4".to_string(), 4), "seed {seed}");
            assert_eq!(read(&mut world, guest, slot(0), 0), Some((0, ids(device))), "seed {seed}");
            world.destroy(guest);
            world.tool.remove_dirs(guest);
        }
        world.settle_deadlines(100);
        world.assert_clean();
    }
}

#[test]
fn an_image_that_hangs_is_started_again_and_the_guest_that_waits_has_its_answer() {
    const LOOK: Duration = Duration::from_millis(400);
    let mut world = world(&[A]);
    world.broker.is_watchdog = true;
    world.broker.start();
    let guest = world.connect(5, &[A]);
    let look = |world: &mut World| {
        world.xen.run_for(STUB, LOOK);
        world.xen.advance_ns(u64::try_from(LOOK.as_nanos()).unwrap());
        world.broker.step();
    };
    // Busy for half a minute, and it answers.
    for _ in 0..75 {
        look(&mut world);
        world.settle();
    }
    assert_eq!(world.xen.take_interrupted(), []);
    // It is given the processor and does nothing.
    let begun_ns = world.xen.now_ns();
    world.guest(guest).publish(&Request::conf_read(slot(0), 0, 4));
    let interrupted = (0..10).find_map(|_| {
        look(&mut world);
        world.xen.take_interrupted().pop()
    });
    assert_eq!(interrupted, Some(STUB));
    assert!(world.xen.now_ns() - begun_ns < 1_600_000_001, "pcifront waits for two seconds");
    world.stub.crash(); // what an NMI does to an image
    world.settle();
    let response = world.guest(guest).response().unwrap();
    assert_eq!((response.err, response.value), (0, ids(A)));
}
