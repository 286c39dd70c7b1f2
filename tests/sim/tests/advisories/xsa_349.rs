//! XSA-349 (CVE-2020-29568): a guest wrote its watched node faster than its backend looked, and the queue of events ate dom0's memory.
//!
//! Ours: an event that says the same as one that waits is dropped, the queue is bounded, and what is left of the events is that there is something to look at.

use super::{ATTACKER, assert_served, world};

#[test]
fn a_flood_of_watch_events_is_one_look() {
    let mut world = world();
    let before = world.xen.store().requests();
    for round in 0_u32..20_000 {
        world.guest(ATTACKER).set_state([4, 3, 7, 8][usize::try_from(round % 4).expect("small")]);
        world.guest(ATTACKER).write(&format!("state/{}", round % 50), "x").expect("its own node");
    }
    world.guest(ATTACKER).set_state(4);
    world.stub.settle();
    let requests = world.xen.store().requests() - before;
    assert!(requests < 200, "{requests} requests for 40,000 events");
    assert_served(&mut world);
    // What it comes to at last is seen.
    world.guest(ATTACKER).unload();
    world.settle_deadlines(200);
    assert_eq!(world.tool.backend(ATTACKER, "state").as_deref(), Some("6"));
    world.guest(ATTACKER).set_state(1);
    world.settle_deadlines(50);
    assert_eq!(world.states(ATTACKER), ("4".to_owned(), 4));
}
