//! The stub and the guests, as far as a command meets them.

use pcidom_abi::paths::{pool_dir, pool_root, pool_state_node};
use pcidom_abi::{PoolState, pool};
use xen_types::{DomId, Sbdf};
use xenstore::XenbusState;
use xenstore::path::{backend_dir, child, error_node, frontend_dir};

use super::names::STUB;
use super::{Memory, TempTree, World};

/// The stub that is alive.
fn me(world: &World) -> DomId {
    world.stub.number.unwrap_or(STUB)
}

/// Where a guest looks for its backend: its driver goes by the node that the toolstack wrote.
fn its_backend(world: &World, guest: DomId) -> String {
    world.value(&child(&frontend_dir(guest), "backend")).unwrap().to_owned()
}

/// Lets one of them do one thing; false when nobody has anything to do.
pub fn act(world: &mut World, tree: &TempTree) -> bool {
    let mut incidents = std::mem::take(&mut world.incidents);
    let happened = incidents.iter_mut().position(|incident| incident(world));
    if let Some(index) = happened {
        drop(incidents.remove(index));
    }
    world.incidents = incidents;
    happened.is_some() || stub(world, tree) || guests(world, tree)
}

fn devices(world: &World, backend: &str) -> Vec<(usize, Sbdf)> {
    let count: usize = world.value(&child(backend, "num_devs")).unwrap().parse().unwrap();
    let name = |index| world.value(&child(backend, &format!("dev-{index}"))).unwrap().parse().unwrap();
    (0..count).map(|index| (index, name(index))).collect()
}

fn stub(world: &mut World, tree: &TempTree) -> bool {
    if world.stub.silent || !world.domains.contains_key(&me(world)) {
        return false;
    }
    let pool: Vec<Sbdf> =
        world.children(&pool_root(me(world))).iter().map(|name| Sbdf::parse_path_component(name).unwrap()).collect();
    if pool.iter().any(|device| look_after(world, tree, *device)) {
        return true;
    }
    let domain = format!("/local/domain/{}", me(world));
    let guests = world.children(&format!("{domain}/backend/pci"));
    guests.iter().any(|guest| serve(world, tree, DomId(guest.parse().unwrap())))
}

/// The pool: answers `new` and `online` = 0, and takes back what has no directory any more.
fn look_after(world: &mut World, tree: &TempTree, device: Sbdf) -> bool {
    let dir = pool_dir(me(world), device);
    let node = pool_state_node(me(world), device);
    // The watch also fires in the middle of the directory's removal.
    let Some(state) = world.value(&node).map(PoolState::parse) else { return false };
    let online = world.value(&child(&dir, pool::ONLINE)) == Some("1");
    let answer = match (state, online) {
        (PoolState::New, true) => {
            let ecam = u64::from_str_radix(world.value(&child(&dir, pool::ECAM)).unwrap(), 16).unwrap();
            if !world.iomem.contains(&(me(world), ecam)) {
                world.violations.push(format!("{device} without its frame {ecam:x}"));
            }
            match world.stub.refuses {
                Some((other, why)) if other == device => PoolState::Refused(why.to_owned()),
                _ if world.stub.refuses_policy && world.has_node(&child(&dir, pool::POLICY)) => {
                    PoolState::Refused("its policy is no policy".to_owned())
                }
                _ => verdict(tree, device),
            }
        }
        (PoolState::Assigned(guest), true) => {
            if world.has_node(&backend_dir(me(world), guest)) {
                return false;
            }
            world.stub.connected.remove(&guest);
            verdict(tree, device)
        }
        (PoolState::Assigned(_), false) => {
            world.violations.push(format!("{device} asked back while assigned"));
            return false;
        }
        (PoolState::Released, _) | (_, true) => return false,
        (_, false) => PoolState::Released,
    };
    world.write_as(me(world), &node, &answer.text());
    true
}

/// A device that comes in or back must be there and quiesced.
fn verdict(tree: &TempTree, device: Sbdf) -> PoolState {
    match std::fs::read(config_path(tree, device)).map(Memory::from_bytes) {
        Ok(config) if config.is_quiesced() => PoolState::Free,
        Ok(_) => PoolState::Refused("it is not quiesced".to_owned()),
        Err(_) => PoolState::Refused("the function does not answer".to_owned()),
    }
}

fn config_path(tree: &TempTree, device: Sbdf) -> std::path::PathBuf {
    tree.path().join(format!("bus/pci/devices/{device}/config"))
}

/// Gives back what a frontend has and `leaves` says of its entry's state; without an entry it is `None`. Whether there was any.
fn give_back(world: &mut World, tree: &TempTree, guest: DomId, leaves: impl Fn(Option<&str>) -> bool) -> bool {
    let backend = backend_dir(me(world), guest);
    let listed = devices(world, &backend);
    let mut any = false;
    for name in world.children(&pool_root(me(world))) {
        let device = Sbdf::parse_path_component(&name).unwrap();
        let node = pool_state_node(me(world), device);
        let entry = listed.iter().find(|(_, other)| *other == device);
        let state = entry.map(|(index, _)| world.value(&child(&backend, &format!("state-{index}"))).unwrap_or(""));
        if world.value(&node) == Some(&PoolState::Assigned(guest).text()) && leaves(state) {
            world.write_as(me(world), &node, &verdict(tree, device).text());
            any = true;
        }
    }
    any
}

/// Whether an entry waits for the guest to look at it: a new one, or a device that shall leave and has not.
fn is_pending(world: &World, guest: DomId) -> bool {
    let backend = backend_dir(me(world), guest);
    devices(world, &backend).into_iter().any(|(index, device)| {
        let assigned = world.value(&pool_state_node(me(world), device)) == Some(&PoolState::Assigned(guest).text());
        match world.value(&child(&backend, &format!("state-{index}"))) {
            Some("1") => true,
            Some("3") => !assigned,
            Some("5") => assigned,
            _ => false,
        }
    })
}

/// One frontend: docs/protocol.md §2.5 as far as these tests go.
fn serve(world: &mut World, tree: &TempTree, guest: DomId) -> bool {
    let backend = backend_dir(me(world), guest);
    let set = |world: &mut World, name: &str, value: &str| world.write_as(me(world), &child(&backend, name), value);
    let state = world.value(&child(&backend, "state")).unwrap_or("0").to_owned();
    let front = world.value(&child(&frontend_dir(guest), "state")).unwrap_or("0").to_owned();
    let connected = world.stub.connected.contains(&guest);
    if !matches!(state.as_str(), "1" | "2") && give_back(world, tree, guest, |entry| entry.is_none()) {
        return true; // taken by force
    }
    match (state.as_str(), front.as_str()) {
        ("6", "1") if world.value(&child(&backend, "online")) == Some("1") => set(world, "state", "2"),
        ("6", _) => return false,
        (_, "0" | "6") => {
            world.stub.connected.remove(&guest);
            if front == "0" || world.value(&child(&backend, "online")) == Some("0") {
                give_back(world, tree, guest, |_| true);
            }
            set(world, "state", "6");
        }
        ("1", _) => set(world, "state", "2"),
        ("2", _) if world.stub.gives_up.is_some() => {
            world.write(&error_node(me(world), guest), world.stub.gives_up.unwrap());
            set(world, "state", "5");
        }
        ("2", _) => export(world, tree, guest, "3"),
        ("3" | "7", "1" | "2") if !connected && (state == "7" || is_pending(world, guest)) => {
            export(world, tree, guest, "3");
        }
        ("3", "3") => {
            world.stub.connected.insert(guest);
            set(world, "state", "4");
        }
        ("4" | "7", "7") if connected => export(world, tree, guest, "8"),
        ("4", "4") if connected && is_pending(world, guest) => set(world, "state", "7"),
        ("8", "4") if connected => {
            let online = world.value(&child(&backend, "online")) == Some("1");
            set(world, "state", if online { "4" } else { "5" });
        }
        ("5", "7") if connected => set(world, "state", "8"),
        _ => return false,
    }
    true
}

/// The first slot that no device of the guest has.
fn free_slot(world: &World, guest: DomId) -> String {
    let backend = backend_dir(me(world), guest);
    let numbered = |name: &str, index| world.value(&child(&backend, &format!("{name}-{index}"))).unwrap_or("");
    let is_taken = |vdev: &str| {
        devices(world, &backend)
            .iter()
            .any(|(index, _)| numbered("state", *index) == "3" && numbered("vdev", *index) == vdev)
    };
    (0..32).map(|slot| format!("0000:00:{slot:02x}.00")).find(|vdev| !is_taken(vdev)).unwrap()
}

/// Takes what is new, gives back what leaves.
fn export(world: &mut World, tree: &TempTree, guest: DomId, next: &str) {
    let backend = backend_dir(me(world), guest);
    give_back(world, tree, guest, |entry| entry == Some("5"));
    for (index, device) in devices(world, &backend) {
        let set = |world: &mut World, name: &str, value: &str| {
            world.write_as(me(world), &child(&backend, &format!("{name}-{index}")), value);
        };
        let assigned = PoolState::Assigned(guest).text();
        let pool = pool_state_node(me(world), device);
        match world.value(&child(&backend, &format!("state-{index}"))) {
            Some("1") => {}
            Some("3") if world.value(&pool) != Some(&assigned) => {}
            _ => continue,
        }
        match world.stub.cannot_export {
            Some((other, why)) if other == device => {
                world.write(&error_node(me(world), guest), why);
                set(world, "state", "6");
            }
            _ => {
                if world.value(&pool) != Some(PoolState::Free.word()) {
                    let text = format!("{device} goes to {guest} from {:?}", world.value(&pool));
                    world.violations.push(text);
                }
                let vdev = free_slot(world, guest);
                set(world, "vdev", &vdev);
                set(world, "state", "3");
                world.write_as(me(world), &pool, &assigned);
            }
        }
    }
    for (name, value) in [("root-0", "0000:00"), ("root_num", "1"), ("state", next)] {
        world.write_as(me(world), &child(&backend, name), value);
    }
}

fn guests(world: &mut World, tree: &TempTree) -> bool {
    let running: Vec<DomId> = world.domains.iter().filter(|(_, info)| !info.paused).map(|(id, _)| *id).collect();
    running.into_iter().any(|guest| use_devices(world, tree, guest))
}

fn use_devices(world: &mut World, tree: &TempTree, guest: DomId) -> bool {
    let front = child(&frontend_dir(guest), "state");
    // However it was written.
    let Some(state) = world.value(&front).map(|state| XenbusState::parse(state).digit().to_owned()) else {
        return false;
    };
    let back = world.value(&child(&its_backend(world, guest), "state")).unwrap_or("0").to_owned();
    let next = match (state.as_str(), back.as_str()) {
        _ if world.guest.silent => return false,
        ("7", _) if world.guest.stops_at_7 => return false,
        ("1", back) if !matches!(back, "5" | "6") => "3",
        ("3", "4") if world.guest.refuses.is_some() => {
            let node = format!("/local/domain/{guest}/error/device/pci/0/error");
            world.write(&node, world.guest.refuses.unwrap());
            "5"
        }
        ("3", "4") | ("7", "8") => {
            find_devices(world, tree, guest);
            "4"
        }
        ("4", "7") if world.guest.keeps || world.guest.knows_no_hotplug => return false,
        ("4", "7") => {
            lose_devices(world, tree, guest);
            "7"
        }
        ("1" | "2" | "3" | "4", "5" | "6") if world.guest.half_closes => "5",
        ("1" | "2" | "3" | "4", "5" | "6") if !world.guest.keeps => "6",
        _ => return false,
    };
    world.write_as(guest, &front, next);
    true
}

/// Whose DMA a device does that a domain sees: its own, or of a stub domain its guest's.
fn dma_owner(world: &World, domain: DomId) -> DomId {
    let guest = world.stub_domains.iter().find(|(_, stub_domain)| **stub_domain == domain);
    guest.map_or(domain, |(guest, _)| *guest)
}

/// It scans its buses, and its drivers get to work.
fn find_devices(world: &mut World, tree: &TempTree, guest: DomId) {
    let backend = its_backend(world, guest);
    for (index, device) in devices(world, &backend) {
        let numbered = |name: &str| world.value(&child(&backend, &format!("{name}-{index}"))).unwrap().to_owned();
        let (state, vdev) = (numbered("state"), numbered("vdev"));
        if state != "3" {
            continue;
        }
        if world.owners.get(&device) != Some(&dma_owner(world, guest)) {
            world.violations.push(format!("domain {guest} sees {device} and does not own it"));
        }
        world.guest.seen.insert((guest, vdev));
        let mut config = Memory::from_bytes(std::fs::read(config_path(tree, device)).unwrap());
        config.set_word(4, config.word(4) | 4);
        std::fs::write(config_path(tree, device), config.bytes).unwrap();
    }
}

/// It removes the devices that shall leave, as it finds them by their virtual address.
fn lose_devices(world: &mut World, tree: &TempTree, guest: DomId) {
    let backend = its_backend(world, guest);
    for (index, device) in devices(world, &backend) {
        let numbered = |name: &str| world.value(&child(&backend, &format!("{name}-{index}"))).unwrap().to_owned();
        let (state, vdev) = (numbered("state"), numbered("vdev"));
        if state != "5" {
            continue;
        }
        if vdev.parse::<Sbdf>().is_err() {
            world.violations.push(format!("{device} shall leave domain {guest} and has no address there"));
        }
        if world.owners.get(&device) != Some(&dma_owner(world, guest))
            && tree.path().join(format!("bus/pci/devices/{device}")).exists()
        {
            world.violations.push(format!("{device} was taken from domain {guest} before it was told"));
        }
        world.guest.seen.remove(&(guest, vdev));
    }
}
