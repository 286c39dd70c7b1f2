//! The stub and the guests, as far as a command meets them.

use xen_types::{DomId, Sbdf};
use xenstore::path::{backend_dir, child, error_node, frontend_dir, pool_dir, pool_root};

use super::{ConfigImage, STUB, TempTree, World};

/// How the stub behaves.
#[derive(Default)]
pub(crate) struct StubScript {
    /// It does nothing at all.
    pub(crate) silent: bool,
    /// It finds this device unfit.
    pub(crate) refuses: Option<(Sbdf, &'static str)>,
    /// It cannot export this device.
    pub(crate) cannot_export: Option<(Sbdf, &'static str)>,
    /// It goes to Closing instead of connecting.
    pub(crate) gives_up: Option<&'static str>,
}

/// How guests behave.
#[derive(Default)]
pub(crate) struct GuestScript {
    /// They have no pcifront.
    pub(crate) silent: bool,
    /// They connect but do not let go.
    pub(crate) keeps: bool,
    /// They begin to let go but do not come to an end.
    pub(crate) half_closes: bool,
    /// They see the devices and close.
    pub(crate) refuses: Option<&'static str>,
}

/// Lets one of them do one thing; false when nobody has anything to do.
pub(crate) fn act(world: &mut World, tree: &TempTree) -> bool {
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
    if world.stub.silent || !world.domains.contains_key(&STUB) {
        return false;
    }
    let pool: Vec<Sbdf> =
        world.children(&pool_root(STUB)).iter().map(|name| Sbdf::parse_path_component(name).unwrap()).collect();
    if pool.iter().any(|device| look_after(world, tree, *device)) {
        return true;
    }
    let domain = format!("/local/domain/{STUB}");
    let guests = world.children(&format!("{domain}/backend/pci"));
    guests.iter().any(|guest| serve(world, tree, DomId(guest.parse().unwrap())))
}

/// The pool: answers `new` and `online` = 0, and takes back what has no directory any more.
fn look_after(world: &mut World, tree: &TempTree, device: Sbdf) -> bool {
    let dir = pool_dir(STUB, device);
    let node = child(&dir, "state");
    // The watch also fires in the middle of the directory's removal.
    let Some(state) = world.value(&node).map(str::to_owned) else { return false };
    let online = world.value(&child(&dir, "online")) == Some("1");
    let answer = match (state.as_str(), online) {
        ("new", true) => {
            let ecam = u64::from_str_radix(world.value(&child(&dir, "ecam")).unwrap(), 16).unwrap();
            if !world.iomem.contains(&(STUB, ecam)) {
                world.violations.push(format!("{device} without its frame {ecam:x}"));
            }
            match world.stub.refuses {
                Some((other, why)) if other == device => format!("refused {why}"),
                _ => verdict(tree, device),
            }
        }
        (lent, true) if lent.starts_with("lent ") => {
            let guest = DomId(lent[5..].parse().unwrap());
            if world.nodes.contains_key(&backend_dir(STUB, guest)) {
                return false;
            }
            verdict(tree, device)
        }
        (lent, false) if lent.starts_with("lent ") => {
            world.violations.push(format!("{device} asked back while lent"));
            return false;
        }
        ("released", _) | (_, true) => return false,
        (_, false) => "released".to_owned(),
    };
    world.write_as(STUB, &node, &answer);
    true
}

/// A device that comes in or back must be there and quiet.
fn verdict(tree: &TempTree, device: Sbdf) -> String {
    match std::fs::read(config_path(tree, device)).map(ConfigImage) {
        Ok(config) if config.is_quiet() => "free",
        Ok(_) => "refused it is not quiet",
        Err(_) => "refused the function does not answer",
    }
    .to_owned()
}

fn config_path(tree: &TempTree, device: Sbdf) -> std::path::PathBuf {
    tree.path().join(format!("bus/pci/devices/{device}/config"))
}

/// Gives back what a frontend has, as soon as it cannot use it any more.
fn give_back(world: &mut World, tree: &TempTree, guest: DomId) {
    for (_, device) in devices(world, &backend_dir(STUB, guest)) {
        let node = child(&pool_dir(STUB, device), "state");
        if world.value(&node) == Some(&format!("lent {guest}")) {
            world.write_as(STUB, &node, &verdict(tree, device));
        }
    }
}

/// One frontend: pci-protocol §2.9 as far as these tests go.
fn serve(world: &mut World, tree: &TempTree, guest: DomId) -> bool {
    let backend = backend_dir(STUB, guest);
    let set = |world: &mut World, name: &str, value: &str| world.write_as(STUB, &child(&backend, name), value);
    let state = world.value(&child(&backend, "state")).unwrap_or("0").to_owned();
    let front = world.value(&child(&frontend_dir(guest), "state")).unwrap_or("0").to_owned();
    match (state.as_str(), front.as_str()) {
        ("6", _) => return false,
        (_, "0" | "6") => {
            if front == "0" || world.value(&child(&backend, "online")) == Some("0") {
                give_back(world, tree, guest);
            }
            set(world, "state", "6");
        }
        ("1", _) => set(world, "state", "2"),
        ("2", _) if world.stub.gives_up.is_some() => {
            world.write(&error_node(STUB, guest), world.stub.gives_up.unwrap());
            set(world, "state", "5");
        }
        ("2", _) => export(world, guest),
        ("3", "3") => set(world, "state", "4"),
        _ => return false,
    }
    true
}

fn export(world: &mut World, guest: DomId) {
    let backend = backend_dir(STUB, guest);
    for (index, device) in devices(world, &backend) {
        let set = |world: &mut World, name: &str, value: &str| {
            world.write_as(STUB, &child(&backend, &format!("{name}-{index}")), value);
        };
        match world.stub.cannot_export {
            Some((other, why)) if other == device => {
                world.write(&error_node(STUB, guest), why);
                set(world, "state", "6");
            }
            _ => {
                set(world, "vdev", &format!("0000:00:{index:02x}.00"));
                set(world, "state", "3");
                world.write_as(STUB, &child(&pool_dir(STUB, device), "state"), &format!("lent {guest}"));
            }
        }
    }
    for (name, value) in [("root-0", "0000:00"), ("root_num", "1"), ("state", "3")] {
        world.write_as(STUB, &child(&backend, name), value);
    }
}

fn guests(world: &mut World, tree: &TempTree) -> bool {
    let running: Vec<DomId> = world.domains.iter().filter(|(_, info)| !info.paused).map(|(id, _)| *id).collect();
    running.into_iter().any(|guest| use_devices(world, tree, guest))
}

fn use_devices(world: &mut World, tree: &TempTree, guest: DomId) -> bool {
    let front = child(&frontend_dir(guest), "state");
    let Some(state) = world.value(&front).map(str::to_owned) else { return false };
    let back = world.value(&child(&backend_dir(STUB, guest), "state")).unwrap_or("0").to_owned();
    let next = match (state.as_str(), back.as_str()) {
        _ if world.guest.silent => return false,
        ("1", back) if !matches!(back, "5" | "6") => "3",
        ("3", "4") if world.guest.refuses.is_some() => {
            let node = format!("/local/domain/{guest}/error/device/pci/0/error");
            world.write(&node, world.guest.refuses.unwrap());
            "5"
        }
        ("3", "4") => {
            // Its drivers get to work.
            for (_, device) in devices(world, &backend_dir(STUB, guest)) {
                let mut config = ConfigImage(std::fs::read(config_path(tree, device)).unwrap());
                config.set_word(4, config.word(4) | 4);
                std::fs::write(config_path(tree, device), config.0).unwrap();
            }
            "4"
        }
        ("1" | "2" | "3" | "4", "5" | "6") if world.guest.half_closes => "5",
        ("1" | "2" | "3" | "4", "5" | "6") if !world.guest.keeps => "6",
        _ => return false,
    };
    world.write_as(guest, &front, next);
    true
}
