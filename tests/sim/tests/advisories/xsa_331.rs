//! XSA-331 (CVE-2020-27675): Linux took an event channel apart while its handler ran, and used what was not there any more.
//!
//! Ours: an event counts only with a port that is there when it is served, which is one step of a loop that nothing interrupts. Here a guest raises its event and ends at every point of the
//! way; the simulated Xen fails the test where a port is used or closed that is gone.

use pciif::Request;
use sim::stub::Turn;

use super::{ATTACKER, MINE, OTHER, V, assert_served, world};

#[test]
fn a_port_that_goes_while_its_event_is_on_the_way_is_not_used() {
    for ending in 0..4 {
        for turns in 0..12 {
            let mut world = world();
            world.guest(ATTACKER).publish(&Request::conf_write(V, 4, 2, 0x0407));
            let (_, port) = world.guest(ATTACKER).keys().expect("connected");
            let play = |world: &mut sim::World, turns: usize| {
                for turn in 0..turns {
                    let turn = [Turn::Serve, Turn::Run, Turn::Send(64), Turn::Receive(64)][turn % 4];
                    world.stub.turn(turn);
                    world.broker.step();
                }
            };
            play(&mut world, turns);
            match ending {
                0 => world.guest(ATTACKER).set_state(6),
                1 => world.guest(ATTACKER).forget(),
                2 => world.guest(ATTACKER).unload(),
                _ => world.destroy(ATTACKER),
            }
            play(&mut world, turns);
            if world.guests.get(&ATTACKER).is_some_and(|guest| guest.keys().is_some()) {
                world.xen.notify(ATTACKER, port);
            }
            world.settle();
            assert_served(&mut world);
            if ending < 3 {
                world.guest(ATTACKER).unload();
                world.settle();
                world.destroy(ATTACKER);
            }
            world.settle();
            world.destroy(OTHER);
            world.settle_deadlines(20);
            for guest in [ATTACKER, OTHER] {
                world.tool.remove_dirs(guest);
            }
            world.settle_deadlines(20);
            world.assert_clean();
            assert!(world.xen.pirqs().is_empty(), "vectors of {MINE}");
        }
    }
}
