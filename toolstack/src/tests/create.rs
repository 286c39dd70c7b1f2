//! `pcidom create`: a guest with everything, or nothing at all.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use xen_types::DomId;

use super::{TIMEOUT, add_all};
use crate::create::{Plan, Request, create};
use crate::error::{Error, ExitCause};
use crate::fake::{E1000, EDU, Killed, Machine, NVME, SATA, device};
use crate::host::command_lock::CommandLock;
use crate::ops::recover::reclaim;
use crate::ops::unfinished_guests;

/// The next free number.
const NEW: DomId = DomId(8);

/// `pcidom create` of a configuration with these devices, as the command does it.
fn create_guest(machine: &Machine, devices: &[&str], paused: bool) -> Result<(), Error> {
    unfinished_guests::settle(&machine.host)?;
    reclaim(&machine.host)?;
    let file = machine.tree.path().join("new.cfg");
    std::fs::write(&file, format!("name='new'\nmemory=64\npci={devices:?}\n")).unwrap();
    let request = Request {
        config: Some(file.clone()),
        overrides: vec!["vcpus=2".to_owned()],
        backend: "pcidom".to_owned(),
        timeout: TIMEOUT,
        paused,
        for_xl: Vec::new(),
        console: false,
    };
    let plan = Plan::read(&request);
    std::fs::remove_file(file).unwrap();
    create(&machine.host, &request, plan?, &mut None)
}

fn state(machine: &Machine) -> Option<String> {
    machine.with(|world| world.value("/local/domain/8/device/pci/0/state").map(str::to_owned))
}

fn assert_nothing_is_noted(machine: &Machine) {
    machine.with(|world| assert_eq!(world.children("/tool/pcidom/create"), [""; 0]));
}

#[test]
fn a_guest_runs_with_its_devices() {
    let machine = Machine::new();
    add_all(&machine);
    create_guest(&machine, &[&format!("{EDU}@3"), NVME], false).unwrap();
    assert_eq!(state(&machine).as_deref(), Some("4"));
    machine.with(|world| {
        assert!(!world.domains[&NEW].paused);
        assert_eq!(world.value("/local/domain/3/backend/pci/8/0/vdevfn-0"), Some("18"));
        let added = |word| world.notes.iter().any(|note| note.contains(word) && note.contains("was added"));
        assert!(added("passthrough") && added("e820_host"), "{:?}", world.notes);
    });
    assert_nothing_is_noted(&machine);
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_stays_paused_has_them_waiting() {
    let machine = Machine::new();
    create_guest(&machine, &[EDU], true).unwrap();
    assert_eq!(state(&machine).as_deref(), Some("1"));
    machine.with(|world| {
        assert!(world.domains[&NEW].paused);
        assert_eq!(world.value("/local/domain/3/backend/pci/8/0/state-0"), Some("3"));
    });
    assert_nothing_is_noted(&machine);
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert!(world.domains.contains_key(&NEW), "nobody takes it for unfinished"));
}

#[test]
fn a_guest_without_devices_is_just_a_guest() {
    let machine = Machine::new();
    machine.with(|world| world.destroy(crate::fake::STUB));
    create_guest(&machine, &[], false).unwrap();
    machine.with(|world| assert!(!world.domains[&NEW].paused && !world.passthrough.contains(&NEW)));
    assert_eq!(state(&machine), None);
    assert_nothing_is_noted(&machine);
}

#[test]
fn a_guest_that_runs_is_not_taken_down_because_it_is_slow() {
    for devices in [vec![EDU], vec![NVME, E1000]] {
        let machine = Machine::new();
        machine.with(|world| world.guest.silent = true);
        let error = create_guest(&machine, &devices, false).unwrap_err();
        assert_eq!(error.cause(), ExitCause::GuestSilent, "{error}");
        let seconds = if devices.len() == 1 { "30 s" } else { "30.5 s" };
        assert!(error.to_string().contains(&format!("within {seconds}; they stay attached")), "{error}");
        assert!(error.to_string().contains(devices[0]), "{error}");
        assert_nothing_is_noted(&machine);
        // Later commands leave it alone, and the devices come when the driver does.
        unfinished_guests::settle(&machine.host).unwrap();
        reclaim(&machine.host).unwrap();
        machine.with(|world| {
            assert!(!world.domains[&NEW].paused);
            assert!(devices.iter().all(|name| world.owners[&device(name)] == NEW));
            assert!(world.store.nodes().all(|(_, node)| node.text() != Some("attaching")));
            world.guest.silent = false;
        });
        machine.settle();
        assert_eq!(state(&machine).as_deref(), Some("4"));
        // They follow it, as those of other guests do.
        let keep = format!("/tool/pcidom/device/{}/persistent", device(devices[0]).path_component());
        machine.with(|world| assert!(world.value(&keep).is_some()));
        machine.assert_no_violations();
    }
}

#[test]
fn a_guest_that_cannot_use_its_devices_is_left_to_its_admin() {
    let refusing = |world: &mut crate::fake::World| world.guest.refuses = Some("no memory");
    let gives_up = |world: &mut crate::fake::World| {
        world.incidents.push(Box::new(|world| {
            let running = world.domains.get(&NEW).is_some_and(|info| !info.paused);
            if running {
                world.destroy(crate::fake::STUB);
            }
            running
        }));
    };
    type Prepare = fn(&mut crate::fake::World);
    let cases: [(&str, Prepare); 2] = [("no memory", refusing), ("went away", gives_up)];
    for (want, prepare) in cases {
        let machine = Machine::new();
        machine.with(prepare);
        let error = create_guest(&machine, &[EDU], false).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        machine.with(|world| {
            assert!(!world.domains[&NEW].paused, "{want}");
            assert!(world.notes.iter().any(|note| note.contains("left as it is")), "{:?}", world.notes);
        });
        assert_nothing_is_noted(&machine);
    }
}

#[test]
fn a_guest_that_somebody_has_let_run_meanwhile_is_not_ended() {
    let runs = |world: &mut crate::fake::World| {
        world.incidents.push(Box::new(|world| {
            let Some(info) = world.domains.get_mut(&NEW) else { return false };
            info.paused = false;
            true
        }));
        world.stub.cannot_export = Some((device(EDU), "22 broken"));
    };
    let machine = Machine::new();
    machine.with(runs);
    let error = create_guest(&machine, &[EDU], false).unwrap_err();
    assert!(matches!(error, Error::ExportFailed { .. }), "{error}");
    machine.with(|world| {
        assert!(world.domains.contains_key(&NEW));
        assert!(world.notes.iter().any(|note| note.contains("runs already")), "{:?}", world.notes);
        assert_eq!(world.owners[&device(EDU)], DomId::IO);
    });
    assert_nothing_is_noted(&machine);
    // The same, where the command was killed.
    let uuid = machine.with(|world| world.value("/local/domain/8/vm").unwrap()["/vm/".len()..].to_owned());
    machine.with(|world| world.write(&format!("/tool/pcidom/create/{uuid}"), "building"));
    unfinished_guests::settle(&machine.host).unwrap();
    machine.with(|world| assert!(world.domains.contains_key(&NEW)));
    assert_nothing_is_noted(&machine);
}

#[test]
fn a_guest_that_another_command_makes_is_left_to_it() {
    let machine = Machine::new();
    let locks = crate::fake::TempTree::new();
    machine.host.lock_commands_in(locks.path());
    let uuid = crate::fake::UUID;
    machine.with(|world| {
        world.add_domain(NEW, "new");
        world.domains.get_mut(&NEW).unwrap().paused = true;
        world.write("/local/domain/8/vm", &format!("/vm/{uuid}"));
        world.write(&format!("/tool/pcidom/create/{uuid}"), "building");
    });
    let creator = crate::host::lock::try_take_creation(locks.path(), uuid).unwrap().unwrap();
    unfinished_guests::settle(&machine.host).unwrap();
    machine.with(|world| assert!(world.domains.contains_key(&NEW)));
    // Neither do devices come to it that follow a guest with its id: the command brings them.
    crate::ops::assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap();
    machine.with(|world| {
        let dir = format!("/tool/pcidom/device/{}", device(EDU).path_component());
        world.write(&format!("{dir}/persistent"), uuid);
        world.write(&format!("{dir}/spec"), EDU);
    });
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.owners[&device(EDU)], DomId::IO));
    drop(creator);
    unfinished_guests::settle(&machine.host).unwrap();
    machine.with(|world| assert!(!world.domains.contains_key(&NEW)));
}

#[test]
fn other_commands_have_their_turn_while_xl_makes_the_guest() {
    let machine = Machine::new();
    let locks = Rc::new(crate::fake::TempTree::new());
    machine.host.lock_commands_in(locks.path());
    let seen = Rc::new(Cell::new(false));
    let (other, saw) = (locks.clone(), seen.clone());
    machine.with(|world| {
        world.during_create = Some(Box::new(move |uuid| {
            let taken = CommandLock::take_in(other.path(), || Ok(None), || panic!("it has to wait")).unwrap();
            assert!(taken.take_creation(uuid).unwrap().is_none());
            saw.set(true);
        }));
    });
    create_guest(&machine, &[EDU], false).unwrap();
    assert!(seen.get());
    assert_eq!(state(&machine).as_deref(), Some("4"));
}

#[test]
fn what_can_be_refused_is_refused_before_there_is_a_guest() {
    let machine = Machine::new();
    let before = machine.dump();
    for (devices, want) in [
        (vec![SATA], "not assignable"),
        (vec!["00:09.0"], "no PCI device"),
        (vec!["00:00.0"], "bridge"),
        (vec!["name=disk"], "no assignable device"),
        (vec![EDU, "00:07.0,colour=red"], "no option of a device"),
    ] {
        let changes = machine.with(|world| world.changes);
        let error = create_guest(&machine, &devices, false).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        machine.with(|world| assert_eq!(world.changes, changes, "{want}"));
    }
    machine.dump().assert_same(&before, "");
}

#[test]
fn a_guest_of_that_name_or_id_stays_what_it_is() {
    let machine = Machine::new();
    create_guest(&machine, &[EDU], false).unwrap();
    let before = machine.dump();
    let error = create_guest(&machine, &[NVME], false).unwrap_err();
    assert_eq!(error.to_string(), "xl create: Domain with name already exists");
    machine.dump().assert_same(&before, "");
    let file = machine.tree.path().join("same.cfg");
    std::fs::write(&file, format!("name='other'\nuuid='{}'\n", crate::fake::UUID.to_uppercase())).unwrap();
    let request = Request { config: Some(file), overrides: vec![], ..settings_alone(&[]) };
    let error = create(&machine.host, &request, Plan::read(&request).unwrap(), &mut None).unwrap_err();
    assert!(matches!(error, Error::GuestExists(_)), "{error}");
}

pub(super) fn settings_alone(settings: &[&str]) -> Request {
    Request {
        config: None,
        overrides: settings.iter().map(|text| (*text).to_owned()).collect(),
        backend: "pcidom".to_owned(),
        timeout: TIMEOUT,
        paused: false,
        for_xl: Vec::new(),
        console: false,
    }
}

#[test]
fn xl_gets_its_options_and_the_console_is_there_before_the_guest_runs() {
    let machine = Machine::new();
    let request =
        Request { for_xl: vec!["-V", "-e"], console: true, ..settings_alone(&["name='new'", "pci=['00:06.0']"]) };
    let mut created = None;
    create(&machine.host, &request, Plan::read(&request).unwrap(), &mut created).unwrap();
    machine.with(|world| assert_eq!(world.xl_calls, ["create -V -e", "console of 8, which waits"]));
    assert_eq!(state(&machine).as_deref(), Some("4"));
    created.unwrap().stay(&machine.host, false).unwrap();
}

#[test]
fn who_waits_for_the_end_of_a_guest_waits_over_its_reboots() {
    let machine = Machine::new();
    let request = settings_alone(&["name='new'", "pci=['00:06.0']"]);
    let mut created = None;
    create(&machine.host, &request, Plan::read(&request).unwrap(), &mut created).unwrap();
    let uuid = machine.with(|world| world.value("/local/domain/8/vm").unwrap().to_owned());
    machine.with(|world| {
        let (began, mut step) = (world.clock.as_secs(), 0);
        world.incidents.push(Box::new(move |world| {
            let passed = world.clock.as_secs() - began;
            match step {
                0 if passed >= 20 => world.destroy(NEW),
                1 if passed >= 25 => {
                    world.add_domain(DomId(9), "new");
                    world.write("/local/domain/9/vm", &uuid);
                }
                2 if passed >= 60 => world.destroy(DomId(9)),
                _ => return false,
            }
            step += 1;
            step == 3
        }));
    });
    created.unwrap().stay(&machine.host, true).unwrap();
    machine.with(|world| assert!((70..75).contains(&world.clock.as_secs()), "{:?}", world.clock));
    // Somebody who does not want to wait any more leaves the guest as it is.
    let machine = Machine::new();
    let mut created = None;
    create(&machine.host, &request, Plan::read(&request).unwrap(), &mut created).unwrap();
    machine.with(|world| world.signal = Some(2));
    assert!(matches!(created.unwrap().stay(&machine.host, true), Err(Error::Interrupted(_))));
    machine.with(|world| assert!(world.domains.contains_key(&NEW)));
}

/// The ways in which devices come: from the pool, parked, and from dom0's own driver.
fn ways() -> [(&'static str, Vec<String>); 3] {
    let text = |devices: &[&str]| devices.iter().map(|device| (*device).to_owned()).collect();
    [("pool", text(&[E1000, NVME])), ("parked", text(&[EDU])), ("seized", text(&[&format!("{SATA},seize=1"), EDU]))]
}

fn prepared(way: &str) -> Machine {
    let machine = Machine::new();
    if way == "pool" {
        add_all(&machine);
    }
    machine
}

fn changes_of(way: &str, devices: &[&str]) -> usize {
    let machine = prepared(way);
    let start = machine.with(|world| world.changes);
    create_guest(&machine, devices, false).unwrap();
    machine.with(|world| world.changes) - start
}

#[test]
fn any_single_failure_leaves_everything_as_it_was() {
    for (way, devices) in ways() {
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        for failing in 1..=changes_of(way, &devices) {
            let machine = prepared(way);
            let before = machine.dump_but_config();
            machine.with(|world| world.failing_change = Some(world.changes + failing));
            let Err(error) = create_guest(&machine, &devices, false) else { continue };
            machine.settle();
            if machine.with(|world| world.domains.contains_key(&NEW)) {
                // It was at its very end; the next command takes note.
                unfinished_guests::settle(&machine.host).unwrap();
                assert_eq!(state(&machine).as_deref(), Some("4"), "{way}: change {failing}: {error}");
                assert_nothing_is_noted(&machine);
            } else {
                machine.dump_but_config().assert_same(&before, format!("{way}: change {failing}: {error}"));
            }
            machine.assert_no_violations();
        }
    }
}

#[test]
fn killed_at_any_step_the_next_command_finishes_or_undoes() {
    for (way, devices) in ways() {
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let (mut finished, mut undone) = (0, 0);
        for killing in 1..=changes_of(way, &devices) {
            let machine = prepared(way);
            machine.with(|world| {
                world.uncertain = true;
                world.killing_change = Some(world.changes + killing);
            });
            let killed = catch_unwind(AssertUnwindSafe(|| create_guest(&machine, &devices, false))).unwrap_err();
            assert!(killed.is::<Killed>());
            machine.with(|world| world.watches.clear()); // they end with the process
            unfinished_guests::settle(&machine.host).unwrap();
            reclaim(&machine.host).unwrap();
            machine.settle();
            let when = format!("{way}: change {killing}");
            assert_nothing_is_noted(&machine);
            if machine.with(|world| world.domains.contains_key(&NEW)) {
                finished += 1;
                assert_eq!(state(&machine).as_deref(), Some("4"), "{when}");
                continue;
            }
            undone += 1;
            machine.with(|world| {
                assert!(!world.paths().any(|path| path.contains("pci/8") || path.contains("/domain/8")), "{when}");
                assert!(world.owners.values().all(|owner| *owner != NEW), "{when}");
                assert!(!world.store.nodes().any(|(_, node)| node.text() == Some("attaching")), "{when}");
            });
            // The devices can be had again.
            if way != "seized" {
                create_guest(&machine, &devices, false).unwrap();
            }
        }
        assert!(finished >= 1 && undone > 10, "{way}: {finished} finished, {undone} undone");
    }
}
