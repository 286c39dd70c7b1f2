//! Every pair of (our state node, the frontend's state) over the simulated Xen: where both nodes come to rest, and that nothing
//! is held that should not be.
//!
//! The frontend here says what the table says and nothing else; the pure decisions are tested beside `decide` in the backend.

use sim::World;
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const GUEST: u16 = 5;

/// Puts our node and the frontend's to these states after `prepare`, and says where ours comes to rest and whether there is a
/// connection then.
fn rest(own: &str, peer: &str, prepare: fn(&mut World, DomId)) -> String {
    let mut world = World::new(&[A]);
    let guest = world.create_guest(GUEST);
    world.tool.attach(guest, &[A]);
    world.stub.settle();
    prepare(&mut world, guest);
    let (ours, theirs) = (world.tool.backend_dir(guest), sim::SimTool::frontend_dir(guest));
    world.tool.change(|store| {
        store.write(&format!("{ours}/state"), own)?;
        match peer {
            "gone" => store.remove(&theirs),
            peer => store.write(&format!("{theirs}/state"), peer),
        }
    });
    world.stub.settle();
    let state = world.tool.backend(guest, "state").unwrap_or_default();
    let held = world.xen.held_by(world.stub.domid());
    assert_eq!(held.pages, held.ports, "both or none");
    // In any case everything can be taken away.
    world.destroy(guest);
    world.tool.remove_dirs(guest);
    world.stub.settle();
    world.assert_clean();
    format!("{state}{}", if held.pages > 0 { "c" } else { "" })
}

const PEERS: [&str; 10] = ["gone", "1", "2", "3", "4", "5", "6", "7", "8", "x"];

fn assert_rows(rows: &[(&str, &str)], prepare: fn(&mut World, DomId)) {
    for (own, row) in rows {
        let found = PEERS.map(|peer| rest(own, peer, prepare)).join(" ");
        let want = row.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(found, want, "our node at {own}, the frontend at {}", PEERS.join(" "));
    }
}

/// The guest's driver has published its keys, but nobody has connected.
fn published(world: &mut World, guest: DomId) {
    world.guest(guest).probe();
    world.guest(guest).set_state(1);
    world.stub.settle();
}

/// There was a connection, and the frontend begins again.
fn closed_and_back(world: &mut World, guest: DomId) {
    world.settle();
    for state in [6, 1] {
        world.guest(guest).set_state(state);
        world.stub.settle();
    }
    assert_eq!(world.states(guest), ("3".to_string(), 1));
}

/// Both sides are at 4.
fn connected(world: &mut World, guest: DomId) {
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
}

/// `c` is a connection. A frontend at 3 gets one wherever it can.
const NOT_CONNECTED: [(&str, &str); 9] = [
    //     gone 1 2 3  4 5 6 7  8 nonsense
    ("1", "6    3 3 4c 3 5 6 8c 3 3"),
    ("2", "6    3 3 4c 3 5 6 8c 3 3"),
    ("3", "6    3 3 4c 3 5 6 8c 3 3"),
    ("4", "6    3 4 4c 5 5 6 8c 4 4"),
    ("5", "6    3 5 4c 5 5 6 5  5 5"),
    ("6", "6    3 6 4c 6 6 6 6  6 6"),
    ("7", "6    3 3 4c 3 5 6 8c 3 3"),
    ("8", "6    3 8 4c 5 5 6 8c 8 8"),
    ("x", "6    x x x  x 5 6 x  x x"),
];

#[test]
fn without_a_connection() {
    assert_rows(&NOT_CONNECTED, published);
}

#[test]
fn without_a_connection_any_more() {
    assert_rows(&NOT_CONNECTED, closed_and_back);
}

#[test]
fn with_a_connection() {
    assert_rows(
        &[
            //     gone 1 2  3  4  5 6 7  8  nonsense
            ("1", "6    3 3  4c 3  5 6 8c 3  3"),
            ("2", "6    3 3  4c 3  5 6 8c 3  3"),
            ("3", "6    3 3  4c 3  5 6 8c 3  3"),
            ("4", "6    3 4c 4c 4c 5 6 8c 4c 4c"),
            ("5", "6    3 5c 4c 5c 5 6 5c 5c 5c"),
            ("6", "6    3 6  4c 6  6 6 6  6  6"),
            ("7", "6    3 7c 4c 7c 5 6 8c 7c 7c"),
            ("8", "6    3 8c 4c 4c 5 6 8c 8c 8c"),
            ("x", "6    xc xc xc xc 5 6 xc xc xc"),
        ],
        connected,
    );
}
