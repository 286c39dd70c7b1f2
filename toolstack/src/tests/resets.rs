//! Resets that do not just succeed.

use fakes::ResetOutcome;
use fakes::ResetOutcome::{Error as Fails, Ones};
use pcidom_abi::DeviceNode;

use super::{attach_to_web, attached, detach_from_web};
use crate::cli::list;
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, device};
use crate::ops::assignable;
use crate::ops::recover::reclaim;

const ENOTTY: i32 = 25;
const EAGAIN: i32 = 11;
const EIO: i32 = 5;

fn set_methods(machine: &Machine, methods: &str, outcomes: &[(&str, ResetOutcome)]) {
    machine.tree.write(format!("bus/pci/devices/{NVME}/reset_method"), format!("{methods}\n"));
    machine.with(|world| {
        let outcomes = outcomes.iter().map(|(method, outcome)| ((NVME.to_owned(), (*method).to_owned()), *outcome));
        world.reset_outcomes = outcomes.collect();
    });
}

fn note(machine: &Machine) -> Option<String> {
    machine.with(|world| world.value(&DeviceNode::Reset.of(device(NVME))).map(str::to_owned))
}

fn told(machine: &Machine, words: &str) -> bool {
    machine.with(|world| world.notes.iter().any(|note| note.contains(words)))
}

#[test]
fn methods_are_tried_in_their_turn_and_the_one_that_did_it_is_noted() {
    /// Methods, what comes of those that do not just succeed, and what is noted.
    type Case = (&'static str, &'static [(&'static str, ResetOutcome)], &'static str);
    let cases: [Case; 8] = [
        ("flr", &[], "done flr"),
        ("flr bus", &[], "done flr,bus"),
        ("flr bus", &[("flr", Fails(ENOTTY))], "done flr,bus"), // Linux has tried the next one by itself
        ("flr pm bus", &[("flr", Fails(EAGAIN))], "done pm"),
        ("flr pm bus", &[("flr", Ones)], "done pm"),
        ("flr pm bus", &[("flr", Ones), ("pm", Fails(EIO))], "done bus"),
        ("flr bus", &[("flr", Fails(ENOTTY)), ("bus", Fails(ENOTTY))], "no-method"),
        ("bus", &[("bus", Fails(EAGAIN))], "no-method"),
    ];
    for (methods, outcomes, expected) in cases {
        let machine = attached();
        set_methods(&machine, methods, outcomes);
        detach_from_web(&machine, &[NVME]).unwrap();
        assert_eq!(note(&machine).as_deref(), Some(expected), "{methods} {outcomes:?}");
        let left = std::fs::read_to_string(machine.tree.path().join(format!("bus/pci/devices/{NVME}/reset_method")));
        assert_eq!(left.unwrap(), format!("{methods}\n"), "as the admin has it");
        assert!(machine.config(NVME).is_quiesced());
        assert!(!told(&machine, "was not reset"), "no method is nothing to tell");
        machine.assert_no_violations();
    }
}

#[test]
fn a_reset_that_fails_is_told_and_the_device_is_given_on_with_its_registers_written_back() {
    let machine = attached();
    set_methods(&machine, "flr", &[("flr", Fails(EIO))]);
    detach_from_web(&machine, &[NVME]).unwrap();
    assert_eq!(note(&machine).as_deref(), Some("failed"));
    assert!(told(&machine, "was not reset"));
    attach_to_web(&machine, &[NVME]).unwrap();
}

#[test]
fn a_device_that_answers_with_ones_after_its_reset_is_not_given_on() {
    let machine = attached();
    let before = machine.config(NVME);
    set_methods(&machine, "flr bus", &[("flr", Ones), ("bus", Ones)]);
    detach_from_web(&machine, &[NVME]).unwrap();
    assert_eq!(note(&machine).as_deref(), Some("lost"));
    assert!(told(&machine, "answers with ones since its reset"));
    let listed = |machine: &Machine| {
        let devices = list::devices(&machine.host, None).unwrap();
        let table = list::table(&devices);
        table.lines().find(|line| line.starts_with(NVME)).unwrap().to_owned()
    };
    assert!(listed(&machine).contains("lost by its reset"), "{}", listed(&machine));
    assert!(attach_to_web(&machine, &[NVME]).is_err());
    // It answers again, after a power cycle.
    machine.tree.write(format!("bus/pci/devices/{NVME}/config"), &before.bytes);
    set_methods(&machine, "flr bus", &[]);
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn an_attach_whose_reset_takes_the_device_away_leaves_no_trace() {
    let machine = Machine::new();
    assignable::add(&machine.host, &[NVME].map(device), "pcidom").unwrap();
    machine.with(|world| world.remove(&DeviceNode::Reset.of(device(NVME))));
    set_methods(&machine, "flr", &[("flr", Ones)]);
    let error = attach_to_web(&machine, &[NVME]).unwrap_err();
    assert!(matches!(error, Error::LostByReset(lost) if lost == device(NVME)), "{error}");
    machine.with(|world| assert_eq!(world.value("/local/domain/5/device/pci/0/state"), None));
    machine.assert_no_violations();
}

#[test]
fn a_device_that_comes_back_a_moment_after_its_reset_is_as_good_as_any() {
    let machine = attached();
    let before = machine.config(NVME);
    set_methods(&machine, "flr", &[("flr", Ones)]);
    let path = machine.tree.path().join(format!("bus/pci/devices/{NVME}/config"));
    machine.with(|world| {
        world.during_pause = Some(Box::new(move |_| std::fs::write(path, &before.bytes).unwrap()));
    });
    detach_from_web(&machine, &[NVME]).unwrap();
    assert_eq!(note(&machine).as_deref(), Some("done flr"));
    assert!(!told(&machine, "answers with ones"));
}

#[test]
fn the_list_says_how_free_devices_were_reset() {
    let machine = Machine::new();
    set_methods(&machine, "pm", &[]);
    assignable::add(&machine.host, &[E1000, EDU, NVME].map(device), "pcidom").unwrap();
    reclaim(&machine.host).unwrap();
    let devices = list::devices(&machine.host, None).unwrap();
    let table = list::table(&devices);
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line(NVME).contains("reset by pm"), "{table}");
    assert!(line(EDU).contains("cannot be reset"), "{table}");
    assert!(list::json(&devices).contains("\"reset\": \"done pm\""));
    attach_to_web(&machine, &[NVME]).unwrap();
    assert!(list::json(&list::devices(&machine.host, Some("web")).unwrap()).contains("\"reset\": null"));
}
