//! Plans are shown without doing anything, are what is done, and are undone from the step that fails.

use super::{TIMEOUT, add_all, attach_to_web, attached, request};
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, SATA, WEB, device};
use crate::ops::attach::{self, Following};
use crate::ops::plan::Plan;
use crate::ops::{assignable, detach};

fn detach_request(devices: &[&str], force: bool) -> detach::Request {
    let devices = devices.iter().map(|text| device(text)).collect();
    detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force }
}

type On<T> = Box<dyn Fn(&Machine) -> Result<T, Error>>;

/// A command that can be tried, and done.
struct Command {
    what: &'static str,
    prepare: fn() -> Machine,
    plan: On<Plan>,
    act: On<()>,
}

fn attaching(what: &'static str, prepare: fn() -> Machine, devices: &[&str], following: Following) -> Command {
    let request = attach::Request { following, ..request("web", devices) };
    let other = request.clone();
    Command {
        what,
        prepare,
        plan: Box::new(move |machine| attach::plan(&machine.host, &request)),
        act: Box::new(move |machine| attach::attach(&machine.host, &other).map(drop)),
    }
}

fn detaching(what: &'static str, prepare: fn() -> Machine, devices: &[&str], force: bool) -> Command {
    let request = detach_request(devices, force);
    let other = request.clone();
    Command {
        what,
        prepare,
        plan: Box::new(move |machine| detach::plan(&machine.host, &request)),
        act: Box::new(move |machine| detach::detach(&machine.host, &other, &[])),
    }
}

fn with_pool() -> Machine {
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| world.write("/local/domain/5/vm", "/vm/0a5e2f3c-7f7b-4a55-8f4e-000000000005"));
    machine
}

fn with_one() -> Machine {
    let machine = with_pool();
    attach_to_web(&machine, &[E1000]).unwrap();
    machine
}

/// Everything that moves devices.
fn commands() -> Vec<Command> {
    let seized = format!("{SATA},seize=1");
    vec![
        attaching("first devices", with_pool, &[E1000, EDU, NVME], Following::No),
        attaching("persistent", with_pool, &[E1000], Following::Yes),
        attaching("parked", Machine::new, &[E1000, NVME], Following::No),
        attaching("from dom0's driver", with_pool, &[&seized, EDU], Following::No),
        attaching("permissive", with_pool, &[&format!("{EDU},permissive=1")], Following::No),
        attaching("further devices", with_one, &[EDU], Following::No),
        detaching("some", attached, &[EDU], false),
        detaching("all", attached, &[E1000, EDU, NVME], false),
        detaching("all by force", attached, &[E1000, EDU, NVME], true),
        Command {
            what: "add",
            prepare: Machine::new,
            plan: Box::new(|machine| {
                Ok(assignable::plan_add(&machine.host, &[SATA, EDU].map(device), "pcidom", None)?.0)
            }),
            act: Box::new(|machine| assignable::add(&machine.host, &[SATA, EDU].map(device), "pcidom")),
        },
        Command {
            what: "remove",
            prepare: with_pool,
            plan: Box::new(|machine| assignable::plan_remove(&machine.host, &[EDU, NVME].map(device), true)),
            act: Box::new(|machine| assignable::remove(&machine.host, &[EDU, NVME].map(device), true)),
        },
    ]
}

/// What a command said of its steps, without transitions of nodes and what an audit saw.
fn steps(machine: &Machine) -> Vec<String> {
    machine.with(|world| {
        let said = std::mem::take(&mut world.traces).into_iter();
        said.filter(|line| !line.starts_with('/') && !line.starts_with("looked through")).collect()
    })
}

#[test]
fn what_is_shown_is_done_and_showing_it_changes_nothing() {
    for command in commands() {
        let what = command.what;
        let machine = (command.prepare)();
        steps(&machine);
        let (before, changes) = (machine.dump(), machine.with(|world| world.changes));
        let plan = (command.plan)(&machine).unwrap_or_else(|error| panic!("{what}: {error}"));
        machine.dump().assert_same(&before, what);
        assert_eq!(machine.with(|world| world.changes), changes, "{what}");
        assert_eq!(steps(&machine), [""; 0], "{what}");
        (command.act)(&machine).unwrap_or_else(|error| panic!("{what}: {error}"));
        let planned: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(steps(&machine), planned, "{what}");
        machine.assert_no_violations();
    }
}

#[test]
fn each_step_that_fails_has_all_before_it_undone_last_first() {
    for command in commands().into_iter().filter(|command| !command.what.starts_with("all") && command.what != "some") {
        let what = command.what;
        let mut failures = 0;
        let changes = {
            let machine = (command.prepare)();
            let start = machine.with(|world| world.changes);
            (command.act)(&machine).unwrap();
            machine.with(|world| world.changes) - start
        };
        for failing in 1..=changes {
            let machine = (command.prepare)();
            steps(&machine);
            machine.with(|world| world.failing_change = Some(world.changes + failing));
            let Err(error) = (command.act)(&machine) else { continue };
            failures += 1;
            let said = steps(&machine);
            let (undone, done): (Vec<_>, Vec<_>) = said.into_iter().partition(|line| line.starts_with("undo: "));
            // The last one is the one that failed.
            let expected: Vec<String> = done.iter().rev().skip(1).map(|step| format!("undo: {step}")).collect();
            assert_eq!(undone, expected, "{what}, change {failing}: {error}");
            machine.assert_no_violations();
        }
        assert!(failures > 4, "{what}: {failures} of {changes}");
    }
}

#[test]
fn what_would_be_refused_is_refused_before_it_is_shown() {
    let machine = with_one();
    let refused =
        |guest: &str, devices: &[&str]| attach::plan(&machine.host, &request(guest, devices)).unwrap_err().to_string();
    assert_eq!(refused("nobody", &[EDU]), "there is no guest nobody");
    assert_eq!(refused("windows", &[EDU]), attach_error(&machine, "windows", &[EDU]));
    for devices in [&[E1000][..], &[EDU, EDU], &[SATA], &["00:09.0"], &["0000:00:00.0"]] {
        assert_eq!(refused("web", devices), attach_error(&machine, "web", devices));
    }
    for devices in [[EDU], ["00:09.0"]] {
        let request = detach_request(&devices, false);
        let shown = detach::plan(&machine.host, &request).unwrap_err().to_string();
        assert_eq!(shown, detach::detach(&machine.host, &request, &[]).unwrap_err().to_string());
    }
    assert!(assignable::plan_add(&machine.host, &[device(E1000)], "pcidom", None).is_err());
    assert!(assignable::plan_remove(&machine.host, &[device(E1000)], false).is_err());
}

fn attach_error(machine: &Machine, guest: &str, devices: &[&str]) -> String {
    attach::attach(&machine.host, &request(guest, devices)).unwrap_err().to_string()
}

#[test]
fn the_devices_of_a_guest_that_is_gone_can_be_asked_for_by_its_name() {
    let machine = attached();
    machine.with(|world| world.destroy(WEB));
    let before = machine.dump();
    for guest in ["web", "5"] {
        let request = detach::Request { guest: guest.to_owned(), ..detach_request(&[EDU], false) };
        let plan = detach::plan(&machine.host, &request).unwrap().to_string();
        assert!(plan.contains(&format!("put the DMA of {EDU} into quarantine")), "{plan}");
    }
    let request = detach::Request { guest: "db2".to_owned(), ..detach_request(&[EDU], false) };
    assert!(matches!(detach::plan(&machine.host, &request), Err(Error::NoSuchGuest(_))));
    machine.dump().assert_same(&before, "");
}

#[test]
fn what_others_have_left_is_noticed_without_touching_it() {
    let machine = attached();
    assert!(!crate::ops::recover::is_due(&machine.host).unwrap());
    machine.with(|world| world.destroy(WEB));
    let before = machine.dump();
    assert!(crate::ops::recover::is_due(&machine.host).unwrap());
    machine.dump().assert_same(&before, "");
}
