//! Devices that are pulled out while a guest has them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciif::{Command, Request};
use sim::device::Function;
use sim::tool::ecam;
use sim::world::World;
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0);

const NO_DEVICE: Option<(i32, u32)> = Some((-1, u32::MAX));

fn virt(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

fn running(devices: &[Sbdf]) -> (World, DomId) {
    let mut world = World::new(&[A, B, C]);
    let guest = world.create_guest(5);
    world.guest(guest).scans_everything = false;
    world.tool.attach(guest, devices);
    world.settle();
    assert_eq!(world.states(guest).0, "4");
    (world, guest)
}

fn ask(world: &mut World, guest: DomId, request: &Request) -> Option<(i32, u32)> {
    let answer = world.ask(guest, request).map(|response| (response.err, response.value));
    world.work();
    answer
}

/// Reads Status, which is the hardware's.
fn read(world: &mut World, guest: DomId, devfn: u8) -> Option<(i32, u32)> {
    ask(world, guest, &Request::conf_read(virt(devfn), 6, 2))
}

fn pool(world: &World, device: Sbdf) -> String {
    world.tool.pool_state(device).unwrap_or_default()
}

/// Pulls A out, and has the guest notice. It is looked for, and called absent after a second.
fn lose(world: &mut World, guest: DomId) {
    world.xen.unplug(ecam(A));
    assert_eq!(read(world, guest, 0), Some((0, 0xffff)));
    world.settle_deadlines(3);
    assert_eq!(read(world, guest, 0), NO_DEVICE);
}

#[test]
fn a_read_of_ones_is_looked_into_and_everybody_is_told() {
    let (mut world, guest) = running(&[A, B]);
    world.xen.unplug(ecam(A));
    let class = ask(&mut world, guest, &Request::conf_read(virt(0), 8, 4));
    assert_eq!(class.map(|(err, _)| err), Some(0), "from our own copy: nobody has noticed");
    assert_eq!(pool(&world, A), "assigned 5");

    // How drivers look whether a function is still there.
    let ids = ask(&mut world, guest, &Request::conf_read(virt(0), 0, 4));
    assert_eq!(ids, Some((0, u32::MAX)));
    // It may come back: ones, as of real hardware, until it has been looked for in vain.
    for _ in 0..3 {
        assert_eq!(read(&mut world, guest, 0), Some((0, 0xffff)));
        assert_eq!(ask(&mut world, guest, &Request::conf_write(virt(0), 4, 2, 7)), Some((0, 7)));
        assert_eq!(ask(&mut world, guest, &Request::new(Command::EnableMsi, virt(0))).map(|(err, _)| err), Some(-5));
        assert_eq!((pool(&world, A), world.tool.error(guest)), ("assigned 5".to_string(), None));
        world.settle_deadlines(1);
    }
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE);
    assert_eq!(pool(&world, A), "absent 5");
    assert_eq!(world.tool.error(guest).as_deref(), Some("19 0000:03:00.0 is gone: it does not answer any more"));
    assert_eq!(world.guest(guest).question(), Some([6, 3, 0, 0, 0]));
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    for request in [
        Request::conf_read(virt(0), 0, 4),
        Request::conf_write(virt(0), 4, 2, 7),
        Request::new(Command::EnableMsi, virt(0)),
        Request::new(Command::DisableMsi, virt(0)),
        Request { cmd: 77, ..Request::conf_read(virt(0), 0, 4) },
    ] {
        assert_eq!(ask(&mut world, guest, &request), NO_DEVICE, "{request}");
    }
    assert_eq!(read(&mut world, guest, 8), Some((0, 0x10)), "the other is as before");
    assert_eq!(world.tool.backend(guest, "state-0").as_deref(), Some("3"));
}

#[test]
fn a_register_that_is_all_ones_is_no_loss() {
    let (mut world, guest) = running(&[A]);
    world.xen.with_function(ecam(A), |function| function.write(0x104, u32::MAX));
    let answer = ask(&mut world, guest, &Request::conf_read(virt(0), 0x104, 4));
    assert_eq!(answer, Some((0, u32::MAX)));
    assert_eq!((pool(&world, A), world.tool.error(guest)), ("assigned 5".to_string(), None));
}

#[test]
fn a_guest_that_asks_nothing_is_told_when_the_tool_has_us_look() {
    let (mut world, guest) = running(&[A, B]);
    world.xen.unplug(ecam(A));
    world.tool.set_online(B, true);
    world.settle();
    assert_eq!(pool(&world, A), "assigned 5", "the other device");
    world.tool.set_online(A, true);
    world.settle_deadlines(3);
    assert_eq!(pool(&world, A), "absent 5");
    assert_eq!(world.guest(guest).question(), Some([6, 3, 0, 0, 0]));
    assert!(world.tool.error(guest).is_some_and(|error| error.starts_with("19 0000:03:00.0 is gone: ")));
    // Once.
    world.guest(guest).answer_question(4);
    for _ in 0..3 {
        world.tool.set_online(A, true);
        world.settle();
    }
    assert_eq!(world.guest(guest).question(), None);
}

#[test]
fn whatever_the_guest_answers_changes_nothing() {
    for answer in [0, 1, 3, 4, 99, u32::MAX] {
        let (mut world, guest) = running(&[A]);
        lose(&mut world, guest);
        world.guest(guest).answer_question(answer);
        world.settle();
        assert_eq!((pool(&world, A), world.states(guest)), ("absent 5".to_string(), ("4".to_string(), 4)));
        assert_eq!(world.guest(guest).question(), None);
    }
    // Nor what it does to the words and the flag.
    let (mut world, guest) = running(&[A, B]);
    let page = world.guest(guest).page().expect("a page").clone();
    page.set_word(0, 2 | 4); // as if we had asked
    page.set_word(552, 0xdead);
    lose(&mut world, guest);
    assert_eq!(page.word(552), Some(0xdead), "not before it is free");
    assert_eq!(page.word(0), Some(2 | 4));
    assert_eq!(read(&mut world, guest, 8), Some((0, 0x10)));
    page.set_word(0, 2);
    assert_eq!(read(&mut world, guest, 8), Some((0, 0x10)));
    assert_eq!(page.word(552), Some(6));
}

#[test]
fn several_losses_are_told_one_after_the_other() {
    let (mut world, guest) = running(&[A, B]);
    for device in [A, B] {
        world.xen.unplug(ecam(device));
        world.tool.set_online(device, true);
    }
    world.settle_deadlines(6);
    let error = world.tool.error(guest).unwrap_or_default();
    assert!(error.contains("0000:05:02.0 is gone"), "{error}");
    assert_eq!(world.guest(guest).question(), Some([6, 3, 0, 0, 0]));
    world.guest(guest).answer_question(4);
    world.work();
    assert_eq!(world.guest(guest).question(), Some([6, 3, 0, 0, 8]));
    world.guest(guest).answer_question(4);
    world.work();
    assert_eq!(world.guest(guest).question(), None);
}

#[test]
fn a_guest_that_answers_no_questions_is_asked_none() {
    let (mut world, guest) = running(&[A]);
    let page = world.guest(guest).page().expect("a page").clone();
    page.set_word(0, 0);
    lose(&mut world, guest);
    assert_eq!((page.word(0), page.word(552)), (Some(0), Some(0)));
    assert_eq!(pool(&world, A), "absent 5");
}

#[test]
fn its_slot_stays_taken_until_the_tool_detaches_it_and_then_it_is_refused() {
    let (mut world, guest) = running(&[A]);
    lose(&mut world, guest);
    world.tool.hot_attach(guest, &[(B, None)]);
    world.settle();
    assert_eq!(world.tool.backend(guest, "vdev-1").as_deref(), Some("0000:00:01.00"));
    assert_eq!(world.tool.backend(guest, "state-0").as_deref(), Some("3"));
    world.tool.hot_detach(guest, &[A]);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(pool(&world, A), "refused it was gone while it was assigned");
    world.tool.remove_entries(guest, &[A]);
    world.tool.hot_attach(guest, &[(C, None)]);
    world.settle();
    assert_eq!(world.tool.backend(guest, "vdev-1").as_deref(), Some("0000:00:00.00"), "free again");
    assert_eq!(world.xen.held_by(world.stub.domid()).ecam_pages, 2);
}

#[test]
fn something_that_is_plugged_in_meanwhile_is_nothing_to_this_guest() {
    let (mut world, guest) = running(&[A]);
    lose(&mut world, guest);
    world.xen.plug(ecam(A), sim::device::Function::endpoint(0x10de, 1));
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE);
    world.guest(guest).unload();
    world.guest(guest).set_state(1);
    world.settle();
    assert_eq!((world.states(guest).0, pool(&world, A)), ("4".to_string(), "absent 5".to_string()));
    assert_eq!(read(&mut world, guest, 0), NO_DEVICE, "also after a new start");
    world.destroy(guest);
    world.settle();
    assert_eq!(pool(&world, A), "refused it was gone while it was assigned");
    // The tool has it reset and looked at anew.
    world.tool.write(&format!("/local/domain/{}/pool/{}/state", world.stub.domid(), A.path_component()), "new");
    world.settle();
    assert_eq!(pool(&world, A), "free");
    world.tool.remove_dirs(guest);
    world.settle();
    world.assert_clean();
}

#[test]
fn one_that_was_in_use_goes_without_the_stub_waiting_for_anybody() {
    for broker_is_there in [true, false] {
        let (mut world, guest) = running(&[A]);
        world.broker.start();
        assert_eq!(ask(&mut world, guest, &Request::conf_write(virt(0), 4, 2, 4)), Some((0, 4)));
        if !broker_is_there {
            world.broker.kill();
        }
        lose(&mut world, guest);
        world.tool.remove_entries(guest, &[A]);
        world.settle_deadlines(10);
        assert_eq!(pool(&world, A), "refused it was gone while it was assigned");
        assert_eq!(world.xen.held_by(world.stub.domid()).ecam_pages, 2, "only the free ones are mapped");
    }
}

#[test]
fn a_device_that_vanishes_in_the_middle_of_a_change_fails_alone() {
    let mut count = 0;
    loop {
        let (mut world, guest) = running(&[A, B]);
        world.tool.hot_change(guest, &[(C, None)], &[B]);
        let was_under_way = world.steps(count);
        for device in [A, C] {
            world.xen.unplug(ecam(device));
            world.tool.set_online(device, true);
        }
        world.settle_deadlines(8);
        assert_eq!(world.states(guest), ("4".to_string(), 4), "after {count} steps");
        assert!(world.tool.is_settled(guest), "after {count} steps");
        assert_eq!((pool(&world, A), pool(&world, B)), ("absent 5".to_string(), "free".to_string()));
        // It was gone before anybody had it, or with the guest.
        let third = (pool(&world, C), world.tool.backend(guest, "state-2").unwrap_or_default());
        let outcomes = [("refused the function does not answer", "6"), ("absent 5", "3")];
        assert!(outcomes.contains(&(&third.0, &third.1)), "after {count} steps: {third:?}");
        if !was_under_way {
            return;
        }
        count += 1;
    }
}

#[test]
fn a_virtual_function_reads_as_ones_and_is_there() {
    let mut world = World::new(&[]);
    world.tool.add_to_pool(A, Function::virtual_function());
    world.tool.write("/local/domain/3/pool/0000-03-00-0/ids", "15208086");
    world.settle();
    assert_eq!(pool(&world, A), "free");
    let guest = world.connect(5, &[A]);
    for (offset, size, want) in [(0, 4, 0x1520_8086), (0, 2, 0x8086), (2, 2, 0x1520), (0x3c, 1, 0x0b)] {
        assert_eq!(ask(&mut world, guest, &Request::conf_read(virt(0), offset, size)), Some((0, want)), "{offset:#x}");
    }
    assert_eq!(pool(&world, A), "assigned 5");
    // Decoding is the guest's to see, and nobody's to write.
    assert_eq!(ask(&mut world, guest, &Request::conf_write(virt(0), 4, 2, 2)).map(|(err, _)| err), Some(0));
    assert_eq!(ask(&mut world, guest, &Request::conf_read(virt(0), 4, 2)), Some((0, 2)));
    world.xen.unplug(ecam(A));
    assert_eq!(ask(&mut world, guest, &Request::conf_read(virt(0), 0, 4)), Some((0, u32::MAX)));
    world.settle_deadlines(3);
    assert_eq!(pool(&world, A), "absent 5");
}
