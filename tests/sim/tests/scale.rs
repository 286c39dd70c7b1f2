//! Many guests and many devices on one stub.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciback::Options;
use pciback::platform::Clock;
use pciif::{Command, Request, Response};
use sim::world::{STUB, World, device_id};
use sim::{Kind, SimFrontend, SimXen};
use xen_types::{DomId, Sbdf};
use xenstored::{NODE_QUOTA, WATCH_QUOTA};

const GUESTS: u16 = 64;
const FUNCTIONS: u8 = 4;
/// The functions of guest `number`: those of one device.
fn devices(number: u16) -> Vec<Sbdf> {
    let bus = u8::try_from(number).expect("a bus for each");
    (0..FUNCTIONS).map(|function| Sbdf::from_devfn(0, bus, function)).collect()
}

fn domid(number: u16) -> u16 {
    10 + number
}

/// `count` guests with so many functions each, all connected. They look at the first slots of their bus only.
fn connected(count: u16, functions: usize) -> World {
    let all = (0..count).flat_map(|number| devices(number).into_iter().take(functions)).collect::<Vec<_>>();
    let mut world = World::new(&all);
    for number in 0..count {
        let guest = world.create_guest(domid(number));
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &devices(number)[..functions]);
    }
    world.settle_deadlines(8);
    for number in 0..count {
        assert_eq!(world.states(DomId(domid(number))), ("4".to_string(), 4), "guest {number}");
    }
    world
}

fn ids(device: Sbdf) -> u32 {
    u32::from(device_id(device)) << 16 | 0x8086
}

fn virt(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

#[test]
fn sixty_four_guests_hammer_their_own_four_functions_each() {
    let mut world = connected(GUESTS, FUNCTIONS.into());
    assert_eq!(world.stub.backend.ports().count(), usize::from(GUESTS) + 1);
    assert!(world.pool_states().values().all(|state| state.starts_with("assigned ")));
    {
        let store = world.xen.store();
        let watches = store.watches(world.stub.connection()).len();
        assert!(watches <= usize::from(GUESTS) + 4 && watches < WATCH_QUOTA, "{watches} watches");
        let nodes = store.owned_by(STUB).len();
        assert!(nodes < NODE_QUOTA / 10, "{nodes} nodes, and nothing went wrong yet");
    }
    // Every guest asks before anybody is served, again and again; everybody writes what only it can read back.
    for round in 0..20u32 {
        for function in 0..FUNCTIONS {
            let all = |ask: &dyn Fn(u16) -> Request, world: &mut World| -> Vec<Option<Response>> {
                for number in 0..GUESTS {
                    world.guest(DomId(domid(number))).publish(&ask(number));
                }
                world.stub.serve();
                (0..GUESTS).map(|number| world.guest(DomId(domid(number))).response()).collect()
            };
            for (number, response) in (0..).zip(all(&|_| Request::conf_read(virt(function), 0, 4), &mut world)) {
                let want = ids(devices(number)[usize::from(function)]);
                assert_eq!(response.map(|response| (response.err, response.value)), Some((0, want)), "guest {number}");
            }
            // Address registers being sized or not are the guests' own.
            let is_sizing = |number: u16| (u32::from(number) + round) % 3 == 0;
            let value = |number| if is_sizing(number) { u32::MAX } else { 0 };
            let written = all(&|number| Request::conf_write(virt(function), 0x10, 4, value(number)), &mut world);
            assert!(written.iter().all(|response| response.is_some_and(|response| response.err == 0)));
            for (number, response) in (0..).zip(all(&|_| Request::conf_read(virt(function), 0x10, 4), &mut world)) {
                let want = if is_sizing(number) { 0xffff_f000 } else { 0xfeb0_0000 };
                assert_eq!(response.map(|response| response.value), Some(want), "guest {number} in round {round}");
            }
            // What belongs to others is nowhere.
            for response in all(&|_| Request::conf_read(virt(function | 8), 0, 4), &mut world) {
                assert_eq!(response.map(|response| response.err), Some(-1));
            }
        }
    }
    for number in 0..GUESTS {
        world.destroy(DomId(domid(number)));
    }
    world.settle();
    for number in 0..GUESTS {
        world.tool.remove_dirs(DomId(domid(number)));
    }
    world.settle();
    world.assert_clean();
}

#[test]
fn guests_beyond_the_quota_of_watches_are_served_by_the_clock() {
    let mut world = connected(130, 1);
    assert_eq!(world.stub.backend.ports().count(), 131, "more than one sleep can name");
    assert!(world.xen.store().watches(world.stub.connection()).len() <= WATCH_QUOTA);
    // Some are not watched: what they do is seen within a second.
    let now_ns = || Clock::now_ns(&world.xen.platform(STUB));
    let before_ns = now_ns();
    for number in 0..130 {
        world.guests[&DomId(domid(number))].set_state(6);
    }
    while world.stub.backend.ports().count() > 1 {
        let now_ns = now_ns();
        assert!(now_ns - before_ns <= 1_000_000_000, "{} left", world.stub.backend.ports().count());
        world.stub.settle();
        let deadline_ns = world.stub.backend.next_deadline_ns().unwrap_or(now_ns);
        world.xen.advance_ns(deadline_ns.saturating_sub(now_ns));
        world.stub.settle();
    }
}

/// The functions of guest `number`, from the first of its bus on.
fn many_devices(number: u16, count: u16) -> Vec<Sbdf> {
    let bus = u8::try_from(number).expect("a bus for each");
    (0..count).map(|devfn| Sbdf::from_devfn(0, bus, u8::try_from(devfn).expect("of one bus"))).collect()
}

/// What requests of every kind have the backend visit one after the other, with so many guests of so many functions each: each kind's name
/// and the number of visits.
fn visits(guests: u16, functions: u16) -> Vec<(&'static str, u64)> {
    let all = (0..guests).flat_map(|number| many_devices(number, functions)).collect::<Vec<_>>();
    let mut world = World::with(SimXen::new(), &all, Options::default(), |function| function.with_interrupts(8));
    let all = (0..guests).map(|number| {
        let guest = world.create_guest(domid(number));
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &many_devices(number, functions));
        guest
    });
    let all = all.collect::<Vec<_>>();
    world.settle_deadlines(8);
    world.broker.start();
    world.work();

    let last_function = virt(u8::try_from(functions - 1).expect("of one bus"));
    let bus_master = |is_on: u32| Request::conf_write(last_function, 4, 2, 3 | is_on << 2);
    let command = |command| Request::new(command, last_function);
    let mut visits = Vec::new();
    let mut count = |what, world: &mut World, work: &dyn Fn(&mut World)| {
        let before = world.stub.backend.visited();
        work(world);
        visits.push((what, world.stub.backend.visited() - before));
    };
    let ask_all = |world: &mut World, request: &Request| {
        all.iter().for_each(|guest| world.guest(*guest).publish(request));
        world.work();
        let errors = all.iter().map(|guest| world.guest(*guest).response().map(|response| response.err));
        errors.collect::<Vec<_>>()
    };
    let is_done = |errors: Vec<Option<i32>>| errors.iter().all(|err| *err == Some(0));

    count("reads", &mut world, &|world| {
        assert!(is_done(ask_all(world, &Request::conf_read(last_function, 0, 4))));
        assert!(is_done(ask_all(world, &Request::conf_read(last_function, 6, 2))));
    });
    // All at once: they wait for each other.
    count("writes", &mut world, &|world| assert!(is_done(ask_all(world, &bus_master(1)))));
    count("MSI on", &mut world, &|world| assert!(is_done(ask_all(world, &command(Command::EnableMsi)))));
    count("MSI off", &mut world, &|world| assert!(is_done(ask_all(world, &command(Command::DisableMsi)))));
    count("no such function", &mut world, &|world| {
        assert!(
            ask_all(world, &Request::conf_read(Sbdf::from_devfn(0, 7, 0), 0, 4)).iter().all(|err| *err == Some(-1))
        );
    });
    // The broker stays silent until its time is over: everybody is refused, and everybody's MSI is to be turned off later.
    count("MSI on again", &mut world, &|world| assert!(is_done(ask_all(world, &command(Command::EnableMsi)))));
    world.broker.kill();
    count("no broker", &mut world, &|world| {
        ask_all(world, &command(Command::DisableMsi));
        world.run_out_of_time();
        assert!(is_done(ask_all(world, &command(Command::DisableMsi))));
        assert!(ask_all(world, &bus_master(0)).iter().all(|err| *err == Some(-3)));
    });
    visits
}

#[test]
fn a_request_costs_the_same_however_many_guests_and_functions_there_are() {
    for (guests, functions) in [(1, 1), (GUESTS, FUNCTIONS.into()), (1, 256)] {
        for (what, visits) in visits(guests, functions) {
            assert_eq!(visits, 0, "{what}: {guests} guests with {functions} functions each");
        }
    }
}

#[test]
fn two_changes_at_a_time_do_not_wait_for_each_other() {
    let spare = [Sbdf::from_devfn(0, 200, 0), Sbdf::from_devfn(0, 201, 0)];
    let mut world = World::new(&[devices(0), devices(1), spare.to_vec()].concat());
    let [silent, other] = [0, 1].map(|number| {
        let guest = world.create_guest(domid(number));
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &devices(number)[..1]);
        guest
    });
    world.guest(silent).kind = Kind::Silent;
    world.settle();
    world.tool.hot_attach(silent, &[(spare[0], None)]);
    world.tool.hot_attach(other, &[(spare[1], None)]);
    world.settle();
    assert_eq!(world.states(silent), ("7".to_string(), 4));
    assert!(world.tool.is_settled(other));
    assert_eq!(world.guest(other).found.len(), 2);
    let ask = |front: &SimFrontend, stub: &mut _| front.ask(stub, &Request::conf_read(virt(0), 0, 4));
    let World { stub, guests, .. } = &mut world;
    for guest in [silent, other] {
        assert_eq!(ask(&guests[&guest], stub).map(|response| response.err), Some(0));
    }
}
