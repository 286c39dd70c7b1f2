//! The handshake, explored completely: every state that a frontend, the toolstack, the pool and crashes of the image can bring about together, each
//! move of theirs between any two transactions of ours. A world is small enough to be counted: one device with a frontend that writes whatever it wants,
//! or two with one that does what Linux' pcifront does.
//!
//! In each: we come to rest; nothing is promised that we do not have; what is closed for good holds nothing; and a frontend and a toolstack that do
//! their part from there on come to where they want to be.

use alloc::collections::VecDeque;
use alloc::string::ToString as _;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::HashMap;
use std::println;

use litemap::LiteMap;
use xen_types::{Errno, GrantRef, Port, Sbdf};
use xenstore::XenbusState;

use super::decide::NOWHERE;
use super::*;

/// `state` nodes by their number; this one says no state.
const NONSENSE: u8 = 9;

/// Number of a state as xenbus has them.
const GONE: u8 = 0;
const INITIALISING: u8 = 1;
const INITIALISED: u8 = 3;
const CONNECTED: u8 = 4;
const CLOSING: u8 = 5;
const CLOSED: u8 = 6;
const RECONFIGURING: u8 = 7;
const RECONFIGURED: u8 = 8;

/// Keys of a frontend: those that can be mapped, and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum KeyNodes {
    Missing,
    Good,
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum VirtualNode {
    Empty,
    Right,
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Entry {
    device: u8,
    state: u8,
    vdev: VirtualNode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Held {
    No,
    Exported,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Closed,
    Renewed,
    Refused(KeyNodes),
    Connected { is_announced: bool, was_in_use: bool, is_answered: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    own: u8,
    online: bool,
    peer: u8,
    keys: KeyNodes,
    entries: [Option<Entry>; 2],
    /// Whether `root_num` is there, and whether it counts a bus.
    root_num: Option<bool>,
    held: [Held; 2],
    has_root: bool,
    link: Link,
    stop: u8,
    is_adopting: bool,
    /// What a crash leaves: the mapped page, and devices of which the pool says that the frontend has them.
    is_mapped: bool,
    was_held: [bool; 2],
    /// Whether the pool can give the last device away.
    is_available: bool,
}

fn real(device: u8) -> Sbdf {
    Sbdf::from_devfn(0, 3, device << 3)
}

fn virt(device: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, device << 3)
}

fn state(number: u8) -> Option<XenbusState> {
    XenbusState::ALL.get(usize::from(number)).copied()
}

fn number(state: XenbusState) -> u8 {
    XenbusState::ALL.iter().position(|other| *other == state).and_then(|at| u8::try_from(at).ok()).unwrap_or(NONSENSE)
}

fn keys(keys: KeyNodes) -> Result<Keys, InvalidKey> {
    match keys {
        KeyNodes::Missing => Err(InvalidKey::Missing("pci-op-ref")),
        KeyNodes::Good => Ok(Keys { gref: GrantRef(8), port: Port(17) }),
        KeyNodes::Bad => Ok(Keys { gref: GrantRef(9), port: Port(17) }),
    }
}

fn failure() -> Failure {
    Failure { errno: Errno::ENODEV, text: "it cannot be had".to_string() }
}

impl World {
    /// As the toolstack makes both directories, for the first device.
    const NEW: Self = Self {
        own: INITIALISING,
        online: true,
        peer: INITIALISING,
        keys: KeyNodes::Missing,
        entries: [Some(Entry { device: 0, state: INITIALISING, vdev: VirtualNode::Empty }), None],
        root_num: None,
        held: [Held::No; 2],
        has_root: false,
        link: Link::Closed,
        stop: 0,
        is_adopting: false,
        is_mapped: false,
        was_held: [false; 2],
        is_available: true,
    };

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter().flatten()
    }

    fn nodes(&self) -> Nodes {
        let device = |entry: Entry| DeviceNodes {
            address: Some(real(entry.device)),
            state: state(entry.state),
            vdev: match entry.vdev {
                VirtualNode::Empty => "".to_string(),
                VirtualNode::Right => virt(entry.device).virtual_key().to_string(),
                VirtualNode::Nowhere => NOWHERE.virtual_key().to_string(),
            },
            requested_slot: None,
            root: None,
        };
        let devices: Vec<_> = self.entries().map(device).collect();
        Nodes {
            own: state(self.own),
            online: self.online,
            frontend: Ok(()),
            export: None,
            num_devs: u32::try_from(devices.len()).ok(),
            devices,
            roots: if self.root_num == Some(true) && self.is_adopting { vec![virt(0)] } else { Vec::new() },
            root_num: self.root_num.map(u32::from),
            peer: Peer { state: state(self.peer), keys: keys(self.keys) },
        }
    }

    fn frontend(&self) -> FrontendState<()> {
        let outcomes = [0, 1].into_iter().zip(self.held).filter_map(|(device, held)| match held {
            Held::No => None,
            Held::Exported => Some((real(device), Outcome::Exported(virt(device)))),
            Held::Failed => Some((real(device), Outcome::Failed(failure()))),
        });
        let good = keys(KeyNodes::Good).unwrap();
        FrontendState {
            devices: LiteMap::from_iter(outcomes),
            roots: if self.has_root { vec![(0, 0)] } else { Vec::new() },
            connection: match self.link {
                Link::Closed => Connection::Closed,
                Link::Renewed => Connection::Renewed,
                Link::Refused(which) => Connection::Refused(Refusal { keys: keys(which), failure: failure() }),
                Link::Connected { is_announced, was_in_use, is_answered } => Connection::Connected(Connected {
                    is_announced,
                    was_in_use,
                    is_answered,
                    ..Connected::new(good, ())
                }),
            },
            stop: [ShutdownStage::No, ShutdownStage::Asked, ShutdownStage::Now][usize::from(self.stop)],
            is_idle: false,
            is_adopting: self.is_adopting,
        }
    }

    /// Takes over what became of the frontend's state.
    fn note(&mut self, frontend: &FrontendState<()>) {
        for (device, held) in (0..).zip(&mut self.held) {
            *held = match frontend.devices.get(&real(device)) {
                None => Held::No,
                Some(Outcome::Exported(_)) => Held::Exported,
                Some(Outcome::Failed(_)) => Held::Failed,
            };
        }
        self.has_root = !frontend.roots.is_empty();
        self.is_adopting = frontend.is_adopting;
        self.link = match &frontend.connection {
            Connection::Closed => Link::Closed,
            Connection::Renewed => Link::Renewed,
            Connection::Refused(refusal) => Link::Refused(match refusal.keys {
                Err(_) => KeyNodes::Missing,
                Ok(found) if Ok(found) == keys(KeyNodes::Good) => KeyNodes::Good,
                Ok(_) => KeyNodes::Bad,
            }),
            &Connection::Connected(Connected { is_announced, was_in_use, is_answered, .. }) => {
                Link::Connected { is_announced, was_in_use, is_answered }
            }
        };
    }

    /// One round as `tasks/frontend.rs` makes it: steps of our own, or writes in one transaction. `None` when there is nothing to do.
    fn round(&self) -> Option<Self> {
        let (mut next, nodes, mut frontend) = (*self, self.nodes(), self.frontend());
        frontend.observe(&nodes);
        let in_use = frontend.devices.values().any(|outcome| matches!(outcome, Outcome::Exported(_)));
        frontend.observe_roots(&nodes, in_use.then_some((0, 0)).into_iter());
        let actions = decide(&nodes, &frontend);
        if actions.iter().any(Action::is_local) {
            for action in actions {
                next.apply(&mut frontend, action);
            }
        } else {
            let writes: Vec<_> = actions
                .iter()
                .filter_map(|action| if let Action::Write(nodes) = action { Some(nodes) } else { None })
                .flatten()
                .collect();
            if writes.is_empty() {
                next.note(&frontend);
                return (next != *self).then_some(next);
            }
            for (node, value) in writes {
                next.write(*node, value);
            }
            if let Some(own) = actions.iter().find_map(Action::state) {
                frontend.said(own, &nodes);
            }
        }
        next.note(&frontend);
        Some(next)
    }

    /// As `frontend/mod.rs` does it.
    fn apply(&mut self, frontend: &mut FrontendState<()>, action: Action) {
        let index = |address: Sbdf| usize::from(address.devfn() >> 3);
        match action {
            Action::Disconnect => {
                frontend.disconnect();
                self.is_mapped = false;
            }
            Action::ReleaseAll => {
                frontend.devices.clear();
                self.was_held = [false; 2];
            }
            Action::Release(address) | Action::Seize(address) => {
                frontend.devices.remove(&address);
                self.was_held[index(address)] = false;
            }
            Action::Renew => {
                if !frontend.is_connected() {
                    frontend.devices.retain(|_, outcome| matches!(outcome, Outcome::Exported(_)));
                    frontend.change_connection(Connection::Renewed);
                }
            }
            Action::Take { address, exact, .. } => {
                let device = index(address);
                if exact.is_some() && !self.was_held[device] {
                    return;
                }
                let is_free = exact.is_some() || device + 1 < self.held.len() || self.is_available;
                let outcome = match is_free {
                    true => Outcome::Exported(exact.unwrap_or(virt(u8::try_from(device).unwrap()))),
                    false => Outcome::Failed(failure()),
                };
                self.was_held[device] |= is_free;
                frontend.devices.insert(address, outcome);
            }
            Action::Connect(wanted) => self.connect(frontend, wanted),
            Action::Refuse(invalid) => {
                if !frontend.is_connected() {
                    let refusal = Refusal { keys: Err(invalid), failure: failure() };
                    frontend.change_connection(Connection::Refused(refusal));
                }
            }
            Action::Adopt(found, [own, peer]) => {
                frontend.is_adopting = false;
                let is_same = self.is_mapped && found == keys(KeyNodes::Good).ok();
                self.is_mapped = false; // unclaimed mappings are unmapped
                // The same for devices.
                for (device, was_held) in (0..).zip(&mut self.was_held) {
                    *was_held &= frontend.devices.contains_key(&real(device));
                }
                if let Some(found) = found.filter(|_| is_same) {
                    self.connect(frontend, found);
                }
                if let Some(connected) = frontend.connected_mut() {
                    connected.is_announced = own != Some(XenbusState::Initialised);
                    connected.was_in_use = !matches!(peer, Some(XenbusState::Initialising | XenbusState::Initialised));
                }
            }
            Action::Report(_) | Action::ClearReport | Action::Write(_) => {}
        }
    }

    fn connect(&mut self, frontend: &mut FrontendState<()>, wanted: Keys) {
        if frontend.is_connected() {
            return;
        }
        self.is_mapped = Ok(wanted) == keys(KeyNodes::Good);
        frontend.change_connection(match self.is_mapped {
            true => Connection::Connected(Connected::new(wanted, ())),
            false => Connection::Refused(Refusal { keys: Ok(wanted), failure: failure() }),
        });
    }

    fn write(&mut self, node: Node, value: &str) {
        let entry = |world: &mut Self, index: u32| {
            let index = usize::try_from(index).unwrap();
            world.entries.get_mut(index).and_then(Option::as_mut).copied().map(|entry| (index, entry))
        };
        match node {
            Node::State => self.own = number(XenbusState::parse(value)),
            Node::DeviceState(index) => {
                let (index, old) = entry(self, index).unwrap();
                self.entries[index] = Some(Entry { state: number(XenbusState::parse(value)), ..old });
            }
            Node::VirtualDevice(index) => {
                let (index, old) = entry(self, index).unwrap();
                let right = virt(old.device).virtual_key().to_string();
                let vdev = if value == right { VirtualNode::Right } else { VirtualNode::Nowhere };
                self.entries[index] = Some(Entry { vdev, ..old });
            }
            Node::Root(_) => {}
            Node::RootCount => self.root_num = Some(value == "1"),
        }
    }

    /// Rounds until there is nothing to do.
    fn at_rest(mut self) -> Self {
        for _ in 0..30 {
            match self.round() {
                Some(next) => self = next,
                None => return self,
            }
        }
        panic!("it does not come to rest: {self:?}")
    }

    fn crash(mut self) -> Self {
        self.held = [Held::No; 2];
        self.has_root = false;
        self.link = Link::Closed;
        self.stop = 0;
        self.is_adopting = true;
        self
    }

    fn without_entry(mut self, index: usize) -> Self {
        let left: Vec<Entry> =
            (0..).zip(self.entries).filter(|(at, _)| *at != index).filter_map(|(_, entry)| entry).collect();
        self.entries = [left.first().copied(), left.get(1).copied()];
        self
    }

    /// The toolstack's moves: hot-plug with a round of 7 and 8, entries removed by force, patience that ends, the end of all, and new directories.
    fn moves_of_toolstack(&self, devices: u8) -> Vec<Self> {
        let begin = |mut world: Self| {
            if world.own == CONNECTED {
                world.own = RECONFIGURING;
            }
            world
        };
        let mut moves = Vec::new();
        for device in (0..devices).filter(|device| self.entries().all(|entry| entry.device != *device)) {
            let mut world = *self;
            let place = world.entries.iter_mut().find(|entry| entry.is_none()).unwrap();
            *place = Some(Entry { device, state: INITIALISING, vdev: VirtualNode::Empty });
            moves.push(begin(world));
        }
        for (index, entry) in (0..).zip(self.entries).filter_map(|(index, entry)| Some((index, entry?))) {
            let mut leaving = *self;
            leaving.entries[index] = Some(Entry { state: CLOSING, ..entry });
            moves.push(begin(leaving));
            moves.push(self.without_entry(index));
        }
        if self.own == RECONFIGURING {
            moves.push(Self { own: CONNECTED, ..*self });
        }
        moves.push(Self { own: CLOSING, online: false, ..*self });
        let Self { held, link, has_root, stop, is_adopting, is_mapped, was_held, is_available, .. } = *self;
        moves.push(Self { held, link, has_root, stop, is_adopting, is_mapped, was_held, is_available, ..Self::NEW });
        if devices == 2 {
            moves.push(self.with_available(!self.is_available));
        }
        moves
    }

    /// The last device is given to another guest, or comes back: then its refusal is forgotten.
    fn with_available(mut self, is_available: bool) -> Self {
        if self.was_held[1] {
            return self;
        }
        self.is_available = is_available;
        if is_available && self.held[1] == Held::Failed {
            self.held[1] = Held::No;
        }
        self
    }

    /// A frontend that writes what it wants.
    fn moves_of_rogue(&self) -> Vec<Self> {
        let mut moves: Vec<Self> = (GONE..=NONSENSE).map(|peer| Self { peer, ..*self }).collect();
        let others = [KeyNodes::Missing, KeyNodes::Good, KeyNodes::Bad];
        moves.extend(others.map(|keys| Self { keys, ..*self }));
        moves
    }

    /// What Linux' pcifront does next by itself (`drivers/pci/xen-pcifront.c`), if anything.
    fn move_of_linux(&self) -> Option<Self> {
        let peer = match (self.own, self.peer) {
            (_, INITIALISING) => return Some(Self { peer: INITIALISED, keys: KeyNodes::Good, ..*self }),
            (CLOSING | CLOSED, 2..=CONNECTED | CLOSING | RECONFIGURING | RECONFIGURED) => CLOSED,
            (CONNECTED, INITIALISED) | (RECONFIGURED, RECONFIGURING) => CONNECTED,
            (RECONFIGURING, CONNECTED) => RECONFIGURING,
            _ => return None,
        };
        Some(Self { peer, ..*self })
    }

    /// A driver that is loaded anew, or a guest that boots: what it wrote before is gone.
    fn reloaded(&self) -> Self {
        Self { peer: INITIALISING, keys: KeyNodes::Missing, ..*self }
    }

    /// What the toolstack does when both are done with an entry that it had asked to leave.
    fn move_of_patient_toolstack(&self) -> Option<Self> {
        let index = self.entries.iter().position(|entry| entry.is_some_and(|entry| entry.state == CLOSING))?;
        (self.own != RECONFIGURING && !(self.own == RECONFIGURED && self.peer != CONNECTED))
            .then(|| self.without_entry(index))
    }

    /// Backend, frontend and toolstack act until none of them has anything to do.
    fn together(mut self) -> Self {
        for _ in 0..60 {
            self = self.at_rest();
            self = match self.move_of_linux().or_else(|| self.move_of_patient_toolstack()) {
                Some(next) => next,
                // It was asked for while the frontend was not connected, or an entry is new that was not told.
                None if self.own == CONNECTED && self.peer == CONNECTED && self.has_news() => {
                    Self { own: RECONFIGURING, ..self }
                }
                None => return self,
            };
        }
        panic!("it goes on for ever: {self:?}")
    }

    fn has_news(&self) -> bool {
        self.entries().any(|entry| entry.state == INITIALISING)
    }

    /// What must hold whenever we are at rest.
    fn check(&self) {
        let is_connected = matches!(self.link, Link::Connected { .. });
        assert_eq!(is_connected, self.is_mapped, "{self:?}");
        assert!(!self.is_adopting, "{self:?}");
        let is_held = self.held.map(|held| held == Held::Exported);
        assert_eq!(is_held, self.was_held, "{self:?}");
        if self.own == CLOSED && !self.online {
            assert!(!is_connected && self.held.iter().all(|held| *held == Held::No), "something is left: {self:?}");
        }
        if is_connected && (self.own, self.peer) == (CONNECTED, CONNECTED) && self.online && self.stop == 0 {
            for entry in self.entries().filter(|entry| entry.state == INITIALISED && entry.vdev == VirtualNode::Right) {
                assert_eq!(self.held[usize::from(entry.device)], Held::Exported, "it is promised: {self:?}");
            }
        }
    }

    /// Whether everybody gets what they want from here on, if they do their part.
    fn check_outcome(&self) {
        let mut world = self.together();
        world.check();
        let has_nothing = |world: &Self| world.held == [Held::No; 2] && !world.is_mapped;
        if world.stop != 0 || !world.online {
            // The toolstack does not wait for a frontend that is gone or whose state is none.
            if [INITIALISED, CONNECTED, CLOSING, CLOSED, RECONFIGURING].contains(&self.peer) {
                assert!(world.own == CLOSED && has_nothing(&world), "it does not close: {self:?} to {world:?}");
            }
            return;
        }
        if (world.own, world.peer) != (CONNECTED, CONNECTED) {
            world = world.reloaded().together();
            world.check();
        }
        assert_eq!((world.own, world.peer), (CONNECTED, CONNECTED), "it does not connect: {self:?} to {world:?}");
        for entry in world.entries() {
            let held = world.held[usize::from(entry.device)];
            let is_told = match held {
                // One that had failed, and was taken as the frontend came, is not told before the toolstack's next round: a frontend that knows no rounds
                // must see none of ours.
                Held::Exported => {
                    entry.state == CLOSED || (entry.state, entry.vdev) == (INITIALISED, VirtualNode::Right)
                }
                // What has failed stays so while the frontend runs, also when it could be had by now.
                Held::Failed | Held::No => entry.state == CLOSED,
            };
            assert!(is_told, "{entry:?} is {held:?}: {self:?} to {world:?}");
        }
        for (device, held) in (0..).zip(world.held) {
            let is_listed = world.entries().any(|entry| entry.device == device);
            assert!(is_listed || held == Held::No, "device {device} is in no entry: {self:?} to {world:?}");
        }
    }
}

/// Looks at everything that can be reached.
fn explore(moves: impl Fn(&World) -> Vec<World>) -> usize {
    let mut parents = HashMap::from([(World::NEW, World::NEW)]);
    // The shortest way to each comes first.
    let mut open = VecDeque::from([World::NEW]);
    while let Some(world) = open.pop_front() {
        let steps = moves(&world).into_iter().chain(world.round()).chain([world.crash()]);
        for next in steps {
            parents.entry(next).or_insert_with(|| {
                open.push_back(next);
                world
            });
        }
        let checked = std::panic::catch_unwind(|| {
            world.at_rest().check();
            world.check_outcome();
        });
        if let Err(failed) = checked {
            let mut at = world;
            println!("how it came to that, last first:");
            while at != World::NEW {
                println!("  {at:?}");
                at = parents[&at];
            }
            std::panic::resume_unwind(failed);
        }
    }
    parents.len()
}

/// The image is asked to end, and then has no patience any more.
fn moves_of_shutdown(world: &World) -> Option<World> {
    (world.stop < 2 && !world.is_adopting).then_some(World { stop: world.stop + 1, ..*world })
}

#[test]
fn with_one_device_and_any_frontend_every_state_leads_to_where_it_should() {
    let count = explore(|world| {
        let moves = world.moves_of_toolstack(1).into_iter();
        moves.chain(world.moves_of_rogue()).chain(moves_of_shutdown(world)).collect()
    });
    println!("{count} states");
}

#[test]
fn with_two_devices_and_a_frontend_like_linux_every_state_leads_to_where_it_should() {
    let count = explore(|world| {
        let mut moves = world.moves_of_toolstack(2);
        moves.extend(world.move_of_linux());
        moves.push(world.reloaded());
        moves.push(World { peer: GONE, ..*world });
        moves
    });
    println!("{count} states");
}

#[test]
#[ignore = "four million states: a minute and a half with --release"]
fn with_two_devices_and_any_frontend_every_state_leads_to_where_it_should() {
    let count = explore(|world| {
        let moves = world.moves_of_toolstack(2).into_iter();
        moves.chain(world.moves_of_rogue()).chain(moves_of_shutdown(world)).collect()
    });
    println!("{count} states");
}
