//! Writes and interrupts through dom0's broker: what a guest gets, and what is left behind when anybody stops, dies or lies.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciback::Options;
use pciback::platform::Width;
use pcidom_abi::BrokerCommand;
use pciif::{Command, ErrorCode, Request};
use sim::broker::Fault;
use sim::tool::ecam;
use sim::world::{STUB, World};
use sim::{SimXen, logs};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
/// Where a guest sees its only device.
const V: Sbdf = Sbdf::from_devfn(0, 0, 0);
const COMMAND: u16 = 4;
const GSI: u32 = 11;

const ENABLE_MSI: Command = Command::EnableMsi;
const ENABLE_MSIX: Command = Command::EnableMsix;
const DISABLE_MSI: Command = Command::DisableMsi;
const DISABLE_MSIX: Command = Command::DisableMsix;

/// Two devices with interrupts and a broker that runs.
fn world() -> World {
    let mut world = World::with(SimXen::new(), &[A, B], Options::default(), |function| function.with_interrupts(8));
    world.broker.start();
    world.work();
    world
}

fn write(offset: i32, size: i32, value: u32) -> Request {
    Request::conf_write(V, offset, size, value)
}

fn bus_master() -> Request {
    write(4, 2, 0x0407)
}

fn read_ids() -> Request {
    Request::conf_read(V, 0, 4)
}

/// The answer's error and value.
fn ask(world: &mut World, guest: DomId, request: &Request) -> (i32, u32) {
    let response = world.ask(guest, request).expect("an answer");
    (response.err, response.value)
}

fn command(world: &mut World, guest: DomId, command: Command) -> (i32, u32) {
    ask(world, guest, &Request::new(command, V))
}

fn hardware(world: &World, device: Sbdf, offset: u16, width: Width) -> u32 {
    world.xen.with_function(ecam(device), |function| function.read(offset, width)).expect("plugged in")
}

fn is_quiesced(world: &World, device: Sbdf) -> bool {
    world.xen.with_function(ecam(device), |function| function.is_quiesced()).expect("plugged in")
}

/// Ends all guests and checks that nothing of them is left.
fn assert_nothing_left(mut world: World) {
    world.broker.faults.clear();
    world.broker.go_on();
    if !world.broker.is_running() {
        world.broker.start();
    }
    world.settle();
    for guest in world.guests.keys().copied().collect::<Vec<_>>() {
        world.guest(guest).unload();
        world.settle();
        assert_eq!(world.xen.pirqs().iter().filter(|(owner, ..)| *owner == guest).count(), 0, "leaked");
        world.destroy(guest);
        world.settle();
        world.tool.remove_dirs(guest);
        world.settle();
    }
    assert!(world.pool_states().values().all(|state| state == "free"), "{:?}", world.pool_states());
    assert!(is_quiesced(&world, A) && is_quiesced(&world, B));
    world.assert_clean();
}

#[test]
fn the_ring_is_announced_before_the_version() {
    let world = World::new(&[]);
    let dir = format!("/local/domain/{STUB}/data/pcidom");
    for name in ["ring-ref", "event-channel"] {
        let value = world.tool.read(&format!("{dir}/{name}")).expect("announced");
        assert!(value.parse::<u32>().is_ok(), "{name} is {value}");
    }
    world.assert_clean();
}

#[test]
fn a_stub_without_a_ring_serves_reads() {
    let xen = SimXen::new();
    xen.fail_next("offer_ring", xen_types::Errno::ENOMEM);
    let mut world = World::with(xen, &[A], Options::default(), |function| function);
    assert!(world.stub.backend.is_ready());
    let guest = world.connect(5, &[A]);
    assert_eq!(ask(&mut world, guest, &read_ids()).0, 0);
    assert_eq!(ask(&mut world, guest, &bus_master()).0, -3);
    assert_eq!(command(&mut world, guest, ENABLE_MSI), (-5, 0));
}

#[test]
fn writes_reach_the_hardware_bit_by_bit() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    assert_eq!(ask(&mut world, guest, &bus_master()), (0, 0x0407));
    assert_eq!(hardware(&world, A, COMMAND, Width::Word), 0x0407, "bus master is new, the rest was there");
    assert_eq!(ask(&mut world, guest, &write(4, 2, 0x0000)).0, 0);
    assert_eq!(hardware(&world, A, COMMAND, Width::Word), 0x0003, "decode stays on, INTx comes on");
    assert_eq!(ask(&mut world, guest, &Request::conf_read(V, 4, 2)), (0, 0));
    assert_eq!(ask(&mut world, guest, &write(0x4c, 2, 0x0103)).0, 0);
    assert_eq!(hardware(&world, A, 0x4c, Width::Word), 3, "the power state, and no PME");
    let asked = world.broker.log.len();
    assert_eq!(ask(&mut world, guest, &write(4, 2, 0x0143)).0, 0);
    assert_eq!(ask(&mut world, guest, &write(0x10, 4, u32::MAX)).0, 0);
    assert_eq!(ask(&mut world, guest, &write(0x62, 2, 0x8000)).0, -3);
    assert_eq!(ask(&mut world, guest, &write(0x100, 4, 1)).0, 0);
    assert_eq!(world.broker.log.len(), asked, "nobody is asked about what is ours, denied or dropped");
    assert_nothing_left(world);
}

#[test]
fn a_write_to_two_registers_is_answered_after_both() {
    for (faults, want) in [(vec![], 0), (vec![Fault::NoConfig], -3)] {
        let mut world = world();
        let guest = world.connect(5, &[A]);
        world.broker.faults.extend(faults);
        // Cache Line Size and the start of the self-test, which this device has.
        let asked = world.broker.log.len();
        assert_eq!(ask(&mut world, guest, &write(0x0c, 4, 0x4000_0010)).0, want);
        assert_eq!(world.broker.log.len(), asked + 2);
        assert_eq!(hardware(&world, A, 0x0f, Width::Byte), 0xc0, "the second does not depend on the first");
        assert_eq!(hardware(&world, A, 0x0c, Width::Byte), if want == 0 { 0x10 } else { 0 });
    }
}

#[test]
fn msi_and_msi_x_come_and_go() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    let (err, pirq) = command(&mut world, guest, ENABLE_MSI);
    assert_eq!(err, 0);
    assert_eq!(world.xen.pirqs(), [(guest, u16::try_from(pirq).expect("a pirq"), A)]);
    assert_eq!(ask(&mut world, guest, &Request::conf_read(V, 0x3c, 1)), (0, GSI), "the line stays the line");
    assert_eq!(command(&mut world, guest, ENABLE_MSI), (-5, 0), "on already");
    assert_eq!(world.ask_msix(guest, V, &[0]).0.expect("an answer").err, -5, "not while MSI is on");
    assert_eq!(world.xen.pirqs().len(), 1);
    assert_eq!(command(&mut world, guest, DISABLE_MSI), (0, GSI));
    assert_eq!(world.xen.pirqs(), []);

    let several = Request { info: 4, ..Request::new(Command::EnableMultiMsi, V) };
    let (err, first) = ask(&mut world, guest, &several);
    assert_eq!((err, world.xen.pirqs().len()), (0, 4));
    assert_eq!(u32::from(world.xen.pirqs()[0].1), first);
    assert_eq!(command(&mut world, guest, DISABLE_MSIX), (0, GSI), "either turns off what is on");
    assert_eq!(world.xen.pirqs(), []);

    let (response, vectors) = world.ask_msix(guest, V, &[3, 0, 7]);
    assert_eq!(response.map(|response| (response.err, response.value)), Some((0, 0)));
    let mut mapped = world.xen.pirqs().iter().map(|(_, pirq, _)| *pirq).collect::<Vec<_>>();
    mapped.sort_by_key(|pirq| std::cmp::Reverse(*pirq));
    assert_eq!(vectors, mapped, "in the order of the request");
    assert_eq!(world.xen.with_function(ecam(A), |function| function.has_msix_on()), Some(true));
    assert_nothing_left(world);
}

#[test]
fn nvme_s_sequence_gets_its_vectors() {
    // Debian 6.1: one vector, off by the wrong command, then as many as it wants; control words in between.
    let mut world = world();
    let guest = world.connect(5, &[A]);
    let control = |value| write(0x62, 2, value);
    assert_eq!(ask(&mut world, guest, &control(0xc007)).0, -3);
    assert_eq!(world.ask_msix(guest, V, &[0]).1.len(), 1);
    assert_eq!(ask(&mut world, guest, &control(0x8007)).0, 0, "as it is");
    assert_eq!(command(&mut world, guest, DISABLE_MSI), (0, GSI));
    assert_eq!(world.xen.pirqs(), []);
    assert_eq!(world.ask_msix(guest, V, &[0, 1, 2]).1.len(), 3);
    // A frontend that turns nothing off in between replaces the set.
    assert_eq!(world.ask_msix(guest, V, &[0, 1]).1.len(), 2);
    assert_eq!(world.xen.pirqs().len(), 2);
    assert_nothing_left(world);
}

#[test]
fn nonsense_is_refused_without_asking_anybody() {
    logs::collect(log::LevelFilter::Info);
    let mut world = world();
    let guest = world.connect(5, &[A]);
    logs::take();
    let asked = world.broker.log.len();
    let wide = (0..8).chain(0..121).collect::<Vec<u16>>();
    for entries in [&[][..], &[8], &[0xffff], &[2, 1, 2], &wide] {
        assert_eq!(world.ask_msix(guest, V, entries).0.map(|response| response.err), Some(-5), "{entries:?}");
    }
    for info in [0, 3, 16, 64, u32::MAX] {
        let request = Request { info, ..Request::new(Command::EnableMultiMsi, V) };
        assert_eq!(ask(&mut world, guest, &request), (-5, 0), "{info} vectors");
    }
    assert_eq!(world.broker.log.len(), asked);
    assert_eq!(logs::take().len(), 1, "told once");
    assert_nothing_left(world);
}

#[test]
fn a_guest_without_pirqs_left_is_told_what_helps_once() {
    logs::collect(log::LevelFilter::Info);
    let mut world = world();
    world.xen.limit_pirqs(3);
    let guest = world.connect(5, &[A]);
    logs::take();
    for _ in 0..3 {
        assert_eq!(world.ask_msix(guest, V, &[0, 1, 2, 3]).0.map(|response| response.err), Some(-5));
    }
    let lines = logs::take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("extra_guest_irqs="), "{lines:?}");
    assert_eq!(world.ask_msix(guest, V, &[0, 1, 2]).1.len(), 3, "fewer are there");
    assert_nothing_left(world);
}

#[test]
fn others_are_served_while_the_broker_is_stopped() {
    let mut world = world();
    let first = world.connect(5, &[A]);
    let second = world.connect(6, &[B]);
    let third = {
        let guest = world.create_guest(7);
        world.tool.attach(guest, &[]);
        guest
    };
    // How much a read costs while nobody waits for anything.
    let serve_a_read = |world: &mut World, guest: DomId| {
        world.guest(guest).publish(&read_ids());
        let mut turns = 0;
        while world.guest(guest).response().is_none() {
            assert!(world.stub.turn(sim::stub::Turn::Serve), "nothing left to do and no answer");
            turns += 1;
        }
        turns
    };
    let usual = serve_a_read(&mut world, second);
    world.broker.stop();
    world.guest(first).publish(&bus_master());
    world.work();
    assert_eq!(world.guest(first).response(), None);
    for _ in 0..50 {
        assert_eq!(serve_a_read(&mut world, second), usual, "not one turn more");
    }
    assert_eq!(ask(&mut world, second, &write(0x10, 4, u32::MAX)).0, 0);
    // One that needs the broker too waits behind the first; when it gives up, its next one is answered.
    world.guest(second).publish(&bus_master());
    world.work();
    assert_eq!(world.guest(second).response(), None);
    world.guest(second).give_up();
    assert_eq!(serve_a_read(&mut world, second), usual);
    world.guest(first).give_up();
    assert_eq!(serve_a_read(&mut world, first), usual);
    // And so do a handshake and a look at the pool.
    world.settle();
    assert_eq!(world.states(third).0, "4");
    world.broker.go_on();
    world.work();
    assert_eq!(ask(&mut world, second, &bus_master()).0, 0);
    assert_nothing_left(world);
}

#[test]
fn who_waits_for_the_broker_is_served_in_turn() {
    let devices = (0..6).map(|bus| Sbdf::from_devfn(0, bus, 0)).collect::<Vec<_>>();
    let mut world = World::with(SimXen::new(), &devices, Options::default(), |function| function.with_interrupts(8));
    world.broker.start();
    for (domid, device) in (10..).zip(&devices) {
        world.connect(domid, &[*device]);
    }
    world.broker.stop();
    let order = [12, 10, 15, 11, 14, 13];
    for domid in order {
        world.guest(DomId(domid)).publish(&bus_master());
        world.work();
    }
    world.broker.log.clear();
    world.broker.go_on();
    world.work();
    let served = world.broker.log.iter().map(|(_, device)| u16::from(device.bus()) + 10).collect::<Vec<_>>();
    assert_eq!(served, order);
    for domid in order {
        assert_eq!(world.guest(DomId(domid)).response().map(|response| response.err), Some(0));
    }
}

#[test]
fn a_silent_broker_fails_writes_and_interrupts_before_guests_give_up_and_then_at_once() {
    logs::collect(log::LevelFilter::Info);
    let mut world = world();
    let (first, second) = (world.connect(5, &[A]), world.connect(6, &[B]));
    assert_eq!(command(&mut world, first, ENABLE_MSI).0, 0);
    logs::take();
    world.broker.stop();
    world.guest(first).publish(&bus_master());
    world.guest(second).publish(&Request::new(ENABLE_MSI, V));
    world.work();
    assert_eq!((world.guest(first).response(), world.guest(second).response()), (None, None));
    assert_eq!(world.stub.backend.counters().broker_timeouts.get(), 0);
    // xen-pcifront waits for 2 s. A dom0 that is busy has three quarters of that.
    world.xen.advance_ns(1_400_000_000);
    world.work();
    assert_eq!((world.guest(first).response(), world.guest(second).response()), (None, None));
    world.xen.advance_ns(100_000_000);
    world.work();
    assert_eq!(world.stub.backend.counters().broker_timeouts.get(), 1);
    assert_eq!(world.guest(first).response().map(|response| response.err), Some(-3));
    assert_eq!(world.guest(second).response().map(|response| response.err), Some(-5), "who waits does not wait longer");
    let lines = logs::take();
    assert_eq!(lines.iter().filter(|line| line.contains("the broker has not answered")).count(), 1, "{lines:?}");
    assert_eq!(ask(&mut world, first, &bus_master()).0, -3, "at once");
    assert_eq!(command(&mut world, first, DISABLE_MSI), (0, GSI), "no frontend knows what to do if this fails");
    assert_eq!(ask(&mut world, first, &read_ids()).0, 0);
    assert_eq!(logs::take(), [""; 0], "told already");
    assert_eq!(world.xen.pirqs().len(), 1);

    world.broker.log.clear();
    world.broker.go_on();
    world.work();
    let commands = world.broker.log.iter().map(|(command, _)| *command).collect::<Vec<_>>();
    let want = [BrokerCommand::Query, BrokerCommand::DisableMsi].map(BrokerCommand::raw);
    assert_eq!(commands, want, "what was given up is not done late, what was promised is");
    assert_eq!(world.xen.pirqs(), []);
    assert_eq!(logs::take(), ["INFO: the broker is there again"]);
    assert_eq!(ask(&mut world, first, &bus_master()).0, 0);
    assert_nothing_left(world);
}

#[test]
fn a_late_answer_is_not_that_of_the_next_request() {
    for fault in [Fault::STOP_BEFORE, Fault::STOP_AFTER] {
        let mut world = world();
        let guest = world.connect(5, &[A]);
        world.broker.faults.push_back(fault);
        assert_eq!(world.ask_msix(guest, V, &[0, 1, 2]).0, None);
        world.run_out_of_time();
        assert_eq!(world.guest(guest).response().map(|response| response.err), Some(-5));
        // The frontend asks again before the first one is answered.
        assert_eq!(world.ask_msix(guest, V, &[5]).0.map(|response| response.err), Some(-5), "not yet");
        world.broker.go_on();
        world.work();
        assert_eq!(world.xen.pirqs(), [], "turned on behind its back, turned off again");
        assert!(is_quiesced(&world, A));
        let (response, vectors) = world.ask_msix(guest, V, &[5]);
        assert_eq!((response.map(|response| response.err), vectors.len()), (Some(0), 1), "{fault:?}");
        assert_nothing_left(world);
    }
}

#[test]
fn a_frontend_that_asks_for_something_else_does_not_get_the_first_answer() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    world.broker.stop();
    world.guest(guest).publish(&Request::new(ENABLE_MSI, V));
    world.work();
    world.guest(guest).give_up();
    world.guest(guest).publish(&bus_master());
    world.work();
    assert_eq!(world.guest(guest).response(), None, "it waits behind its own");
    world.broker.go_on();
    world.work();
    assert_eq!(world.guest(guest).response().map(|response| (response.err, response.value)), Some((0, 0x0407)));
    assert_eq!(world.xen.pirqs(), [], "nobody knows of the vector");
    assert_eq!(command(&mut world, guest, ENABLE_MSI).0, 0);
    assert_nothing_left(world);
}

#[test]
fn a_new_broker_carries_out_what_the_old_one_had() {
    for fault in [Fault::DIE_BEFORE, Fault::DIE_AFTER] {
        let mut world = world();
        let guest = world.connect(5, &[A]);
        world.broker.faults.push_back(fault);
        assert_eq!(world.ask_msix(guest, V, &[1, 2]).0, None);
        assert!(!world.broker.is_running());
        assert_eq!(ask_while_waiting(&mut world, guest), None, "its own page is taken");
        world.broker.start();
        world.work();
        assert_eq!(world.guest(guest).response().map(|response| response.err), Some(0), "{fault:?}");
        assert_eq!(world.xen.pirqs().len(), 2, "and not the old ones");
        assert_eq!(ask(&mut world, guest, &bus_master()).0, 0);
        assert_nothing_left(world);
    }
}

fn ask_while_waiting(world: &mut World, guest: DomId) -> Option<pciif::Response> {
    world.work();
    world.guest(guest).response()
}

#[test]
fn without_a_broker_nothing_waits_and_all_works_again_when_it_is_there() {
    logs::collect(log::LevelFilter::Info);
    let mut world = World::with(SimXen::new(), &[A, B], Options::default(), |function| function.with_interrupts(8));
    let guest = world.connect(5, &[A]);
    logs::take();
    assert_eq!(ask(&mut world, guest, &bus_master()).0, -3);
    assert_eq!(command(&mut world, guest, ENABLE_MSI), (-5, 0));
    assert_eq!(world.ask_msix(guest, V, &[0]).0.map(|response| response.err), Some(-5));
    assert_eq!(ask(&mut world, guest, &read_ids()).0, 0);
    let lines = logs::take();
    assert_eq!(lines.iter().filter(|line| line.contains("the broker is not connected")).count(), 1, "{lines:?}");
    assert_eq!(world.stub.backend.next_deadline_ns(), None, "nothing to wait for");
    world.broker.start();
    world.work();
    assert_eq!(logs::take(), ["INFO: the broker is there again"]);
    assert_eq!(ask(&mut world, guest, &bus_master()).0, 0);
    assert_eq!(world.ask_msix(guest, V, &[0]).1.len(), 1);
    world.broker.kill();
    assert_eq!(ask(&mut world, guest, &write(4, 2, 3)).0, -3);
    world.broker.start();
    assert_eq!(ask(&mut world, guest, &write(4, 2, 3)).0, 0);
    assert_nothing_left(world);
}

#[test]
fn a_guest_that_lets_go_leaves_nothing_on() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    assert_eq!(ask(&mut world, guest, &bus_master()).0, 0);
    assert_eq!(world.ask_msix(guest, V, &[0, 1]).1.len(), 2);
    world.guest(guest).unload();
    world.settle();
    assert_eq!(world.xen.pirqs(), []);
    assert!(is_quiesced(&world, A));
    // It comes back, and finds everything as at the first time.
    world.guest(guest).set_state(1);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(ask(&mut world, guest, &Request::conf_read(V, 4, 2)), (0, 0));
    assert_eq!(command(&mut world, guest, ENABLE_MSI).0, 0);
    assert_nothing_left(world);
}

#[test]
fn a_guest_that_dies_leaves_a_device_that_is_free_when_it_is_quiesced() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    assert_eq!(ask(&mut world, guest, &bus_master()).0, 0);
    assert_eq!(command(&mut world, guest, ENABLE_MSI).0, 0);
    world.broker.stop();
    world.destroy(guest);
    world.settle();
    world.tool.remove_dirs(guest);
    world.settle();
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"), "the broker has not quiesced it");
    world.broker.go_on();
    world.settle();
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
    assert_nothing_left(world);
}

#[test]
fn a_device_that_nobody_can_make_quiet_is_refused_and_not_waited_for() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    assert_eq!(ask(&mut world, guest, &bus_master()).0, 0);
    world.broker.kill();
    world.destroy(guest);
    world.settle();
    world.tool.remove_dirs(guest);
    world.settle();
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("refused bus mastering is on"));
    // The tool does it and has the stub look again.
    world.quiesce(guest, A);
    world.tool.set_online(A, true);
    world.settle();
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"));
    assert_nothing_left(world);
}

#[test]
fn a_guest_that_dies_while_the_broker_is_at_work_for_it_leaves_nothing() {
    for fault in [Fault::STOP_BEFORE, Fault::STOP_AFTER, Fault::DIE_BEFORE, Fault::DIE_AFTER] {
        for is_late in [false, true] {
            let mut world = world();
            let (first, second) = (world.connect(5, &[A]), world.connect(6, &[B]));
            world.broker.faults.push_back(fault);
            assert_eq!(world.ask_msix(first, V, &[0, 1, 2]).0, None);
            world.guest(second).publish(&bus_master());
            world.destroy(first);
            world.settle();
            world.tool.remove_dirs(first);
            world.settle();
            if is_late {
                world.run_out_of_time();
            }
            world.broker.go_on();
            if !world.broker.is_running() {
                world.broker.start();
            }
            world.settle();
            assert!(world.guest(second).response().is_some());
            assert_eq!(world.xen.pirqs().iter().filter(|(owner, ..)| *owner == first).count(), 0);
            if is_late {
                // The broker was away when it was due: the tool quiesces it and has the stub look again.
                world.quiesce(first, A);
                world.tool.set_online(A, true);
                world.settle();
            }
            assert_eq!(world.tool.pool_state(A).as_deref(), Some("free"), "{fault:?}, late: {is_late}");
            assert_nothing_left(world);
        }
    }
}

#[test]
fn vectors_that_the_broker_did_not_turn_off_are_asked_about_again() {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut world = world();
    let guest = world.connect(5, &[A]);
    assert_eq!(command(&mut world, guest, ENABLE_MSI).0, 0);
    world.broker.faults.extend([Fault::NoConfig; 3]);
    let asked = world.broker.log.len();
    assert_eq!(command(&mut world, guest, DISABLE_MSI).0, 0, "the guest goes on");
    for (wait, is_left) in [(1, true), (2, true), (4, false)] {
        assert_eq!(world.xen.pirqs().len(), 1);
        world.xen.advance_ns(wait * SECOND_NS - 1_000_000);
        world.settle();
        assert_eq!(world.xen.pirqs().len(), 1, "not before {wait} s");
        world.xen.advance_ns(1_000_000);
        world.settle();
        assert_eq!(!world.xen.pirqs().is_empty(), is_left, "after {wait} s");
    }
    assert_eq!(world.broker.log.len(), asked + 4);
    // From then on it rests, and the next time begins with a second again.
    world.xen.advance_ns(600 * SECOND_NS);
    world.settle();
    assert_eq!(world.broker.log.len(), asked + 4);
    assert_eq!(command(&mut world, guest, ENABLE_MSI).0, 0);
    world.broker.faults.push_back(Fault::NoConfig);
    assert_eq!(command(&mut world, guest, DISABLE_MSI).0, 0);
    world.xen.advance_ns(SECOND_NS);
    world.settle();
    assert_eq!(world.xen.pirqs(), []);
    assert_nothing_left(world);
}

#[test]
fn a_device_that_the_broker_refuses_to_quiesce_leaves_its_guest_at_once() {
    let mut world = world();
    let guest = world.connect(5, &[A]);
    assert_eq!(command(&mut world, guest, ENABLE_MSI).0, 0);
    world.broker.faults.extend([Fault::NoConfig; 2]);
    world.destroy(guest);
    world.settle();
    world.tool.remove_dirs(guest);
    world.settle();
    assert_ne!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));
    world.quiesce(guest, A);
    world.tool.set_online(A, true);
    world.settle();
    assert_nothing_left(world);
}

#[test]
fn a_broker_that_lies_harms_nobody() {
    let words = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff, 0x1_0000, u32::MAX];
    for err in [0, -1, -2, -3, -4, -5] {
        for value in words {
            for request in [bus_master(), Request::new(ENABLE_MSI, V), Request::new(DISABLE_MSI, V)] {
                let mut world = world();
                let guest = world.connect(5, &[A]);
                world.broker.faults.push_back(Fault::Lie { err, value, info: value });
                let got = ask(&mut world, guest, &request);
                if request.command() == Some(ENABLE_MSI) && got.0 == 0 {
                    assert!((1..=0xffff).contains(&got.1), "a pirq that a guest can use");
                } else if request.command() == Some(ENABLE_MSI) {
                    assert_eq!(got, (-5, 0));
                    assert_eq!(world.xen.pirqs(), [], "what may be on is turned off");
                }
                assert_nothing_left(world);
            }
            let mut world = world();
            let guest = world.connect(5, &[A]);
            world.broker.faults.push_back(Fault::Lie { err, value, info: value });
            let (response, vectors) = world.ask_msix(guest, V, &[0, 1]);
            assert!(response.is_some() && vectors.iter().all(|vector| *vector != 0));
            assert!(response.and_then(|response| response.code()).is_some());
            assert_nothing_left(world);
        }
    }
}

#[test]
fn direct_mode_writes_by_itself_and_asks_for_interrupts_only() {
    let options = Options { is_direct: true, ..Options::default() };
    let xen = SimXen::new();
    xen.make_ecam_writable();
    let mut world = World::with(xen, &[A, B], options, |function| function.with_interrupts(8));
    let guest = world.connect(5, &[A]);
    assert_eq!(ask(&mut world, guest, &bus_master()), (0, 0x0407));
    assert_eq!(hardware(&world, A, COMMAND, Width::Word), 0x0407);
    assert_eq!(ask(&mut world, guest, &write(0x0c, 4, 0x4000_0010)).0, 0);
    assert_eq!(hardware(&world, A, 0x0c, Width::Dword), 0xc000_0010);
    assert_eq!(ask(&mut world, guest, &write(0x4c, 2, 3)).0, -3, "power states take time, which only the broker has");
    assert_eq!(command(&mut world, guest, ENABLE_MSI), (-5, 0));
    world.broker.start();
    world.work();
    assert_eq!(ask(&mut world, guest, &write(0x4c, 2, 3)).0, 0);
    assert_eq!(ask(&mut world, guest, &write(0x4c, 2, 0)).0, 0);
    assert_eq!(world.ask_msix(guest, V, &[0]).1.len(), 1);
    world.broker.kill();
    world.guest(guest).unload();
    world.settle();
    assert_eq!(hardware(&world, A, COMMAND, Width::Word), 0x0403, "bus mastering goes off without the broker");
    assert_nothing_left(world);
}

#[test]
fn direct_mode_without_writable_pages_says_so() {
    logs::collect(log::LevelFilter::Info);
    let options = Options { is_direct: true, ..Options::default() };
    let mut world = World::with(SimXen::new(), &[A], options, |function| function);
    let want = "refused direct mode needs mmcfg=0 on Xen's command line";
    assert_eq!(world.tool.pool_state(A).as_deref(), Some(want));
    world.settle();
    let lines = logs::take();
    assert_eq!(lines.iter().filter(|line| line.contains(want)).count(), 1, "{lines:?}");
    world.assert_clean();
}

#[test]
fn the_table_of_commands_is_complete() {
    // Whatever a guest can say is answered with a number that every frontend knows, whether or not the broker is there.
    for has_broker in [true, false] {
        let mut world = world();
        if !has_broker {
            world.broker.kill();
        }
        let guest = world.connect(5, &[A]);
        for cmd in 0..=12 {
            for value in [0, 1, 4, 129] {
                let request = Request { cmd, value, info: value, size: 2, offset: 4, ..Request::new(ENABLE_MSIX, V) };
                let (err, _) = ask(&mut world, guest, &request);
                assert!(ErrorCode::from_raw(err).is_some(), "{err} for {request}");
            }
        }
        assert_nothing_left(world);
    }
}
