//! Guests are told of errors of their devices, as the tool asks for it in a device's `aer` node (docs/xenstore.md), and answer what they want.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pcidom_abi::AerValue;
use pciif::{ChannelState, Command, Request};
use sim::tool::ecam;
use sim::world::World;
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);

const DETECTED: AerValue = AerValue::notification(Command::AerDetected, ChannelState::Frozen);
const RESET: AerValue = AerValue::notification(Command::AerSlotReset, ChannelState::Normal);
const RESUME: AerValue = AerValue::notification(Command::AerResume, ChannelState::Normal);

fn virt(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

fn running(devices: &[Sbdf]) -> (World, DomId) {
    let mut world = World::new(&[A, B]);
    let guest = world.create_guest(5);
    world.guest(guest).scans_everything = false;
    world.tool.attach(guest, devices);
    world.settle();
    assert_eq!(world.states(guest).0, "4");
    (world, guest)
}

/// Has the guest told, and says what the node says then.
fn tell(world: &mut World, device: Sbdf, value: AerValue) -> Option<String> {
    world.tool.tell(device, value);
    world.settle();
    world.tool.told(device)
}

fn said(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Reads Status, which is the hardware's.
fn read(world: &mut World, guest: DomId, devfn: u8) -> Option<(i32, u32)> {
    let answer = world.ask(guest, &Request::conf_read(virt(devfn), 6, 2));
    answer.map(|response| (response.err, response.value))
}

#[test]
fn a_guest_is_told_and_its_answers_come_back() {
    let (mut world, guest) = running(&[A, B]);
    let (ids, looks) = (world.guest(guest).keys(), world.states(guest));
    assert_eq!(tell(&mut world, B, DETECTED), said("0"));
    assert_eq!(world.guest(guest).question(), Some([6, 2, 0, 0, 8]));
    // Its driver asks for this and that before it answers.
    assert_eq!(read(&mut world, guest, 8), Some((0, 0x10)));
    assert_eq!(read(&mut world, guest, 0), Some((0, 0x10)));
    assert_eq!(world.tool.told(B), said("0"));
    world.guest(guest).answer_question(3);
    world.settle();
    assert_eq!(world.tool.told(B), said("3"));
    world.guest(guest).error_results = [(9, 5), (7, 1)].into();
    assert_eq!(tell(&mut world, B, RESET), said("5"));
    assert_eq!(tell(&mut world, B, RESUME), said("1"));
    assert_eq!(world.guest(guest).told, [[9, 1, 0, 0, 8], [7, 1, 0, 0, 8]]);
    world.tool.tell_no_more(B);
    world.settle();
    assert_eq!((world.guest(guest).keys(), world.states(guest), world.tool.error(guest)), (ids, looks, None));
}

#[test]
fn a_guest_that_never_answers_is_served_all_the_same_and_told_nothing_more() {
    let (mut world, guest) = running(&[A, B]);
    assert_eq!(tell(&mut world, A, DETECTED), said("0"));
    world.tool.tell_no_more(A);
    for device in [A, B] {
        assert_eq!(tell(&mut world, device, DETECTED), said("62"), "the page is not free");
        assert_eq!(read(&mut world, guest, 0), Some((0, 0x10)));
    }
    world.tool.tell_no_more(A);
    world.settle();
    assert_eq!(world.stub.backend.next_deadline_ns(), None, "nothing is waited for by the clock");
    // Late, and to nobody any more: the next one has its turn.
    world.guest(guest).answer_question(3);
    world.settle();
    assert_eq!((world.guest(guest).question(), world.tool.told(B)), (Some([6, 2, 0, 0, 8]), said("0")));
    world.destroy(guest);
    world.settle();
    world.tool.tell_no_more(B);
    world.tool.remove_dirs(guest);
    world.settle();
    world.assert_clean();
}

#[test]
fn devices_of_a_guest_are_told_of_one_after_the_other_and_each_has_its_own_answer() {
    for first in [A, B] {
        let second = if first == A { B } else { A };
        let (mut world, guest) = running(&[A, B]);
        world.tool.tell(first, DETECTED);
        world.tool.tell(second, DETECTED);
        world.settle();
        for (device, answer) in [(first, 3), (second, 2)] {
            assert_eq!(world.tool.told(device), said("0"));
            world.guest(guest).answer_question(answer);
            world.settle();
            assert_eq!(world.tool.told(device), said(&answer.to_string()));
        }
        assert_eq!(world.guest(guest).question(), None);
    }
}

#[test]
fn a_guest_may_answer_anything_twice_and_without_being_asked() {
    for answer in [0, 7, 99, u32::MAX] {
        let (mut world, guest) = running(&[A, B]);
        world.guest(guest).answer_question(4);
        world.settle();
        assert_eq!(tell(&mut world, A, DETECTED), said("0"));
        world.guest(guest).answer_question(answer);
        world.guest(guest).answer_question(4);
        world.guest(guest).answer_question(answer);
        world.settle();
        assert_eq!(world.tool.told(A), said("9"));
        world.guest(guest).answer_question(5);
        world.settle();
        assert_eq!(world.tool.told(A), said("9"), "what was taken was taken");
        // The words and the flag are its own.
        let page = world.guest(guest).page().unwrap().clone();
        page.set_word(0, 2 | 4);
        page.set_word(556, 5);
        assert_eq!(tell(&mut world, A, RESET), said("91"), "not before its page is free");
        page.set_word(0, 2);
        page.set_word(552, 0xdead);
        assert_eq!(read(&mut world, guest, 8), Some((0, 0x10)));
        world.settle();
        assert_eq!((world.tool.told(A), page.word(552)), (said("0"), Some(9)));
    }
}

#[test]
fn an_event_without_an_answer_is_no_reason_to_look_at_nodes() {
    let (mut world, guest) = running(&[A]);
    assert_eq!(tell(&mut world, A, DETECTED), said("0"));
    let before = world.xen.store().requests();
    for _ in 0..100 {
        assert_eq!(read(&mut world, guest, 0), Some((0, 0x10)));
    }
    assert_eq!(world.xen.store().requests(), before);
}

#[test]
fn a_guest_that_answers_no_questions_or_has_no_driver_is_asked_none() {
    let (mut world, guest) = running(&[A]);
    let page = world.guest(guest).page().unwrap().clone();
    page.set_word(0, 0);
    assert_eq!(tell(&mut world, A, DETECTED), said("6"));
    assert_eq!((page.word(0), page.word(552)), (Some(0), Some(0)));
    world.guest(guest).unload();
    world.settle();
    assert_eq!(tell(&mut world, A, DETECTED), said("62"));
    assert_eq!(tell(&mut world, B, DETECTED), said("62"), "a free one");
}

#[test]
fn a_device_that_leaves_meanwhile_keeps_nobody_waiting() {
    let (mut world, guest) = running(&[A, B]);
    assert_eq!(tell(&mut world, A, DETECTED), said("0"));
    world.tool.hot_detach(guest, &[A]);
    world.settle();
    world.tool.tell_no_more(A);
    world.tool.remove_entries(guest, &[A]);
    world.settle();
    assert_eq!(world.tool.pool_state(A), said("free"));
    world.guest(guest).answer_question(3);
    world.guest(guest).error_results = [(6, 3)].into();
    assert_eq!(tell(&mut world, B, DETECTED), said("3"));
    // And by the time that another guest has it, there is nothing left.
    let other = world.connect(6, &[A]);
    assert_eq!(world.guest(other).question(), None);
}

#[test]
fn an_isolated_device_is_as_if_it_were_gone() {
    let (mut world, guest) = running(&[A, B]);
    assert_eq!(tell(&mut world, A, DETECTED), said("0"));
    world.guest(guest).answer_question(4);
    world.settle();
    assert_eq!(world.tool.told(A), said("4"));
    assert_eq!(tell(&mut world, A, AerValue::ISOLATE), said("4"));
    assert_eq!(world.tool.pool_state(A), said("absent 5"));
    assert_eq!(world.tool.error(guest), said("19 0000:03:00.0 was isolated after an error"));
    assert_eq!(world.guest(guest).question(), Some([6, 3, 0, 0, 0]));
    for request in [Request::conf_read(virt(0), 0, 4), Request::conf_write(virt(0), 4, 2, 7)] {
        assert_eq!(world.ask(guest, &request).map(|response| response.err), Some(-1), "{request}");
    }
    assert_eq!(read(&mut world, guest, 8), Some((0, 0x10)), "the other is as before");
    world.tool.tell_no_more(A);
    world.settle();
    assert_eq!(world.tool.pool_state(A), said("absent 5"));
}

#[test]
fn an_answer_that_was_not_taken_yet_outlives_a_loss() {
    let (mut world, guest) = running(&[A, B]);
    assert_eq!(tell(&mut world, A, DETECTED), said("0"));
    world.xen.unplug(ecam(B));
    world.tool.set_online(B, true);
    world.settle_deadlines(3);
    world.guest(guest).answer_question(2);
    world.settle();
    assert_eq!(world.tool.told(A), said("2"));
    assert_eq!(world.guest(guest).question(), Some([6, 3, 0, 0, 8]), "of the other one after that");
}

#[test]
fn a_restart_in_place_at_any_step_goes_on_with_it() {
    let mut count = 0;
    loop {
        let (mut world, guest) = running(&[A, B]);
        world.guest(guest).error_results = [(6, 3)].into();
        world.tool.tell(A, DETECTED);
        let was_under_way = world.steps(count);
        world.stub.crash();
        world.settle();
        assert_eq!(world.tool.told(A), said("3"), "after {count} steps");
        assert!(world.guest(guest).told.len() <= 2, "after {count} steps");
        assert_eq!(tell(&mut world, B, DETECTED), said("3"), "after {count} steps");
        if !was_under_way {
            return;
        }
        count += 1;
    }
}
