//! Interrupted hotplug: at each of its steps the guest or the toolstack does something else.

use sim::World;
use sim::world::device_id;
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const C: Sbdf = Sbdf::from_devfn(0, 6, 0);

/// A guest that has A and B, and is to get C for A.
fn changing() -> (World, DomId) {
    let mut world = World::new(&[A, B, C]);
    let guest = world.create_guest(5);
    world.guest(guest).scans_everything = false;
    world.tool.attach(guest, &[A, B]);
    world.settle();
    world.tool.hot_change(guest, &[(C, None)], &[A]);
    (world, guest)
}

/// Does `end` after each number of steps of the change, lets everybody come to rest, then `check`s.
fn at_every_step(end: fn(&mut World, DomId), check: fn(&mut World, DomId)) {
    let (mut count, mut seen) = (0, Vec::new());
    loop {
        let (mut world, guest) = changing();
        let was_under_way = world.steps(count);
        let states = world.states(guest);
        if !seen.contains(&states) {
            seen.push(states);
        }
        println!("after {count} steps"); // for the captured output of a failure
        end(&mut world, guest);
        world.settle();
        check(&mut world, guest);
        if !was_under_way {
            let middle = [("7", 4), ("7", 7), ("8", 7), ("8", 4), ("4", 4)].map(|(own, peer)| (own.to_string(), peer));
            assert_eq!(seen, middle, "each pair of states was met");
            return;
        }
        count += 1;
    }
}

fn pool(world: &World) -> [String; 3] {
    [A, B, C].map(|device| world.tool.pool_state(device).unwrap_or_default())
}

/// The guest is connected with B and C, in whatever order, and with nothing else.
fn assert_changed(world: &mut World, guest: DomId) {
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    let mut found = world.guest(guest).found.iter().map(|(_, ids)| ids >> 16).collect::<Vec<_>>();
    found.sort_unstable();
    assert_eq!(found, [B, C].map(|device| u32::from(device_id(device))));
    assert_eq!(pool(world), ["free", "assigned 5", "assigned 5"]);
    let states = [0, 1, 2].map(|index| world.tool.backend(guest, &format!("state-{index}")).unwrap_or_default());
    assert_eq!(states, ["5", "3", "3"]);
    assert!(world.tool.is_settled(guest));
    assert_eq!(world.tool.error(guest), None);
}

fn assert_nothing_left(world: &mut World, guest: DomId) {
    assert_eq!(pool(world), ["free", "free", "free"]);
    if world.tool.backend(guest, "frontend").is_some() {
        assert_eq!(world.tool.backend(guest, "state").as_deref(), Some("6"));
        world.guests.remove(&guest);
        world.tool.remove_dirs(guest);
        world.settle();
    }
    world.assert_clean();
}

#[test]
fn undisturbed_it_comes_to_its_end() {
    at_every_step(|_, _| (), assert_changed);
}

#[test]
fn the_guest_dies() {
    at_every_step(World::destroy, assert_nothing_left);
}

#[test]
fn the_guest_reboots_and_its_next_domain_gets_the_devices() {
    let reboot = |world: &mut World, guest: DomId| {
        world.destroy(guest);
        world.tool.remove_dirs(guest);
        let next = world.create_guest(6);
        world.guest(next).scans_everything = false;
        world.tool.attach(next, &[B, C]);
    };
    at_every_step(reboot, |world, _| {
        let next = DomId(6);
        assert_eq!(world.states(next), ("4".to_string(), 4));
        assert_eq!(world.guest(next).found.len(), 2);
        assert_eq!(pool(world), ["free", "assigned 6", "assigned 6"]);
        assert_eq!(world.stub.backend.frontends().collect::<Vec<_>>(), [next]);
    });
}

#[test]
fn the_directory_is_removed() {
    let remove = |world: &mut World, guest: DomId| {
        world.guests.remove(&guest); // a guest without a directory does nothing
        world.tool.remove_dirs(guest);
    };
    at_every_step(remove, assert_nothing_left);
}

#[test]
fn the_directory_is_replaced() {
    let replace = |world: &mut World, guest: DomId| {
        world.guest(guest).forget();
        world.tool.remove_dirs(guest);
        world.tool.attach(guest, &[C]);
    };
    at_every_step(replace, |world, guest| {
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.guest(guest).found.len(), 1);
        assert_eq!(pool(world), ["free", "free", "assigned 5"]);
    });
}

#[test]
fn the_driver_is_unloaded() {
    at_every_step(
        |world, guest| world.guest(guest).unload(),
        |world, guest| {
            assert_eq!(world.states(guest), ("6".to_string(), 6));
            assert_eq!(world.xen.held_by(world.stub.domid()).pages, 0);
            assert_eq!(pool(world)[0], "free", "nobody is there to be asked");
            // It comes back, and everything has its way.
            world.guest(guest).set_state(1);
            world.settle();
            assert_changed(world, guest);
        },
    );
}

#[test]
fn the_driver_is_reloaded() {
    let reload = |world: &mut World, guest: DomId| {
        world.guest(guest).unload();
        world.guest(guest).set_state(1);
    };
    at_every_step(reload, assert_changed);
}

#[test]
fn a_new_kernel_starts_at_1_without_closing() {
    let kexec = |world: &mut World, guest: DomId| {
        world.guest(guest).forget();
        world.guest(guest).set_state(1);
    };
    at_every_step(kexec, assert_changed);
}

#[test]
fn a_new_kernel_goes_to_3_without_closing() {
    // Its keys may have the numbers that the old ones had.
    let kexec = |world: &mut World, guest: DomId| {
        world.guest(guest).forget();
        world.guest(guest).probe();
    };
    at_every_step(kexec, assert_changed);
}

#[test]
fn a_new_kernel_goes_to_3_and_7_before_anybody_looks() {
    let kexec = |world: &mut World, guest: DomId| {
        if world.states(guest) == ("7".to_string(), 4) {
            world.guest(guest).probe(); // with other numbers: the old page and port are still there
            world.guest(guest).set_state(7);
        }
    };
    at_every_step(kexec, assert_changed);
}

#[test]
fn the_toolstack_closes_for_good() {
    at_every_step(
        |world, guest| world.tool.request_close(guest),
        |world, guest| {
            assert_eq!(world.states(guest), ("6".to_string(), 6), "also where it was at 7 and deaf to 5");
            world.guest(guest).forget();
            assert_nothing_left(world, guest);
        },
    );
}

#[test]
fn the_toolstack_closes_a_guest_that_never_answers() {
    let close = |world: &mut World, guest: DomId| {
        world.guest(guest).kind = sim::Kind::Silent;
        world.tool.request_close(guest);
        world.settle();
        world.destroy(guest);
    };
    at_every_step(close, assert_nothing_left);
}

#[test]
fn the_toolstack_rolls_back() {
    let roll_back = |world: &mut World, guest: DomId| {
        // The slot of what is taken away again is not used a second time, so a third one may be.
        world.guest(guest).scans_everything = true;
        if !world.tool.is_settled(guest) {
            world.tool.roll_back_attach(guest, &[C]);
            // A device that the guest has let go of already comes back.
            world.tool.roll_back_detach(guest, &[A]);
        }
    };
    at_every_step(roll_back, |world, guest| {
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.guest(guest).found.len(), 2);
        if pool(world)[2] == "free" {
            assert_eq!(pool(world), ["assigned 5", "assigned 5", "free"]);
            assert_eq!(world.tool.backend(guest, "state-0").as_deref(), Some("3"));
        } else {
            assert_changed(world, guest); // it was over
        }
    });
}

#[test]
fn another_change_comes_on_top() {
    let change = |world: &mut World, guest: DomId| world.tool.hot_detach(guest, &[B]);
    at_every_step(change, |world, guest| {
        assert_eq!(world.states(guest), ("4".to_string(), 4));
        assert_eq!(world.guest(guest).found.len(), 1);
        assert_eq!(pool(world), ["free", "free", "assigned 5"]);
    });
}
