//! Guests reset their functions (docs/config-space.md, "Resets"): the broker starts it, the stub waits, the broker writes back what was lost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciback::Options;
use pciback::platform::Width;
use pcidom_abi::BrokerCommand;
use pciif::{Command, Request};
use sim::SimXen;
use sim::broker::Fault;
use sim::device::Function;
use sim::tool::ecam;
use sim::world::{STUB, World, device_id};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);

/// Device Control of these functions, and its bit.
const CONTROL: i32 = 0x48;
const INITIATE: u32 = 0x8000;
const MS: u64 = 1_000_000;
const ONES: Option<(i32, u32)> = Some((0, u32::MAX));

fn slot(slot: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, slot << 3)
}

/// Guest 5 has A, guest 6 has B; both can be reset, and the broker is there.
fn world() -> World {
    let change = |function: Function| function.with_interrupts(4).with_reset();
    let mut world = World::with(SimXen::new(), &[A, B], Options::default(), change);
    world.tool.offer_reset(A);
    world.tool.offer_reset(B);
    world.broker.start();
    world.settle();
    world.connect(5, &[A]);
    world.connect(6, &[B]);
    world
}

const GUEST: DomId = DomId(5);
const OTHER: DomId = DomId(6);

fn ask(world: &mut World, guest: DomId, request: &Request) -> Option<(i32, u32)> {
    world.ask(guest, request).map(|response| (response.err, response.value))
}

fn read(world: &mut World, guest: DomId, offset: i32) -> Option<(i32, u32)> {
    ask(world, guest, &Request::conf_read(slot(0), offset, 4))
}

fn reset(world: &mut World) -> Option<i32> {
    ask(world, GUEST, &Request::conf_write(slot(0), CONTROL, 2, INITIATE | 0x2010)).map(|(err, _)| err)
}

fn ids(address: Sbdf) -> Option<(i32, u32)> {
    Some((0, u32::from(device_id(address)) << 16 | 0x8086))
}

fn function<R>(world: &World, work: impl FnOnce(&mut Function) -> R) -> R {
    world.xen.with_function(ecam(A), work).unwrap()
}

/// Lets the stub go on after so much time.
fn pass(world: &mut World, ms: u64) {
    world.xen.advance_ns(ms * MS);
    world.work();
}

fn assert_whole(world: &World, when: &str) {
    let [command, bar] = function(world, |function| [4, 0x10].map(|at| function.read(at, Width::Dword)));
    assert_eq!((command & 0x2, bar), (2, 0xfeb0_0000), "{when}");
}

#[test]
fn a_guest_resets_its_function_and_has_it_again_after_a_tenth_of_a_second() {
    let mut world = world();
    assert_eq!(read(&mut world, GUEST, 0x44).map(|(_, caps)| caps >> 28 & 1), Some(1), "it is shown");
    ask(&mut world, GUEST, &Request::conf_write(slot(0), 4, 2, 0x0406)).unwrap();
    assert_eq!(world.ask_msix(GUEST, slot(0), &[0, 1]).0.unwrap().err, 0);
    let pirqs = world.xen.pirqs();
    assert_eq!(reset(&mut world), Some(0));
    assert_eq!(function(&world, |function| (function.resets, function.has_msix_on())), (1, false));
    // As long as it may not be touched, it reads as ones, and writes are lost.
    for _ in 0..3 {
        assert_eq!(read(&mut world, GUEST, 0), ONES);
        assert_eq!(ask(&mut world, GUEST, &Request::conf_read(slot(0), 4, 2)), Some((0, 0xffff)));
        assert_eq!(ask(&mut world, GUEST, &Request::conf_write(slot(0), 4, 2, 6)), Some((0, 6)));
        assert_eq!(ask(&mut world, GUEST, &Request::new(Command::EnableMsi, slot(0))).map(|(err, _)| err), Some(-5));
        assert_eq!(read(&mut world, OTHER, 0), ids(B), "nobody else waits");
        pass(&mut world, 33);
    }
    assert_eq!(world.broker.log.iter().filter(|(cmd, _)| *cmd == BrokerCommand::Restore.raw()).count(), 0);
    pass(&mut world, 1);
    assert_eq!(read(&mut world, GUEST, 0), ids(A));
    assert_whole(&world, "afterwards");
    assert!(function(&world, |function| function.has_msix_on()), "vectors are the broker's to turn on again");
    assert_eq!(world.xen.pirqs(), pirqs);
    // As reset: neither decoding nor bus mastering. Then the guest's driver sets it up.
    assert_eq!(ask(&mut world, GUEST, &Request::conf_read(slot(0), 4, 2)), Some((0, 0)));
    assert_eq!(ask(&mut world, GUEST, &Request::conf_write(slot(0), 4, 2, 6)), Some((0, 6)));
    assert_eq!(ask(&mut world, GUEST, &Request::conf_read(slot(0), 4, 2)), Some((0, 6)));
    assert_eq!(ask(&mut world, GUEST, &Request::new(Command::DisableMsix, slot(0))).map(|(err, _)| err), Some(0));
    assert_eq!(world.xen.pirqs(), []);
    world.settle_deadlines(10);
    assert_eq!(world.stub.backend.next_deadline_ns(), None, "nothing wakes an idle stub");
}

#[test]
fn a_function_of_which_dom0_knows_no_reset_shows_none_and_the_write_is_dropped() {
    let change = |function: Function| function.with_reset();
    let mut world = World::with(SimXen::new(), &[A], Options::default(), change);
    world.broker.start();
    world.connect(5, &[A]);
    assert_eq!(read(&mut world, GUEST, 0x44).map(|(_, caps)| caps >> 28 & 1), Some(0));
    assert_eq!(reset(&mut world), Some(0));
    assert_eq!(function(&world, |function| function.resets), 0);
    assert_eq!(read(&mut world, GUEST, 0), ids(A));
}

#[test]
fn one_that_takes_longer_is_waited_for_and_one_that_never_comes_is_told() {
    let mut world = world();
    function(&world, |function| function.falls_silent = true);
    assert_eq!(reset(&mut world), Some(0));
    pass(&mut world, 3000);
    assert_eq!(read(&mut world, GUEST, 0), ONES);
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));
    function(&world, |function| function.is_silent = false);
    world.settle_deadlines(20);
    assert_eq!(read(&mut world, GUEST, 0), ids(A));
    assert_whole(&world, "late");

    assert_eq!(reset(&mut world), Some(0));
    for _ in 0..12 {
        world.settle_deadlines(1);
    }
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("absent 5"));
    assert_eq!(read(&mut world, GUEST, 0), Some((-1, u32::MAX)));
    assert!(world.tool.error(GUEST).unwrap().contains("is gone"), "{:?}", world.tool.error(GUEST));
    // It is still looked for, ever less often, and comes back.
    function(&world, |function| function.is_silent = false);
    world.settle_deadlines(5);
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));
    assert_eq!(read(&mut world, GUEST, 0), ids(A));
    assert_whole(&world, "very late");
}

#[test]
fn another_function_in_its_place_is_nothing_to_the_guest() {
    let mut world = world();
    assert_eq!(reset(&mut world), Some(0));
    world.xen.plug(ecam(A), Function::endpoint(0x10de, 1));
    world.settle_deadlines(10);
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("absent 5"));
    assert_eq!(read(&mut world, GUEST, 0), Some((-1, u32::MAX)));
    assert_eq!(world.stub.backend.next_deadline_ns(), None);
}

#[test]
fn a_broker_that_fails_or_is_away_does_it_later_and_the_function_does_not_answer_before() {
    for fault in [Some(Fault::NoConfig), Some(Fault::DIE_BEFORE), Some(Fault::DIE_AFTER), None] {
        let mut world = world();
        let when = format!("{fault:?}");
        match fault {
            Some(fault) => world.broker.faults.push_back(fault),
            None => world.broker.kill(),
        }
        // Where it dies, nobody answers until its time is over.
        if reset(&mut world).is_none() {
            world.run_out_of_time();
            assert_eq!(world.guest(GUEST).response().map(|response| response.err), Some(0), "{when}");
        }
        let resets = function(&world, |function| function.resets);
        assert_eq!(read(&mut world, GUEST, 0), ONES, "{when}");
        if !world.broker.is_running() {
            world.broker.start();
        }
        world.settle_deadlines(10);
        assert_eq!(read(&mut world, GUEST, 0), ids(A), "{when}");
        assert!(function(&world, |function| function.resets) > 0, "{when}: {resets} before");
        assert_whole(&world, &when);
    }
}

#[test]
fn what_cannot_be_written_back_is_tried_again_and_a_broker_that_never_does_is_told_of() {
    let mut world = world();
    assert_eq!(reset(&mut world), Some(0));
    world.broker.faults.push_back(Fault::NoConfig);
    pass(&mut world, 100);
    assert_eq!(read(&mut world, GUEST, 0), ONES);
    world.settle_deadlines(5);
    assert_eq!(read(&mut world, GUEST, 0), ids(A));
    assert_whole(&world, "the second time");

    world.broker.faults.extend([Fault::NoConfig; 8]);
    assert_eq!(reset(&mut world), Some(0));
    world.settle_deadlines(7);
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("absent 5"));
    let error = world.tool.error(GUEST).unwrap();
    assert!(error.contains("was not reset as its guest asked for"), "{error}");
    world.settle_deadlines(7);
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));
    assert_eq!((read(&mut world, GUEST, 0), function(&world, |function| function.resets)), (ids(A), 2));
}

#[test]
fn a_guest_that_resets_in_a_loop_keeps_the_broker_no_busier_than_once_a_second() {
    let mut world = world();
    let begun_ns = world.xen.now_ns();
    for _ in 0..30 {
        assert_eq!(reset(&mut world), Some(0));
        assert_eq!(reset(&mut world), Some(0), "lost, like each write");
        world.settle_deadlines(5);
    }
    let seconds = (world.xen.now_ns() - begun_ns) / (1000 * MS);
    assert!((24..=26).contains(&seconds), "{seconds} s");
    assert_eq!(function(&world, |function| function.resets), 30);
}

#[test]
fn a_guest_that_goes_in_the_middle_of_it_leaves_its_function_whole_and_quiesced() {
    for ms in [0, 50, 100] {
        let mut world = world();
        assert_eq!(reset(&mut world), Some(0));
        pass(&mut world, ms);
        world.destroy(GUEST);
        world.tool.remove_dirs(GUEST);
        world.settle_deadlines(20);
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"), "after {ms} ms");
        assert_whole(&world, "for the next guest");
        assert!(function(&world, |function| function.is_quiesced()));
        let next = world.connect(7, &[A]);
        assert_eq!(read(&mut world, next, 0), ids(A));
    }
}

#[test]
fn a_function_that_does_not_answer_for_a_while_is_whole_when_it_does() {
    for (looks, is_told) in [(0, false), (2, false), (3, true), (8, true)] {
        let mut world = world();
        ask(&mut world, GUEST, &Request::conf_write(slot(0), 4, 2, 0x0406)).unwrap();
        assert_eq!(world.ask_msix(GUEST, slot(0), &[0, 1]).0.unwrap().err, 0);
        let when = format!("after {looks} looks");
        function(&world, |function| {
            function.falls_silent = true;
            function.reset();
        });
        assert_eq!(read(&mut world, GUEST, 0), ONES, "{when}");
        world.settle_deadlines(looks);
        assert_eq!(read(&mut world, OTHER, 0), ids(B), "{when}");
        let state = world.tool.pool_state(A).unwrap();
        assert_eq!(state, if is_told { "absent 5" } else { "assigned 5" }, "{when}");
        function(&world, |function| function.is_silent = false);
        world.settle_deadlines(2);
        assert_eq!(read(&mut world, GUEST, 0), ids(A), "{when}");
        assert_whole(&world, &when);
        assert!(function(&world, |function| function.has_msix_on()), "{when}");
        assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"), "{when}");
        let command = ask(&mut world, GUEST, &Request::conf_read(slot(0), 4, 2)).unwrap().1;
        assert_eq!(command, 0x0402, "{when}: as the guest had it, but for bus mastering");
        world.settle_deadlines(10);
        assert_eq!(world.stub.backend.next_deadline_ns(), None, "{when}");
    }
}

#[test]
fn a_crash_while_a_function_does_not_answer_goes_on_looking() {
    for is_reset in [false, true] {
        let mut world = world();
        ask(&mut world, GUEST, &Request::conf_write(slot(0), 4, 2, 0x0402)).unwrap();
        function(&world, |function| function.falls_silent = true);
        if is_reset {
            assert_eq!(reset(&mut world), Some(0));
        } else {
            function(&world, Function::reset);
        }
        assert_eq!(read(&mut world, GUEST, 0), ONES);
        world.stub.crash();
        world.settle();
        assert_eq!(read(&mut world, GUEST, 0), ONES);
        function(&world, |function| function.is_silent = false);
        world.settle_deadlines(5);
        // What it has was not to be seen when the next life began.
        assert_eq!((read(&mut world, GUEST, 0), read(&mut world, GUEST, 8)), (ids(A), Some((0, 0x0200_0001))));
        assert_whole(&world, "in the next life");
        let command = ask(&mut world, GUEST, &Request::conf_read(slot(0), 4, 2)).unwrap().1;
        assert_eq!(command, if is_reset { 0 } else { 0x0402 });
        assert_eq!(world.ask_msix(GUEST, slot(0), &[0, 1]).0.unwrap().err, 0);
    }
}

#[test]
fn addresses_that_a_guest_writes_back_are_written_where_the_function_has_lost_them() {
    let mut world = world();
    let restores =
        |world: &World| world.broker.log.iter().filter(|(cmd, _)| *cmd == BrokerCommand::Restore.raw()).count();
    let address = Request::conf_write(slot(0), 0x10, 4, 0xfeb0_0000);
    let size = Request::conf_write(slot(0), 0x10, 4, u32::MAX);
    for request in [&size, &address, &address] {
        assert_eq!(ask(&mut world, GUEST, request).map(|(err, _)| err), Some(0));
    }
    assert_eq!(restores(&world), 0, "it has lost nothing");
    // Somebody has reset it, and it answered at once.
    function(&world, Function::reset);
    for request in
        [&size, &Request::conf_write(slot(0), 0x10, 4, 0xfea0_0000), &Request::conf_write(slot(0), 0x14, 4, 0)]
    {
        assert_eq!(ask(&mut world, GUEST, request).map(|(err, _)| err), Some(0));
    }
    assert_eq!(restores(&world), 0, "none of these is the true address of anything");
    world.broker.kill();
    assert_eq!(ask(&mut world, GUEST, &address).map(|(err, _)| err), Some(-3));
    world.broker.start();
    world.settle_deadlines(3);
    assert_eq!(ask(&mut world, GUEST, &address).map(|(err, _)| err), Some(0));
    assert_whole(&world, "written back");
    assert_eq!(restores(&world), 1);
}

#[test]
fn a_crash_at_any_moment_of_it_loses_neither_the_reset_nor_the_function() {
    let mut moment = 0;
    loop {
        let mut world = world();
        assert_eq!(world.ask_msix(GUEST, slot(0), &[0, 1]).0.unwrap().err, 0);
        let pirqs = world.xen.pirqs();
        let before = world.xen.moments(STUB);
        world.xen.crash_at_call(STUB, before + moment);
        let _ = reset(&mut world);
        world.settle_deadlines(20);
        let is_over = world.xen.moments(STUB) < before + moment;
        let when = format!("moment {moment}");
        assert_eq!(read(&mut world, GUEST, 0), ids(A), "{when}");
        assert!((1..=2).contains(&function(&world, |function| function.resets)), "{when}");
        assert_whole(&world, &when);
        assert!(function(&world, |function| function.has_msix_on()), "{when}");
        assert_eq!(world.xen.pirqs(), pirqs, "{when}");
        assert_eq!(read(&mut world, OTHER, 0), ids(B), "{when}");
        if is_over {
            return;
        }
        moment += 1;
    }
}
