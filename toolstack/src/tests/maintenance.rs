//! All devices away from guests and back: `detach --all --plan`, `attach --plan`, as the command does it.

use clap::Parser as _;

use super::{add_all, attached, request};
use crate::cli::arguments::Cli;
use crate::cli::command::run;
use crate::cli::report::Report;
use crate::error::Error;
use crate::fake::{DB, E1000, EDU, Machine, NVME, WEB, device};
use crate::ops::attach::{self, Following, attach};
use crate::ops::maintenance::SavedPlan;

/// A command line on this machine. The answer is the report.
fn command(machine: &Machine, line: &str) -> (Result<(), Error>, serde_json::Value) {
    let cli = Cli::try_parse_from(["pcidom"].into_iter().chain(line.split(' '))).unwrap();
    let mut report = Report::new(cli.command.report().unwrap().0, true);
    let done = run(&machine.host, &cli.command, &mut report);
    machine.host.unlock_commands();
    let json = report.finish(&done, Vec::new()).unwrap();
    (done, serde_json::from_str(&json).unwrap())
}

/// "web" has two devices, one of which follows it, and "db" one.
fn machine() -> Machine {
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| {
        for guest in [WEB, DB] {
            world.write(
                &format!("/local/domain/{guest}/vm"),
                &format!("/vm/0a5e2f3c-7f7b-4a55-8f4e-00000000000{guest}"),
            );
        }
    });
    let of = |guest: &str, device: &str, following| attach::Request { following, ..request(guest, &[device]) };
    attach(&machine.host, &of("web", &format!("{E1000}@5,power_mgmt=1"), Following::No)).unwrap();
    attach(&machine.host, &of("web", &format!("{EDU},permissive=1,hide=msi"), Following::Yes)).unwrap();
    attach(&machine.host, &of("db", NVME, Following::No)).unwrap();
    machine
}

fn owner(machine: &Machine, name: &str) -> u16 {
    machine.with(|world| world.owners[&device(name)].0)
}

#[test]
fn what_guests_had_comes_back_as_it_was() {
    let machine = machine();
    let plan = machine.tree.path().join("plan.json");
    let before = SavedPlan::of(&machine.host, None).unwrap();
    let (done, json) = command(&machine, &format!("detach --all --plan {}", plan.display()));
    done.unwrap();
    assert_eq!((&json["outcome"], &json["command"]), (&"done".into(), &"detach".into()));
    for name in [E1000, EDU, NVME] {
        assert_eq!(owner(&machine, name), xen_types::DomId::IO.0, "{name}");
    }
    // The host was restarted, say: other numbers, the same UUID.
    machine.with(|world| {
        let vm = world.value("/local/domain/5/vm").unwrap().to_owned();
        world.destroy(WEB);
        world.add_domain(xen_types::DomId(9), "web");
        world.write("/local/domain/9/vm", &vm);
    });
    command(&machine, &format!("attach --plan {}", plan.display())).0.unwrap();
    assert_eq!([E1000, EDU, NVME].map(|name| owner(&machine, name)), [9, 9, DB.0]);
    assert_eq!(SavedPlan::of(&machine.host, None).unwrap(), before);
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/3/backend/pci/9/0/vdevfn-0"), Some("28"));
        assert!(world.value("/tool/pcidom/device/0000-00-06-0/persistent").is_some());
        assert!(world.value("/tool/pcidom/device/0000-00-05-0/persistent").is_none());
    });
    // Again, all is there.
    command(&machine, &format!("attach --plan {}", plan.display())).0.unwrap();
    machine.with(|world| assert!(world.notes.iter().any(|note| note.ends_with("has all of its devices"))));
    machine.assert_no_violations();
}

#[test]
fn a_guest_without_a_uuid_of_its_own_is_found_by_its_name() {
    let machine = machine();
    let plan = machine.tree.path().join("plan.json");
    command(&machine, &format!("detach --all --plan {}", plan.display())).0.unwrap();
    machine.with(|world| {
        for (old, new, name) in [(WEB, 9, "web"), (DB, 10, "db")] {
            world.destroy(old);
            world.add_domain(xen_types::DomId(new), name);
            world.write(&format!("/local/domain/{new}/vm"), &format!("/vm/5eed5eed-7f7b-4a55-8f4e-0000000000{new:02}"));
        }
    });
    command(&machine, &format!("attach --plan {}", plan.display())).0.unwrap();
    assert_eq!([E1000, EDU, NVME].map(|name| owner(&machine, name)), [9, 9, 10]);
}

#[test]
fn one_guest_that_does_not_let_go_keeps_no_other_from_doing_so() {
    let machine = machine();
    let plan = machine.tree.path().join("plan.json");
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = true);
    let (done, json) = command(&machine, &format!("detach --all --timeout 1 --plan {}", plan.display()));
    assert!(matches!(done, Err(Error::GuestSilent { .. })), "{done:?}");
    assert_eq!((&json["code"], &json["exit_code"]), (&"E_GUEST_SILENT".into(), &3.into()));
    assert_eq!([E1000, EDU, NVME].map(|name| owner(&machine, name)), [WEB.0, WEB.0, xen_types::DomId::IO.0]);
    // The plan has all of them, stays, and gives back what is away.
    let text = std::fs::read_to_string(&plan).unwrap();
    let (again, _) = command(&machine, &format!("detach --all --plan {}", plan.display()));
    assert!(again.unwrap_err().to_string().contains("plan.json"));
    assert_eq!(std::fs::read_to_string(&plan).unwrap(), text);
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = false);
    command(&machine, &format!("attach --plan {}", plan.display())).0.unwrap();
    assert_eq!(owner(&machine, NVME), DB.0);
}

#[test]
fn it_can_be_tried_and_be_about_one_guest() {
    let machine = machine();
    let before = machine.dump();
    let (done, json) = command(&machine, "detach --all --dry-run --plan /nonexistent/plan.json");
    done.unwrap();
    let steps: Vec<&str> = json["steps"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert_eq!(json["outcome"], "planned");
    assert!(steps.iter().any(|step| step.starts_with("ask web (domain 5)")), "{steps:?}");
    assert!(steps.iter().any(|step| step.starts_with("ask db (domain 6)")), "{steps:?}");
    machine.dump().assert_same(&before, "");
    command(&machine, "detach --all db").0.unwrap();
    assert_eq!([owner(&machine, EDU), owner(&machine, NVME)], [WEB.0, xen_types::DomId::IO.0]);
    assert!(matches!(command(&machine, "detach --all nobody").0, Err(Error::NoSuchGuest(_))));
    let nobody = Machine::new();
    command(&nobody, "detach --all").0.unwrap();
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_before_anything_is_done() {
    let machine = attached();
    let plan = machine.tree.path().join("plan.json");
    let changes = machine.with(|world| world.changes);
    for (text, why) in [
        ("", "EOF"),
        (r#"{"version":2,"guests":[]}"#, "version 2"),
        (r#"{"version":1,"guests":[],"colour":"red"}"#, "colour"),
        (
            r#"{"version":1,"guests":[{"guest":"web","uuid":null,"backend":"pcidom","export":null,"persistent":false,"devices":["00:05"]}]}"#,
            "not a PCI address",
        ),
        (
            r#"{"version":1,"guests":[{"guest":"web","uuid":null,"backend":"pcidom","export":"x","persistent":false,"devices":[]}]}"#,
            "no mode",
        ),
    ] {
        std::fs::write(&plan, text).unwrap();
        let (done, json) = command(&machine, &format!("attach --plan {}", plan.display()));
        let error = done.unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("plan.json"), "{error}");
        assert_eq!(json["code"], "E_CONFIG");
    }
    assert_eq!(machine.with(|world| world.changes), changes);
}

#[test]
fn what_others_left_can_be_looked_at_without_being_touched() {
    let machine = machine();
    let (done, json) = command(&machine, "reclaim --dry-run");
    done.unwrap();
    assert_eq!((&json["outcome"], &json["steps"]), (&"planned".into(), &serde_json::json!([])));
    machine.with(|world| {
        world.destroy(DB);
        world.write("/tool/pcidom/create/0a5e2f3c-7f7b-4a55-8f4e-000000000099", "building");
        world.write("/tool/pcidom/device/0000-00-05-0/phase", "detaching");
    });
    let before = machine.dump();
    let (_, json) = command(&machine, "reclaim --dry-run");
    let steps = json["steps"].to_string();
    for want in [
        &format!("take {NVME} back from"),
        "creation of the guest 0a5e2f3c",
        &format!("finish or undo that {E1000} is detaching (web (domain 5))"),
    ] {
        assert!(steps.contains(want), "{want}: {steps}");
    }
    machine.dump().assert_same(&before, "");
}
