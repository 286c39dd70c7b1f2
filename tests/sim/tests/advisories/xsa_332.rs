//! XSA-332 (CVE-2020-27673): events at a high rate kept dom0 in its interrupt handlers.
//!
//! Ours: events of one port become one, an event without a request costs one look at a flag, and each guest has its turn before another has its second.

use pciif::Request;
use sim::stub::Turn;

use super::{ATTACKER, OTHER, V, assert_served, world};

#[test]
fn a_storm_of_events_costs_the_others_one_turn_at_most() {
    let mut world = world();
    let (_, port) = world.guest(ATTACKER).keys().expect("connected");
    let before = world.xen.store().requests();
    for _ in 0..200 {
        for _ in 0..500 {
            world.xen.notify(ATTACKER, port);
        }
        world.guest(OTHER).publish(&Request::conf_read(V, 0, 4));
        let mut turns = 0;
        while world.guest(OTHER).response().is_none() {
            // As many again meanwhile.
            for _ in 0..500 {
                world.xen.notify(ATTACKER, port);
            }
            assert!(world.stub.turn(Turn::Serve));
            turns += 1;
        }
        assert!(turns <= 2, "{turns} turns");
    }
    world.stub.settle();
    assert_eq!(world.xen.store().requests(), before, "and nothing in xenstore");
    assert_served(&mut world);
}
