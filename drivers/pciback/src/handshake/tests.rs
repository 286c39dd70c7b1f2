//! Every pair of states, and the rows about devices and keys.

use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use litemap::LiteMap;
use xen_types::{Errno, GrantRef, Port, Sbdf};
use xenstore::XenbusState;

use super::Node;
use super::*;

const KEYS: Keys = Keys { gref: GrantRef(8), port: Port(17) };
const OTHER_KEYS: Keys = Keys { gref: GrantRef(9), port: Port(17) };

fn real(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 3, devfn)
}

fn virt(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

/// The state behind a column's or row's number; 9 is nonsense.
fn state(number: usize) -> Option<XenbusState> {
    XenbusState::ALL.get(number).copied()
}

/// One device, exported and published.
fn nodes(own: Option<XenbusState>, peer: Option<XenbusState>) -> Nodes {
    Nodes {
        own,
        online: true,
        frontend: Ok(()),
        export: None,
        num_devs: Some(1),
        devices: vec![DeviceNodes {
            address: Some(real(0)),
            state: state(3),
            vdev: virt(0).virtual_key().to_string(),
            requested_slot: None,
            root: None,
        }],
        roots: Vec::new(),
        root_num: Some(1),
        peer: Peer { state: peer, keys: Ok(KEYS) },
    }
}

/// An entry as the toolstack writes it.
fn entry(address: Sbdf, number: usize) -> DeviceNodes {
    DeviceNodes { address: Some(address), state: state(number), ..DeviceNodes::default() }
}

fn nothing() -> FrontendState<()> {
    FrontendState::new(ShutdownStage::No)
}

fn frontend(is_connected: bool) -> FrontendState<()> {
    FrontendState {
        devices: LiteMap::from_iter([(real(0), Outcome::Exported(virt(0)))]),
        roots: vec![(0, 0)],
        connection: if is_connected {
            Connection::Connected(Connected { is_announced: true, ..Connected::new(KEYS, ()) })
        } else {
            Connection::Closed
        },
        ..nothing()
    }
}

/// Connected, and our node has not said so yet.
fn unannounced() -> FrontendState<()> {
    FrontendState { connection: Connection::Connected(Connected::new(KEYS, ())), ..frontend(false) }
}

/// No connection is possible with these keys.
fn refused(keys: Result<Keys, InvalidKey>) -> FrontendState<()> {
    let failure = Failure { errno: Errno::EINVAL, text: "cannot map".to_string() };
    FrontendState { connection: Connection::Refused(Refusal { keys, failure }), ..frontend(false) }
}

/// A decision in the letters of the table in `decide`.
fn letters(actions: &[Action]) -> String {
    let letter = |action: &Action| match action {
        Action::Disconnect => "d".to_string(),
        Action::ReleaseAll => "r".to_string(),
        Action::Release(_) => "R".to_string(),
        Action::Seize(_) => "S".to_string(),
        Action::Renew => "n".to_string(),
        Action::Take { .. } => "t".to_string(),
        Action::Connect(_) => "c".to_string(),
        Action::Adopt(..) => "a".to_string(),
        Action::Refuse(_) => "x".to_string(),
        Action::Report(_) => "!".to_string(),
        Action::ClearReport => String::new(),
        Action::Write(nodes) => nodes
            .iter()
            .filter(|(node, _)| *node == Node::State)
            .map(|(_, value)| value.clone())
            .collect::<Vec<_>>()
            .concat(),
    };
    let text = actions.iter().map(letter).collect::<String>();
    if text.is_empty() { "-".to_string() } else { text }
}

/// Compares a row with what is decided for each state of the frontend: gone, 1 to 8, nonsense.
fn assert_row(
    name: &str,
    row: &str,
    own: usize,
    change: impl Fn(&mut Nodes, &mut FrontendState<()>),
    is_connected: bool,
) {
    let decided = (0..10).map(|peer| {
        let (mut nodes, mut frontend) = (nodes(state(own), state(peer)), frontend(is_connected));
        change(&mut nodes, &mut frontend);
        frontend.observe(&nodes);
        letters(&decide(&nodes, &frontend))
    });
    let want = row.split_whitespace().collect::<Vec<_>>();
    assert_eq!(decided.collect::<Vec<_>>(), want, "row {name}");
}

#[test]
fn every_pair_of_states_is_decided_as_the_table_says() {
    let as_is = |_: &mut Nodes, _: &mut FrontendState<()>| {};
    let nothing_held = |_: &mut Nodes, frontend: &mut FrontendState<()>| *frontend = nothing();
    //                                   gone 1   2  3  4  5  6  7  8  nonsense
    assert_row("1", "                    6    2   2  2  2  5  6  2  2  2", 1, nothing_held, false);
    assert_row("1, held before", "       r    r   r  r  r  r  r  r  r  r", 1, as_is, false);
    assert_row("1, in use before", "     dr   dr  dr dr dr dr dr dr dr dr", 1, as_is, true);
    assert_row("2", "                    r6   3   3  3  3  5  6  3  3  3", 2, as_is, false);
    assert_row("3", "                    r6   -   -  c  -  5  6  c  -  -", 3, as_is, false);
    assert_row("4", "                    dr6  dn2 -  -  -  d5 d6 8  -  -", 4, as_is, true);
    assert_row("4, not connected", "     r6   n2  -  n2 5  5  6  c  -  -", 4, as_is, false);
    assert_row("5", "                    dr6  dn2 -  -  -  d  d6 -  -  -", 5, as_is, true);
    assert_row("5, not connected", "     r6   n2  -  n2 -  -  6  -  -  -", 5, as_is, false);
    assert_row("6", "                    r    n2  -  n2 -  -  -  -  -  -", 6, as_is, false);
    assert_row("6, connected", "         d    d   d  d  d  d  d  d  d  d", 6, as_is, true);
    assert_row("7", "                    dr6  dn2 -  -  -  d5 d6 8  -  -", 7, as_is, true);
    assert_row("7, not connected", "     r6   3   3  c  3  5  6  c  3  3", 7, as_is, false);
    assert_row("8", "                    dr6  dn2 -  -  4  d5 d6 -  -  -", 8, as_is, true);
    assert_row("8, not connected", "     r6   n2  -  n2 5  5  6  c  -  -", 8, as_is, false);
    assert_row("nonsense", "             dr6  -   -  -  -  d5 d6 -  -  -", 9, as_is, true);
    assert_row("gone", "                 dr   dr  dr dr dr dr dr dr dr dr", 0, as_is, true);
    assert_row("gone, nothing held", "   -    -   -  -  -  -  -  -  -  -", 0, nothing_held, false);
}

#[test]
fn with_devices_on_their_way_every_pair_is_decided_as_the_table_says() {
    let appended = |nodes: &mut Nodes, _: &mut FrontendState<()>| nodes.devices.push(entry(real(1), 1));
    let taken = |nodes: &mut Nodes, frontend: &mut FrontendState<()>| {
        nodes.devices.push(entry(real(1), 1));
        frontend.devices.insert(real(1), Outcome::Exported(virt(1)));
    };
    let leaving = |nodes: &mut Nodes, _: &mut FrontendState<()>| nodes.devices[0].state = state(5);
    let both = |nodes: &mut Nodes, frontend: &mut FrontendState<()>| {
        appended(nodes, frontend);
        leaving(nodes, frontend);
    };
    let answered = |nodes: &mut Nodes, frontend: &mut FrontendState<()>| {
        both(nodes, frontend);
        frontend.connected_mut().unwrap().is_answered = true;
    };
    //                                 gone 1   2  3  4  5   6   7  8  nonsense
    assert_row("4, appended", "        dr6  dn2 -  -  7  d5  d6  t  -  -", 4, appended, true);
    assert_row("4, taken", "           dr6  dn2 -  -  7  d5  d6  8  -  -", 4, taken, true);
    assert_row("4, leaving", "         dr6  dn2 -  -  7  d5  d6  R  -  -", 4, leaving, true);
    assert_row("7, appended", "        dr6  dn2 -  -  -  d5  d6  t  -  -", 7, appended, true);
    assert_row("7, taken", "           dr6  dn2 -  -  -  d5  d6  8  -  -", 7, taken, true);
    assert_row("7, leaving", "         dr6  dn2 -  -  -  d5  d6  R  -  -", 7, leaving, true);
    assert_row("7, both", "            dr6  dn2 -  -  -  d5  d6  Rt -  -", 7, both, true);
    assert_row("7, both, answered", "  dr6  dn2 -  -  -  d5  d6  8  -  -", 7, answered, true);
    assert_row("4, both, answered", "  dr6  dn2 -  -  7  d5  d6  8  -  -", 4, answered, true);
    assert_row("8, both", "            dr6  dn2 -  -  7  d5  d6  -  -  -", 8, both, true);
    assert_row("8, taken", "           dr6  dn2 -  -  7  d5  d6  -  -  -", 8, taken, true);
    assert_row("3, both", "            r6   Rt  Rt Rt Rt 5   6   c  Rt Rt", 3, both, false);
    assert_row("7, both, no peer", "   r6   Rt  Rt Rt Rt 5   6   c  Rt Rt", 7, both, false);
    assert_row("4, both, inconsistent", "    r6   n2  R  n2 5  5   6   c  R  R", 4, both, false);
    assert_row("6, both", "            r    n2  R  n2 R  R   R   R  R  R", 6, both, false);
}

#[test]
fn a_device_that_is_in_no_entry_any_more_is_released_in_any_state() {
    let taken_away = |nodes: &mut Nodes, _: &mut FrontendState<()>| {
        nodes.devices.clear();
        nodes.num_devs = Some(0);
    };
    //                           gone 1   2  3  4  5  6  7  8  nonsense
    for own in [4, 7, 8] {
        assert_row("forced", "   dr6  dn2 S  S  S  d5 d6 S  S  S", own, taken_away, true);
    }
    assert_row("forced at 5", "  dr6  dn2 S  S  S  d  d6 S  S  S", 5, taken_away, true);
    // While the number of entries is unknown, and where it moved down.
    let uncounted = Nodes { num_devs: None, devices: Vec::new(), ..nodes(state(4), state(4)) };
    assert_eq!(decide(&uncounted, &frontend(true)), []);
    let mut moved = nodes(state(4), state(4));
    moved.devices.insert(0, entry(real(1), 3));
    let mut now = frontend(true);
    now.devices.insert(real(1), Outcome::Exported(virt(1)));
    assert_eq!(decide(&moved, &now), []);
}

#[test]
fn a_frontend_that_went_from_3_to_7_is_connected_and_told_8() {
    for own in [3, 7] {
        let at_7 = nodes(state(own), state(7));
        assert_eq!(decide(&at_7, &frontend(false)), [Action::Connect(KEYS)]);
        let connected = unannounced();
        assert_eq!(letters(&decide(&at_7, &connected)), "8");
        let mut pending = at_7.clone();
        pending.devices.push(entry(real(1), 1));
        assert_eq!(letters(&decide(&pending, &frontend(false))), "c", "first the connection");
        assert_eq!(letters(&decide(&pending, &connected)), "t");
        // Other keys since we connected.
        let mut changed = at_7.clone();
        changed.peer.keys = Ok(OTHER_KEYS);
        assert_eq!(letters(&decide(&changed, &connected)), "d");
        // Keys with which no connection is possible.
        assert_eq!(letters(&decide(&at_7, &refused(Ok(KEYS)))), "!5");
        let mut none = at_7.clone();
        none.peer.keys = Err(InvalidKey::Missing("magic"));
        let want = if own == 3 { "-" } else { "3" };
        assert_eq!(letters(&decide(&none, &frontend(false))), want);
    }
}

#[test]
fn a_7_that_was_answered_is_not_taken_for_another() {
    let mut now = frontend(true);
    // By us, and the toolstack went back to 7 before we looked again.
    now.said(XenbusState::Reconfigured, &nodes(state(7), state(7)));
    let mut again = nodes(state(7), state(7));
    again.devices[0].state = state(5);
    now.observe(&again);
    assert_eq!(letters(&decide(&again, &now)), "8", "the device is not released: the frontend may use it");
    let mut back = again.clone();
    (back.own, back.peer.state) = (state(8), state(4));
    now.observe(&back);
    assert_eq!(letters(&decide(&back, &now)), "7", "the second round");
    now.observe(&again);
    assert_eq!(letters(&decide(&again, &now)), "R");
    // As it is read.
    now.observe(&nodes(state(8), state(7)));
    assert!(now.connected().unwrap().is_answered);
    now.observe(&nodes(state(8), None));
    assert!(!now.connected().unwrap().is_answered);
}

#[test]
fn a_mixed_change_is_published_with_roots_and_state_at_once() {
    let mut nodes = nodes(state(7), state(7));
    nodes.devices[0].state = state(5);
    let requested_slot = Some(0x18);
    nodes.devices.push(DeviceNodes { requested_slot, ..entry(real(8), 1) });
    nodes.devices.push(entry(real(9), 1));
    nodes.num_devs = Some(3);
    nodes.root_num = None;
    let steps = decide(&nodes, &frontend(true));
    let take = |address, requested_slot| Action::Take { address, requested_slot, exact: None };
    assert_eq!(steps, [Action::Release(real(0)), take(real(8), requested_slot), take(real(9), None)]);

    let failed = Outcome::Failed(Failure { errno: Errno::EBUSY, text: "assigned".to_string() });
    let devices = LiteMap::from_iter([(real(8), Outcome::Exported(virt(0x18))), (real(9), failed)]);
    let now = FrontendState { devices, ..frontend(true) };
    let text = |node, text: &str| (node, text.to_string());
    let want = vec![
        text(Node::VirtualDevice(1), "0000:00:03.00"),
        text(Node::DeviceState(1), "3"),
        text(Node::VirtualDevice(2), "ffff:ff:1f.07"),
        text(Node::DeviceState(2), "6"),
        text(Node::Root(0), "0000:00"),
        text(Node::RootCount, "1"),
        text(Node::State, "8"),
    ];
    let steps = decide(&nodes, &now);
    assert_eq!(letters(&steps), "!8", "and the reason of the failure");
    assert_eq!(steps[1], Action::Write(want), "what has left keeps its 5");
}

#[test]
fn while_connected_only_new_entries_are_taken() {
    for (at, want) in [(Some(1), "t"), (Some(3), "t"), (Some(6), "8"), (Some(4), "8"), (None, "8")] {
        let mut nodes = nodes(state(7), state(7));
        nodes.devices.push(DeviceNodes { state: at.and_then(state), ..entry(real(1), 0) });
        assert_eq!(letters(&decide(&nodes, &frontend(true))), want, "{at:?}");
        let mut idle = nodes.clone();
        (idle.own, idle.peer.state) = (state(4), state(4));
        let want = if want == "t" { "7" } else { "-" };
        assert_eq!(letters(&decide(&idle, &frontend(true))), want, "{at:?}");
    }
    // An entry that is leaving and one that stays about the same device: it stays, and nothing is repeated.
    let mut twice = nodes(state(4), state(4));
    twice.devices.push(DeviceNodes { state: state(5), ..twice.devices[0].clone() });
    assert_eq!(decide(&twice, &frontend(true)), []);
}

#[test]
fn with_online_0_a_reconfiguration_ends_in_5() {
    let offline = |nodes: &mut Nodes, frontend: &mut FrontendState<()>| {
        nodes.online = false;
        nodes.devices.push(entry(real(1), 1));
        frontend.devices.insert(real(1), Outcome::Exported(virt(1)));
    };
    //                         gone 1   2  3  4  5  6   7  8  nonsense
    assert_row("8, offline", " dr6  dr6 -  5  5  d5 dr6 -  -  -", 8, offline, true);
    assert_row("7, offline", " dr6  dr6 -  -  -  d5 dr6 8  -  -", 7, offline, true);
    assert_row("5, offline", " dr6  dr6 -  -  -  d  dr6 8  -  -", 5, offline, true);
}

#[test]
fn with_online_0_everything_is_given_back_and_nothing_comes_back() {
    let offline = |nodes: &mut Nodes, _: &mut FrontendState<()>| nodes.online = false;
    let given_back = |nodes: &mut Nodes, frontend: &mut FrontendState<()>| {
        nodes.online = false;
        *frontend = nothing();
    };
    //                                       gone 1   2  3  4  5  6   7  8  nonsense
    assert_row("4", "                        dr6  dr6 -  -  -  d5 dr6 8  -  -", 4, offline, true);
    assert_row("5", "                        dr6  dr6 -  -  -  d  dr6 8  -  -", 5, offline, true);
    assert_row("5, not connected", "         r6   r6  -  -  -  -  r6  -  -  -", 5, offline, false);
    assert_row("6", "                        r    r   r  r  r  -  r   r  r  r", 6, offline, false);
    assert_row("6, nothing held", "          -    -   -  -  -  -  -   -  -  -", 6, given_back, false);
}

#[test]
fn at_the_end_of_the_stub_who_is_connected_is_asked_and_the_others_are_closed() {
    let asked = |_: &mut Nodes, frontend: &mut FrontendState<()>| frontend.stop = ShutdownStage::Asked;
    let now = |_: &mut Nodes, frontend: &mut FrontendState<()>| frontend.stop = ShutdownStage::Now;
    //                          gone 1   2   3   4   5   6   7   8   nonsense
    for own in [3, 4, 7] {
        assert_row("asked", "   dr6  dr6 dr6 5   5   dr6 dr6 8   5   5", own, asked, true);
    }
    assert_row("asked at 8", "  dr6  dr6 dr6 5   5   dr6 dr6 -   5   5", 8, asked, true);
    assert_row("asked at 5", "  dr6  dr6 dr6 -   -   dr6 dr6 8   -   -", 5, asked, true);
    for own in [2, 3, 4, 5, 7, 8, 9] {
        assert_row("idle", "    r6   r6  r6  r6  r6  r6  r6  r6  r6  r6", own, asked, false);
        assert_row("now", "     dr6  dr6 dr6 dr6 dr6 dr6 dr6 dr6 dr6 dr6", own, now, true);
    }
    assert_row("closed", "      r    r   r   r   r   r   r   r   r   r", 6, asked, false);
    assert_row("gone", "        dr   dr  dr  dr  dr  dr  dr  dr  dr  dr", 0, asked, true);
}

#[test]
fn a_frontend_node_that_names_another_directory_ends_everything() {
    let wrong = |nodes: &mut Nodes, _: &mut FrontendState<()>| nodes.frontend = Err("no".to_string());
    for own in [2, 3, 4, 7, 8] {
        assert_row("wrong", "dr!5 dr!5 dr!5 dr!5 dr!5 dr!5 dr!5 dr!5 dr!5 dr!5", own, wrong, true);
    }
    assert_row("wrong at 5", "dr dr dr dr dr dr dr dr dr dr", 5, wrong, true);
    let wrong_and_nothing_held = |nodes: &mut Nodes, frontend: &mut FrontendState<()>| {
        wrong(nodes, frontend);
        *frontend = nothing();
    };
    assert_row("wrong at 1", "!5 !5 !5 !5 !5 !5 !5 !5 !5 !5", 1, wrong_and_nothing_held, false);
    assert_row("wrong at 6", "- - - - - - - - - -", 6, wrong_and_nothing_held, false);
}

#[test]
fn a_frontend_at_4_with_other_keys_than_ours_is_asked_to_close() {
    for own in [4, 5, 7, 8] {
        let mut nodes = nodes(state(own), state(4));
        nodes.peer.keys = Ok(OTHER_KEYS);
        assert_eq!(decide(&nodes, &frontend(true)).first(), Some(&Action::Disconnect), "{own}");
    }
    let mut nodes = nodes(state(4), state(4));
    nodes.peer.keys = Err(InvalidKey::Magic);
    assert_eq!(decide(&nodes, &frontend(true)), [], "what cannot be read is no other key");
}

#[test]
fn a_frontend_at_3_has_restarted_when_it_was_at_4_or_its_keys_changed() {
    for own in [4, 7, 8] {
        let (at_3, mut now) = (nodes(state(own), state(3)), frontend(true));
        now.connected_mut().unwrap().was_in_use = true;
        assert_eq!(letters(&decide(&at_3, &now)), "dn2");
        let mut changed = at_3.clone();
        changed.peer.keys = Ok(OTHER_KEYS);
        assert_eq!(letters(&decide(&changed, &frontend(true))), "dn2");
        changed.peer.keys = Err(InvalidKey::Magic);
        assert_eq!(letters(&decide(&changed, &frontend(true))), "dn2");
        // Not while it is at 4: keys that are rewritten under a running connection mean nothing.
        changed.peer.state = state(4);
        assert_eq!(letters(&decide(&changed, &frontend(true))), if own == 8 { "4" } else { "-" });
        // Nor while it is at 7, unless they are new ones: then it went through 3 while we were not looking.
        changed.peer.state = state(7);
        assert_eq!(letters(&decide(&changed, &frontend(true))), if own == 8 { "-" } else { "8" });
        changed.peer.keys = Ok(OTHER_KEYS);
        assert_eq!(letters(&decide(&changed, &frontend(true))), "dn2");
        let mut went_to_7 = frontend(true);
        went_to_7.observe(&nodes(state(own), state(7)));
        assert_eq!(letters(&decide(&at_3, &went_to_7)), "dn2");
    }
}

#[test]
fn keys_that_failed_are_not_tried_again_until_they_change_or_are_withdrawn() {
    let mut now = refused(Ok(KEYS));
    assert_eq!(letters(&decide(&nodes(state(3), state(3)), &now)), "!5");
    for own in [5, 6] {
        assert_eq!(letters(&decide(&nodes(state(own), state(3)), &now)), "-");
        let mut changed = nodes(state(own), state(3));
        changed.peer.keys = Ok(OTHER_KEYS);
        assert_eq!(letters(&decide(&changed, &now)), "n2");
    }
    now.observe(&nodes(state(5), state(6)));
    assert_eq!(letters(&decide(&nodes(state(5), state(3)), &now)), "n2");
}

#[test]
fn invalid_keys_are_refused_and_reported() {
    let mut at_3 = nodes(state(3), state(3));
    at_3.peer.keys = Err(InvalidKey::Missing("magic"));
    assert_eq!(decide(&at_3, &frontend(false)), [Action::Refuse(InvalidKey::Missing("magic"))]);
    assert_eq!(letters(&decide(&at_3, &refused(at_3.peer.keys))), "!5");
}

#[test]
fn what_belongs_to_a_connection_ends_with_it() {
    let mut now = frontend(true);
    now.observe(&nodes(state(8), state(7)));
    let ended = now.disconnect().unwrap();
    assert!(ended.is_answered && ended.was_in_use && ended.is_announced);
    assert_eq!(now.disconnect(), None);
    assert_eq!(now.connection, Connection::Closed);
    // The next one begins anew, though the frontend is still at the same 7.
    now.change_connection(Connection::Connected(Connected::new(OTHER_KEYS, ())));
    let mut pending = nodes(state(7), state(7));
    pending.peer.keys = Ok(OTHER_KEYS);
    pending.devices.push(entry(real(1), 1));
    now.observe(&pending);
    assert_eq!(letters(&decide(&pending, &now)), "t");
    // Without one there is nothing to be disconnected, and a refusal stays as long as the keys do.
    let mut refused = refused(Ok(KEYS));
    assert_eq!(refused.disconnect(), None);
    refused.observe(&nodes(state(3), state(3)));
    assert!(refused.has_refused(Ok(KEYS)) && !refused.has_refused(Ok(OTHER_KEYS)));
}

#[test]
fn a_connection_is_announced_once_it_is_made_and_dropped_if_the_frontend_went_back() {
    for own in [3, 7] {
        let now = unannounced();
        assert_eq!(letters(&decide(&nodes(state(own), state(3)), &now)), "4");
        assert_eq!(letters(&decide(&nodes(state(own), state(1)), &now)), "d");
        let mut changed = nodes(state(own), state(3));
        changed.peer.keys = Ok(OTHER_KEYS);
        assert_eq!(letters(&decide(&changed, &now)), "d");
    }
}

/// Entry N for each pair of `dev-N` and `state-N`, nothing published.
fn listed(own: usize, entries: &[(Option<Sbdf>, Option<usize>)]) -> Nodes {
    let devices = entries.iter().map(|(address, number)| DeviceNodes {
        address: *address,
        state: number.and_then(state),
        ..DeviceNodes::default()
    });
    Nodes {
        num_devs: u32::try_from(entries.len()).ok(),
        devices: devices.collect(),
        root_num: None,
        ..nodes(state(own), state(1))
    }
}

#[test]
fn everything_listed_is_taken_then_published_with_roots_and_state_at_once() {
    let nodes = listed(2, &[(Some(real(0)), Some(1)), (Some(real(1)), Some(1))]);
    let take = |address| Action::Take { address, requested_slot: None, exact: None };
    assert_eq!(decide(&nodes, &nothing()), [take(real(0)), take(real(1))]);

    let devices = LiteMap::from_iter([(real(0), Outcome::Exported(virt(0))), (real(1), Outcome::Exported(virt(1)))]);
    let now = FrontendState { devices, roots: vec![(0, 0)], ..nothing() };
    let text = |node, text: &str| (node, text.to_string());
    let want = vec![
        text(Node::VirtualDevice(0), "0000:00:00.00"),
        text(Node::DeviceState(0), "3"),
        text(Node::VirtualDevice(1), "0000:00:00.01"),
        text(Node::DeviceState(1), "3"),
        text(Node::Root(0), "0000:00"),
        text(Node::RootCount, "1"),
        text(Node::State, "3"),
    ];
    assert_eq!(decide(&nodes, &now), [Action::Write(want)]);
}

/// The second would fail, and nobody would know any more that the frontend has the device.
#[test]
fn a_device_that_is_listed_twice_is_taken_once_though_its_entries_want_different_slots() {
    let mut nodes = listed(2, &[(Some(real(0)), Some(1)), (Some(real(0)), Some(1))]);
    nodes.devices[1].requested_slot = Some(0x28);
    let take = Action::Take { address: real(0), requested_slot: None, exact: None };
    assert_eq!(decide(&nodes, &nothing()), [take]);
}

#[test]
fn a_device_state_that_says_no_state_is_written_and_one_that_is_missing_is_not() {
    let devices = LiteMap::from_iter([(real(0), Outcome::Exported(virt(0)))]);
    let now = FrontendState { devices, roots: vec![(0, 0)], ..nothing() };
    for (number, want) in [(Some(0), vec!["3"]), (None, vec![])] {
        let actions = decide(&listed(2, &[(Some(real(0)), number)]), &now);
        let [Action::Write(writes)] = actions.as_slice() else { panic!("{actions:?}") };
        let states = writes.iter().filter(|(node, _)| *node == Node::DeviceState(0)).map(|(_, value)| value.as_str());
        assert_eq!(states.collect::<Vec<_>>(), want, "{number:?}");
    }
}

#[test]
fn one_bad_device_fails_alone() {
    let failed = |text: &str| Failure { errno: Errno::ENODEV, text: text.to_string() };
    let entries =
        [(Some(real(0)), Some(1)), (None, Some(1)), (Some(real(1)), Some(1)), (Some(real(0)), Some(1)), (None, None)];
    let devices = LiteMap::from_iter([
        (real(0), Outcome::Exported(virt(0))),
        (real(1), Outcome::Failed(failed("not in the pool"))),
    ]);
    let now = FrontendState { devices, roots: vec![(0, 0)], ..nothing() };
    for own in [2, 3] {
        let actions = decide(&listed(own, &entries), &now);
        let [Action::Report(report), Action::Write(writes)] = actions.as_slice() else {
            panic!("{actions:?}");
        };
        assert_eq!(report.errno, Errno::EINVAL);
        for reason in ["dev-1 is no PCI address", "not in the pool", "0000:03:00.0 is listed twice"] {
            assert!(report.text.contains(reason), "{reason}: {}", report.text);
        }
        let states = writes.iter().filter_map(|(node, value)| match node {
            Node::DeviceState(index) => Some((*index, value.as_str())),
            _ => None,
        });
        assert_eq!(states.collect::<Vec<_>>(), [(0, "3"), (1, "6"), (2, "6"), (3, "6")]);
        // An address that pcifront can read when it is told to let go of them, and where it has no device.
        let addresses = writes.iter().filter_map(|(node, value)| match node {
            Node::VirtualDevice(index) => Some((*index, value.as_str())),
            _ => None,
        });
        let nowhere = "ffff:ff:1f.07";
        assert_eq!(addresses.collect::<Vec<_>>(), [(0, "0000:00:00.00"), (1, nowhere), (2, nowhere), (3, nowhere)]);
    }
    // Once told, it is not told again.
    let told = entries.map(|(address, state)| (address, state.map(|_| 6)));
    let mut nodes = Nodes { root_num: Some(1), ..listed(3, &told) };
    nodes.devices.iter_mut().for_each(|device| device.vdev = "ffff:ff:1f.07".to_string());
    nodes.devices[0] = DeviceNodes { state: state(3), vdev: "0000:00:00.00".to_string(), ..nodes.devices[0].clone() };
    assert_eq!(decide(&nodes, &now), []);
}

#[test]
fn devices_come_and_go_at_3_without_asking() {
    let both = [(Some(real(0)), Some(3)), (Some(real(1)), Some(1))];
    let take = Action::Take { address: real(1), requested_slot: None, exact: None };
    assert_eq!(decide(&listed(3, &both), &frontend(false)), [take]);

    let leaving = listed(3, &[(Some(real(0)), Some(5))]);
    assert_eq!(decide(&leaving, &frontend(false)), [Action::Release(real(0))]);
    assert_eq!(decide(&listed(3, &[]), &frontend(false)), [Action::Release(real(0))]);
}

#[test]
fn a_device_on_its_way_out_is_not_exported_at_the_start() {
    let nodes = listed(2, &[(Some(real(0)), Some(5))]);
    let now = FrontendState { roots: vec![(0, 0)], ..nothing() };
    let actions = decide(&nodes, &now);
    let [Action::Write(writes)] = actions.as_slice() else { panic!("{actions:?}") };
    let written = writes.iter().map(|(node, _)| *node).collect::<Vec<_>>();
    assert_eq!(written, [Node::Root(0), Node::RootCount, Node::State]);
}

#[test]
fn a_missing_or_absurd_num_devs_waits_at_2() {
    let missing = Nodes { num_devs: None, devices: Vec::new(), ..nodes(state(2), state(1)) };
    assert_eq!(decide(&missing, &frontend(false)), []);
    let absurd = Nodes { num_devs: Some(u32::MAX), devices: Vec::new(), ..nodes(state(2), state(1)) };
    assert_eq!(letters(&decide(&absurd, &frontend(false))), "!");
    let later = Nodes { num_devs: None, devices: Vec::new(), ..nodes(state(3), state(1)) };
    assert_eq!(decide(&later, &frontend(false)), [], "a missing count takes nothing away");
}

#[test]
fn keys_are_decimal_numbers_and_the_magic_is_exact() {
    let read = |gref: &str, port: &str, magic: &str| {
        Keys::read(Some(gref.as_bytes()), Some(port.as_bytes()), Some(magic.as_bytes()))
    };
    assert_eq!(read("8", "17", "7"), Ok(KEYS));
    assert_eq!(read(" 8\n", "17\0", "7\0"), Ok(KEYS));
    for bad in ["", "-1", "+8", "0x8", "8x", "eight", "4294967296", "99999999999999999999", "\u{663}"] {
        assert_eq!(read(bad, "17", "7"), Err(InvalidKey::NotANumber("pci-op-ref")), "{bad:?}");
        assert_eq!(read("8", bad, "7"), Err(InvalidKey::NotANumber("event-channel")), "{bad:?}");
    }
    for bad in ["", "8", "77", "07", " 7", "7 "] {
        assert_eq!(read("8", "17", bad), Err(InvalidKey::Magic), "{bad:?}");
    }
    assert_eq!(Keys::read(None, None, None), Err(InvalidKey::Missing("pci-op-ref")));
    assert_eq!(Keys::read(Some(b"8"), None, None), Err(InvalidKey::Missing("event-channel")));
    assert_eq!(Keys::read(Some(b"8"), Some(b"17"), None), Err(InvalidKey::Missing("magic")));
    assert_eq!(Keys::read(Some(b"8\xff"), Some(b"17"), None), Err(InvalidKey::NotANumber("pci-op-ref")));
}

#[test]
fn a_state_node_is_a_state_or_gone_or_nonsense() {
    assert_eq!(read_state(None), Some(XenbusState::Unknown));
    assert_eq!(read_state(Some(b"0")), Some(XenbusState::Unknown));
    assert_eq!(read_state(Some(b"4")), Some(XenbusState::Connected));
    for nonsense in [&b""[..], b"9", b"-1", b"four", b"\xff", b"4 4", b"44"] {
        assert_eq!(read_state(Some(nonsense)), None, "{nonsense:?}");
    }
}

#[test]
fn after_a_restart_in_place_everything_that_was_published_is_taken_again_before_anything_else() {
    let taken = |address, virtual_address| Action::Take { address, requested_slot: None, exact: Some(virtual_address) };
    let was_exported = |number, state| DeviceNodes {
        vdev: virt(number).virtual_key().to_string(),
        state: self::state(state),
        ..entry(real(number), number.into())
    };
    let mut nodes = nodes(self::state(4), self::state(7));
    // Exported; leaving, and the guest has not answered; failed, which is published as nowhere; not looked at yet.
    let nowhere = DeviceNodes { vdev: super::decide::NOWHERE.virtual_key().to_string(), ..was_exported(2, 6) };
    nodes.devices = vec![was_exported(0, 3), was_exported(1, 5), nowhere, entry(real(3), 3)];
    let adopting = FrontendState { is_adopting: true, ..frontend(false) };
    let wanted = [
        taken(real(0), virt(0)),
        taken(real(1), virt(1)),
        Action::Adopt(Ok::<_, InvalidKey>(KEYS).ok(), [self::state(4), self::state(7)]),
    ];
    assert_eq!(decide(&nodes, &adopting), wanted);
    // Also where the nodes alone would have everything given back.
    nodes.own = Some(XenbusState::Unknown);
    assert!(matches!(decide(&nodes, &adopting)[..], [_, _, Action::Adopt(..)]));
}

/// Found by `exhaustive`.
#[test]
fn what_became_of_an_entry_before_the_frontend_was_there_is_told_in_a_round_of_its_own() {
    let nodes = |number: usize| {
        let mut nodes = nodes(state(4), state(4));
        nodes.devices[0].state = state(number);
        nodes
    };
    let failed = || {
        let outcome = Outcome::Failed(Failure { errno: Errno::ENODEV, text: "gone".to_string() });
        FrontendState { devices: LiteMap::from_iter([(real(0), outcome)]), ..frontend(true) }
    };
    assert_eq!(letters(&decide(&nodes(3), &frontend(true))), "-");
    assert_eq!(letters(&decide(&nodes(6), &failed())), "-");
    assert_eq!(letters(&decide(&nodes(6), &frontend(true))), "-", "NetBSD has no round that is not the toolstack's");
    assert_eq!(letters(&decide(&nodes(3), &failed())), "7", "another one had it");
    // One that stands there twice is had for its first entry, and has failed for the second.
    let mut twice = nodes(3);
    twice.devices.push(DeviceNodes { state: state(6), ..twice.devices[0].clone() });
    twice.num_devs = Some(2);
    assert_eq!(letters(&decide(&twice, &frontend(true))), "-");
}

/// Found by `exhaustive`.
#[test]
fn what_ends_for_good_ends_from_8_also_where_the_frontend_began_anew() {
    for (peer, wanted) in [(2, "-"), (3, "5"), (4, "5"), (7, "-"), (8, "-"), (9, "-")] {
        let nodes = Nodes { online: false, ..nodes(state(8), state(peer)) };
        assert_eq!(letters(&decide(&nodes, &frontend(true))), wanted, "{peer}");
    }
}
