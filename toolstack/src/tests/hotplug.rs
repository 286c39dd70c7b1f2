//! Devices that come to and leave a guest that goes on using others.

use std::time::Duration;

use super::{TIMEOUT, add_all, attach_to_web, detach_from_web, pause};
use crate::error::{Error, ExitCause};
use crate::fake::{Dump, E1000, EDU, Machine, NVME, SATA, STUB, WEB, device};
use crate::ops::connect::Connection;
use crate::ops::recover::reclaim;

const BACKEND: &str = "/local/domain/3/backend/pci/5/0";
const FRONTEND: &str = "/local/domain/5/device/pci/0";

/// A machine on which "web" uses some devices, and the others are in the pool.
fn using(devices: &[&str]) -> Machine {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, devices).unwrap();
    machine.with(|world| world.traces.clear());
    machine
}

fn value(machine: &Machine, name: &str) -> Option<String> {
    machine.with(|world| world.value(&format!("{BACKEND}/{name}")).map(str::to_owned))
}

/// The addresses at which "web" sees devices.
fn seen(machine: &Machine) -> Vec<String> {
    machine.with(|world| world.guest.seen.iter().map(|(_, vdev)| vdev.clone()).collect())
}

/// As [`Dump::assert_same`], but for what a guest's driver did to registers.
fn assert_same(machine: &Machine, expected: &Dump) {
    machine.dump_but_config().assert_same(expected, "");
    machine.assert_no_violations();
}

/// What the ends went through.
fn transitions(machine: &Machine) -> Vec<String> {
    let shown = |line: &String| {
        let of_an_end = line.strip_prefix(&format!("{BACKEND}/")).map(|rest| format!("BE {rest}"));
        of_an_end.or_else(|| line.strip_prefix(&format!("{FRONTEND}/")).map(|rest| format!("FE {rest}")))
    };
    machine.with(|world| world.traces.iter().filter_map(shown).collect())
}

fn force(machine: &Machine, devices: &[&str]) -> Result<(), Error> {
    let reclaimed = reclaim(&machine.host)?;
    let devices = devices.iter().map(|text| device(text)).collect();
    let request =
        crate::ops::detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: true };
    crate::ops::detach::detach(&machine.host, &request, &reclaimed)
}

#[test]
fn a_device_joins_those_that_the_guest_has() {
    let machine = using(&[E1000]);
    assert_eq!(attach_to_web(&machine, &[EDU, "0000:00:07.0,name=disk"]).unwrap(), Connection::Connected);
    assert_eq!(seen(&machine), ["0000:00:00.00", "0000:00:01.00", "0000:00:02.00"]);
    assert_eq!(value(&machine, "num_devs").as_deref(), Some("3"));
    assert_eq!(value(&machine, "dev-2").as_deref(), Some("0000:00:07.0"));
    assert_eq!(value(&machine, "name-2").as_deref(), Some("disk"));
    machine.with(|world| {
        assert_eq!(world.owners[&device(EDU)], WEB);
        assert!(world.irqs.contains(&(WEB, 22)) && world.iomem.contains(&(WEB, 0xfea00)));
    });
    machine.assert_no_violations();
}

/// A guest may write its 4 in another way: a transaction that expects the state must not wait for the spelling.
#[test]
fn a_state_that_is_written_in_another_way_is_the_same_state() {
    for spelling in ["04", " 4", "4\n"] {
        let machine = using(&[E1000]);
        let respell = |machine: &Machine| machine.with(|world| world.write(&format!("{FRONTEND}/state"), spelling));
        respell(&machine);
        attach_to_web(&machine, &[EDU]).unwrap();
        respell(&machine);
        detach_from_web(&machine, &[EDU]).unwrap();
        respell(&machine);
        force(&machine, &[E1000]).unwrap();
        machine.assert_no_violations();
    }
}

#[test]
fn each_transition_of_an_attach_is_shown() {
    let machine = using(&[E1000]);
    attach_to_web(&machine, &[EDU]).unwrap();
    let mut shown = transitions(&machine);
    shown.retain(|line| line.contains("state"));
    // What both ends had before comes first.
    let begin = shown.iter().position(|line| line.starts_with("BE state-1")).unwrap();
    assert_eq!(
        shown[begin..],
        [
            "BE state-1: 1 Initialising",
            "BE state: 4 Connected -> 7 Reconfiguring",
            "FE state: 4 Connected -> 7 Reconfiguring",
            "BE state-1: 1 Initialising -> 3 Initialised",
            "BE state: 7 Reconfiguring -> 8 Reconfigured",
            "FE state: 7 Reconfiguring -> 4 Connected",
            "BE state: 8 Reconfigured -> 4 Connected",
        ]
    );
}

#[test]
fn entries_above_one_that_leaves_move_down() {
    let machine = using(&[E1000, EDU, "0000:00:07.0@1f,name=disk"]);
    detach_from_web(&machine, &[E1000]).unwrap();
    let entries =
        ["num_devs", "dev-0", "key-0", "vdev-0", "state-0", "dev-1", "vdev-1", "state-1", "name-1", "vdevfn-1"];
    assert_eq!(
        entries.map(|name| value(&machine, name).unwrap()),
        ["2", EDU, EDU, "0000:00:01.00", "3", NVME, "0000:00:02.00", "3", "disk", "f8"]
    );
    for gone in ["dev-2", "key-2", "vdev-2", "state-2", "opts-2", "name-2", "vdevfn-2", "vdevfn-0", "name-0"] {
        assert_eq!(value(&machine, gone), None, "{gone}");
    }
    machine.with(|world| {
        let rights = |name: &str| world.store.node(&format!("{BACKEND}/{name}")).unwrap().permissions().to_vec();
        assert_eq!(rights("state-1"), rights("state"), "the stub must be able to write them");
        assert_eq!(rights("vdev-0"), rights("state"));
        assert_eq!(rights("vdevfn-1"), rights("num_devs"));
    });
    assert_eq!(seen(&machine), ["0000:00:01.00", "0000:00:02.00"]);
    detach_from_web(&machine, &[NVME]).unwrap();
    assert_eq!(seen(&machine), ["0000:00:01.00"]);
    machine.assert_no_violations();
}

#[test]
fn attach_and_detach_of_one_leave_the_others_as_they_were() {
    let machine = using(&[E1000]);
    let before = machine.dump_but_config();
    for _ in 0..3 {
        attach_to_web(&machine, &[EDU, NVME]).unwrap();
        detach_from_web(&machine, &[NVME, EDU]).unwrap();
        assert_same(&machine, &before);
    }
}

#[test]
fn the_last_device_takes_the_directories_with_it_and_the_first_brings_them_back() {
    let machine = Machine::new();
    add_all(&machine);
    let before = machine.dump();
    for _ in 0..3 {
        attach_to_web(&machine, &[EDU]).unwrap();
        attach_to_web(&machine, &[NVME]).unwrap();
        detach_from_web(&machine, &[EDU]).unwrap();
        detach_from_web(&machine, &[NVME]).unwrap();
        machine.dump().assert_same(&before, "");
    }
    machine.assert_no_violations();
}

#[test]
fn what_two_devices_share_comes_with_the_first_and_goes_with_the_last() {
    let machine = Machine::new();
    // One interrupt line, and registers in one page.
    machine.add_function(
        "0000:00:08.0",
        "0x020000",
        "pciback",
        40,
        &[(0xfd00_0000, 0x1000, 0x200), (0xfd00_1000, 0x800, 0x200)],
    );
    machine.add_function(
        "0000:00:08.1",
        "0x020000",
        "pciback",
        40,
        &[(0xfd00_1800, 0x800, 0x200), (0xfd00_2000, 0x1000, 0x200)],
    );
    let rights = |machine: &Machine| {
        machine.with(|world| {
            let frames: Vec<u64> = world.iomem.iter().filter(|(id, _)| *id == WEB).map(|(_, frame)| *frame).collect();
            (frames, world.irqs.len(), world.pirqs.len())
        })
    };
    let both = ["0000:00:08.0", "0000:00:08.1"];
    attach_to_web(&machine, &both).unwrap();
    assert_eq!(rights(&machine), (vec![0xfd000, 0xfd001, 0xfd002], 1, 1));
    detach_from_web(&machine, &both[..1]).unwrap();
    assert_eq!(rights(&machine), (vec![0xfd001, 0xfd002], 1, 1));
    attach_to_web(&machine, &both[..1]).unwrap();
    assert_eq!(rights(&machine), (vec![0xfd000, 0xfd001, 0xfd002], 1, 1));
    detach_from_web(&machine, &both[1..]).unwrap();
    assert_eq!(rights(&machine), (vec![0xfd000, 0xfd001], 1, 1));
    detach_from_web(&machine, &both[..1]).unwrap();
    assert_eq!(rights(&machine), (vec![], 0, 0));
    machine.assert_no_violations();
}

#[test]
fn a_paused_guest_that_never_booted_is_not_asked() {
    let machine = Machine::new();
    add_all(&machine);
    pause(&machine, WEB);
    attach_to_web(&machine, &[E1000]).unwrap();
    let before = machine.dump_but_config();
    assert_eq!(attach_to_web(&machine, &[EDU, NVME]).unwrap(), Connection::Waiting);
    assert_eq!(value(&machine, "state").as_deref(), Some("3"));
    assert_eq!(value(&machine, "state-2").as_deref(), Some("3"));
    detach_from_web(&machine, &[EDU, NVME]).unwrap();
    assert_same(&machine, &before);
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = false);
    machine.settle();
    assert_eq!(seen(&machine).len(), 2);
    assert!(transitions(&machine).iter().all(|line| !line.contains("Reconfiguring")));
}

#[test]
fn a_guest_that_is_paused_while_it_uses_devices_gets_no_more() {
    let machine = using(&[E1000]);
    pause(&machine, WEB);
    let before = machine.dump_but_config();
    let error = attach_to_web(&machine, &[EDU]).unwrap_err();
    assert!(matches!(error, Error::GuestSilent { .. }), "{error}");
    assert_same(&machine, &before);
}

/// A hot attach that must fail and leave no trace.
fn fails_without_trace(prepare: impl Fn(&Machine)) -> Error {
    let machine = using(&[E1000]);
    let before = machine.dump_but_config();
    prepare(&machine);
    let error = attach_to_web(&machine, &[EDU, NVME]).unwrap_err();
    machine.settle();
    // The reason stays to be read until the next attach.
    machine.with(|world| world.remove("/local/domain/3/error/backend"));
    assert_same(&machine, &before);
    assert_eq!(seen(&machine), ["0000:00:00.00"]);
    machine.with(|world| {
        world.guest = crate::fake::GuestScript { seen: world.guest.seen.clone(), ..Default::default() };
        world.stub.cannot_export = None;
    });
    machine.settle();
    attach_to_web(&machine, &[EDU, NVME]).unwrap();
    detach_from_web(&machine, &[EDU, NVME]).unwrap();
    assert_same(&machine, &before);
    error
}

#[test]
fn a_guest_that_does_not_answer_can_be_tried_again_later() {
    let error = fails_without_trace(|machine| machine.with(|world| world.guest.silent = true));
    assert_eq!(error.cause(), ExitCause::GuestSilent);
    assert_eq!(
        error.to_string(),
        "web (domain 5) did not answer within 30.5 s (backend Reconfiguring, frontend Connected)"
    );
}

#[test]
fn a_guest_that_knows_no_hotplug_keeps_what_it_had() {
    let error = fails_without_trace(|machine| machine.with(|world| world.guest.knows_no_hotplug = true));
    assert_eq!(error.cause(), ExitCause::GuestSilent);
}

#[test]
fn a_device_that_cannot_be_exported_takes_no_other_with_it() {
    let error = fails_without_trace(|machine| {
        machine.with(|world| world.stub.cannot_export = Some((device(NVME), "28 the virtual bus is full")));
    });
    assert_eq!(
        error.to_string(),
        "the backend pcidom (domain 3) could not export 0000:00:07.0: 28 the virtual bus is full"
    );
    assert_eq!(error.cause(), ExitCause::Failed);
}

#[test]
fn a_guest_that_answers_when_the_command_has_given_up_comes_back() {
    let machine = using(&[E1000]);
    let before = machine.dump_but_config();
    machine.with(|world| {
        world.guest.silent = true;
        // It answers in the moment in which the command takes the question back.
        world.incidents.push(Box::new(|world| {
            let over = world.value(&format!("{BACKEND}/num_devs")) == Some("1")
                && world.traces.iter().any(|line| line.contains("undo: "));
            if over {
                world.guest.silent = false;
                world.write(&format!("{FRONTEND}/state"), "7");
            }
            over
        }));
    });
    attach_to_web(&machine, &[EDU]).unwrap_err();
    machine.settle();
    assert_same(&machine, &before);
}

#[test]
fn a_guest_that_stops_in_the_middle_loses_only_what_is_new() {
    let machine = using(&[E1000]);
    machine.with(|world| world.guest.stops_at_7 = true);
    let error = attach_to_web(&machine, &[EDU]).unwrap_err();
    assert_eq!(error.cause(), ExitCause::GuestSilent, "{error}");
    machine.with(|world| {
        assert_eq!(world.owners[&device(E1000)], WEB);
        assert_eq!(world.owners[&device(EDU)], xen_types::DomId::IO);
        assert!(!world.iomem.contains(&(WEB, 0xfea00)));
        world.guest.stops_at_7 = false;
    });
    machine.settle();
    assert_eq!(value(&machine, "state").as_deref(), Some("4"));
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_keeps_a_device_keeps_it_whole() {
    let machine = using(&[E1000, EDU]);
    machine.with(|world| world.guest.keeps = true);
    let before = machine.dump();
    let error = detach_from_web(&machine, &[EDU]).unwrap_err();
    assert_eq!(error.cause(), ExitCause::GuestSilent);
    machine.dump().assert_same(&before, "");
    machine.with(|world| world.guest.keeps = false);
    detach_from_web(&machine, &[EDU]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn force_goes_on_without_the_guest() {
    for all in [false, true] {
        let machine = using(&[E1000, EDU]);
        machine.with(|world| world.guest.keeps = true);
        let names: &[&str] = if all { &[E1000, EDU] } else { &[EDU] };
        force(&machine, names).unwrap();
        machine.with(|world| {
            assert_eq!(world.owners[&device(EDU)], xen_types::DomId::IO);
            assert!(!world.iomem.contains(&(WEB, 0xfea00)) && !world.irqs.contains(&(WEB, 22)));
            assert_eq!(world.iomem.contains(&(WEB, 0xfeb40)), !all);
            assert_eq!(world.value("/local/domain/3/pool/0000-00-06-0/state"), Some("free"));
            assert!(
                world.notes.iter().any(|note| note == "web (domain 5) did not let go of its devices and loses them")
            );
            world.guest.keeps = false;
        });
        machine.settle();
        assert_eq!(value(&machine, "state").as_deref(), (!all).then_some("4"));
        machine.assert_no_violations();
    }
}

#[test]
fn a_guest_that_dies_in_the_middle_gives_everything_back() {
    for hot in ["attach", "detach"] {
        let machine = if hot == "attach" { using(&[E1000]) } else { using(&[E1000, EDU]) };
        machine.with(|world| {
            world.incidents.push(Box::new(|world| {
                let moved = world.value(&format!("{FRONTEND}/state")) == Some("7");
                if moved {
                    world.destroy(WEB);
                }
                moved
            }));
        });
        let outcome = match hot {
            "attach" => attach_to_web(&machine, &[EDU]).map(drop),
            _ => detach_from_web(&machine, &[EDU]),
        };
        assert_eq!(outcome.is_ok(), hot == "detach", "{outcome:?}");
        reclaim(&machine.host).unwrap();
        let expected = Machine::new();
        add_all(&expected);
        expected.with(|world| world.destroy(WEB));
        assert_same(&machine, &expected.dump_but_config());
    }
}

#[test]
fn a_stub_that_dies_in_the_middle_leaves_the_guest_what_it_uses() {
    for hot in ["attach", "detach"] {
        let machine = if hot == "attach" { using(&[E1000]) } else { using(&[E1000, EDU]) };
        machine.with(|world| {
            world.incidents.push(Box::new(|world| {
                let moved = world.value(&format!("{FRONTEND}/state")) == Some("7");
                if moved {
                    world.destroy(STUB);
                }
                moved
            }));
        });
        let outcome = match hot {
            "attach" => attach_to_web(&machine, &[EDU]).map(drop),
            _ => detach_from_web(&machine, &[EDU]),
        };
        assert_eq!(outcome.is_ok(), hot == "detach", "{outcome:?}");
        machine.with(|world| world.uncertain = true);
        reclaim(&machine.host).unwrap();
        machine.with(|world| {
            assert_eq!(world.owners[&device(E1000)], WEB, "{hot}");
            assert_eq!(world.owners[&device(EDU)], xen_types::DomId::IO, "{hot}");
            assert!(world.iomem.contains(&(WEB, 0xfeb40)) && !world.iomem.contains(&(WEB, 0xfea00)), "{hot}");
        });
        machine.assert_no_violations();
    }
}

#[test]
fn any_single_failure_of_an_attach_leaves_everything_as_it_was() {
    let changes = {
        let machine = using(&[E1000]);
        let start = machine.with(|world| world.changes);
        attach_to_web(&machine, &[EDU, NVME]).unwrap();
        machine.with(|world| world.changes) - start
    };
    let mut failures = 0;
    for failing in 1..=changes {
        let machine = using(&[E1000]);
        let before = machine.dump_but_config();
        machine.with(|world| world.failing_change = Some(world.changes + failing));
        if let Err(error) = attach_to_web(&machine, &[EDU, NVME]) {
            failures += 1;
            machine.settle();
            machine.dump_but_config().assert_same(&before, format!("change {failing}: {error}"));
            machine.with(|world| {
                let undone = world.notes.iter().all(|note| !note.starts_with("could not undo"));
                assert!(undone, "change {failing}: {:?}", world.notes);
            });
            assert_eq!(seen(&machine), ["0000:00:00.00"]);
        }
        machine.assert_no_violations();
    }
    assert!(failures >= changes - 1, "{failures} of {changes}");
}

#[test]
fn whatever_fails_of_a_detach_the_next_command_finishes() {
    let expected = using(&[E1000]).dump_but_config();
    let changes = {
        let machine = using(&[E1000, EDU, NVME]);
        let start = machine.with(|world| world.changes);
        detach_from_web(&machine, &[EDU, NVME]).unwrap();
        machine.with(|world| world.changes) - start
    };
    for failing in 1..=changes {
        let machine = using(&[E1000, EDU, NVME]);
        machine.with(|world| {
            world.failing_change = Some(world.changes + failing);
            world.uncertain = true;
        });
        let Err(error) = detach_from_web(&machine, &[EDU, NVME]) else { continue };
        let again = detach_from_web(&machine, &[EDU, NVME]);
        assert!(again.is_ok(), "change {failing}: {error}; again: {again:?}");
        machine.dump_but_config().assert_same(&expected, format!("change {failing}: {error}"));
        machine.assert_no_violations();
    }
}

/// Pulls a device out of the machine.
fn pull_out(machine: &Machine, name: &str) {
    std::fs::remove_dir_all(machine.tree.path().join(format!("bus/pci/devices/{name}"))).unwrap();
    machine.with(|world| world.owners.remove(&device(name)));
}

#[test]
fn a_device_that_was_pulled_out_leaves_alone() {
    let machine = using(&[E1000, EDU]);
    pull_out(&machine, EDU);
    detach_from_web(&machine, &[EDU]).unwrap();
    assert_eq!(seen(&machine), ["0000:00:00.00"]);
    machine.with(|world| {
        assert!(world.iomem.iter().filter(|(id, _)| *id == WEB).all(|(_, frame)| *frame >> 8 != 0xfea));
        assert!(!world.irqs.contains(&(WEB, 22)) && world.irqs.contains(&(WEB, 21)));
        assert!(world.notes.iter().any(|note| note.contains("refuses 0000:00:06.0")), "{:?}", world.notes);
    });
    crate::ops::assignable::remove(&machine.host, &[device(EDU)], false).unwrap();
    machine.with(|world| {
        assert!(!world.paths().any(|path| path.contains("0000-00-06-0")));
        assert!(!world.iomem.contains(&(STUB, 0xb0030)));
    });
    machine.assert_no_violations();
}

#[test]
fn the_stub_is_told_to_look_at_a_device_that_was_pulled_out() {
    let machine = using(&[E1000, EDU]);
    pull_out(&machine, EDU);
    machine.with(|world| world.write("/local/domain/3/pool/0000-00-06-0/online", "marked"));
    reclaim(&machine.host).unwrap();
    machine.with(|world| {
        assert_eq!(world.value("/local/domain/3/pool/0000-00-06-0/online"), Some("1"));
        world.write("/local/domain/3/pool/0000-00-06-0/state", "absent 5");
        world.write("/local/domain/3/pool/0000-00-06-0/online", "marked");
    });
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.value("/local/domain/3/pool/0000-00-06-0/online"), Some("marked")));
}

#[test]
fn a_device_that_cannot_be_quieted_keeps_no_other() {
    let machine = using(&[E1000, EDU, NVME]);
    let config = machine.tree.path().join(format!("bus/pci/devices/{EDU}/config"));
    let bytes = std::fs::read(&config).unwrap();
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    let error = detach_from_web(&machine, &[EDU, NVME]).unwrap_err();
    assert!(error.to_string().contains("config"), "{error}");
    machine.with(|world| {
        assert_eq!(world.value("/tool/pcidom/device/0000-00-07-0/phase"), Some("pool"));
        assert_eq!(world.value("/tool/pcidom/device/0000-00-06-0/phase"), Some("detaching"));
        assert_eq!(world.owners[&device(EDU)], xen_types::DomId::IO);
        assert!(!world.irqs.contains(&(WEB, 22)));
        world.uncertain = true;
    });
    std::fs::remove_dir(&config).unwrap();
    std::fs::write(&config, bytes).unwrap();
    reclaim(&machine.host).unwrap();
    assert_same(&machine, &using(&[E1000]).dump_but_config());
}

/// "web" has mapped some pages of the EDU device.
fn cling(machine: &Machine, pages: usize) {
    let entries: Vec<(usize, u64)> = (0..pages).map(|page| (page, (0xfea00 + page as u64) << 12 | 1)).collect();
    machine.with(|world| {
        world.memory.give(WEB, 0x2000..0x2400);
        world.memory.make_table(WEB, 0x2001, &entries);
    });
}

#[test]
fn a_device_that_the_guest_clings_to_is_given_to_nobody() {
    let machine = using(&[E1000, EDU]);
    cling(&machine, 3);
    let leaked = "0000:00:06.0 is leaked and cannot be assigned: still with web (domain 5): 3 mappings of 0xfea00000";
    let error = detach_from_web(&machine, &[EDU]).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.cause()), (leaked, ExitCause::Failed));
    machine.with(|world| {
        assert_eq!(world.value("/tool/pcidom/device/0000-00-06-0/phase"), Some("leaked"));
        assert_eq!(world.owners[&device(EDU)], xen_types::DomId::IO);
        assert!(!world.irqs.contains(&(WEB, 22)));
    });
    let listed = crate::cli::list::table(&crate::cli::list::devices(&machine.host, None).unwrap());
    assert!(listed.contains("leaked    still with web (domain 5): 3 mappings of 0xfea00000"), "{listed}");
    for guest in ["web", "db"] {
        let error = crate::ops::attach::attach(&machine.host, &super::request(guest, &[EDU])).unwrap_err();
        assert_eq!(error.to_string(), leaked);
    }
    assert_eq!(crate::ops::assignable::remove(&machine.host, &[device(EDU)], false).unwrap_err().to_string(), leaked);
    // What it shares with no other goes, what the other needs stays; and the other can come and go.
    attach_to_web(&machine, &[NVME]).unwrap();
    detach_from_web(&machine, &[NVME, E1000]).unwrap();
    assert_eq!(detach_from_web(&machine, &[EDU]).unwrap_err().to_string(), leaked);
    machine.with(|world| world.memory.make_table(WEB, 0x2001, &[]));
    detach_from_web(&machine, &[EDU]).unwrap();
    let expected = Machine::new();
    add_all(&expected);
    assert_same(&machine, &expected.dump_but_config());
}

#[test]
fn an_attach_that_fails_leaves_nothing_with_a_guest_that_was_quick() {
    let machine = using(&[E1000]);
    machine.with(|world| world.stub.cannot_export = Some((device(NVME), "28 full")));
    cling(&machine, 1);
    attach_to_web(&machine, &[EDU, NVME]).unwrap_err();
    machine.with(|world| {
        assert_eq!(world.value("/tool/pcidom/device/0000-00-06-0/phase"), Some("leaked"));
        assert_eq!(world.value("/tool/pcidom/device/0000-00-07-0/phase"), Some("pool"));
        let told = "could not undo \"reserve 0000:00:06.0, 0000:00:07.0 for web (domain 5)\": 0000:00:06.0 is leaked";
        assert!(world.notes.iter().any(|note| note.starts_with(told)), "{:?}", world.notes);
    });
    machine.assert_no_violations();
}

#[test]
fn what_a_guest_is_quick_with_does_not_go_back_to_dom0s_driver() {
    let machine = using(&[E1000]);
    machine.with(|world| {
        world.stub.cannot_export = Some((device(SATA), "28 full"));
        world.memory.make_table(WEB, 0x2001, &[(0, 0xfeb9_1001)]);
    });
    attach_to_web(&machine, &[&format!("{SATA},seize=1")]).unwrap_err();
    let driver = || std::fs::read_link(machine.tree.path().join(format!("bus/pci/devices/{SATA}/driver"))).unwrap();
    assert!(driver().ends_with("pciback"), "{:?}", driver());
    machine.with(|world| {
        assert_eq!(world.value("/tool/pcidom/device/0000-00-1f-2/phase"), Some("leaked"));
        assert_eq!(world.owners[&device(SATA)], xen_types::DomId::IO);
        world.memory.make_table(WEB, 0x2001, &[]);
        world.stub.cannot_export = None;
    });
    detach_from_web(&machine, &[SATA]).unwrap();
    reclaim(&machine.host).unwrap();
    assert!(driver().ends_with("ahci"), "{:?}", driver());
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_cannot_be_looked_through_may_have_everything() {
    let machine = using(&[E1000, EDU]);
    cling(&machine, 0);
    machine.with(|world| world.memory.unmappable.insert(0x2001, false));
    let error = detach_from_web(&machine, &[EDU]).unwrap_err().to_string();
    assert!(error.contains("still with web (domain 5), perhaps: looking through web (domain 5)"), "{error}");
    machine.with(|world| world.memory.unmappable.clear());
    detach_from_web(&machine, &[EDU]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_held_device_is_freed_by_force_and_by_the_guests_end() {
    for forced in [true, false] {
        let machine = using(&[E1000, EDU]);
        machine.tree.write(format!("bus/pci/devices/{EDU}/reset"), "");
        cling(&machine, 1);
        detach_from_web(&machine, &[EDU]).unwrap_err();
        if forced {
            force(&machine, &[EDU]).unwrap();
        } else {
            machine.with(|world| world.destroy(WEB));
            reclaim(&machine.host).unwrap();
        }
        machine.with(|world| {
            assert_eq!(world.value("/tool/pcidom/device/0000-00-06-0/phase"), Some("pool"));
            assert_eq!(world.value("/tool/pcidom/device/0000-00-06-0/leaked"), None);
            assert_eq!(world.value("/libxl/pci/0000-00-06-0/domid"), Some("3"));
            // Who still maps its registers goes on after the reset.
            let reset = world.value("/tool/pcidom/device/0000-00-06-0/reset");
            assert_eq!((world.resets.last().map(String::as_str), reset), (Some(EDU), (!forced).then_some("done")));
        });
        machine.assert_no_violations();
    }
}

#[test]
fn a_guest_with_devices_can_be_destroyed_at_once() {
    let machine = using(&[E1000]);
    attach_to_web(&machine, &[EDU]).unwrap();
    detach_from_web(&machine, &[E1000]).unwrap();
    // libxl would wait for a backend that it finds here (`libxl__devices_destroy`, 4.17).
    machine.with(|world| {
        let ours = world.paths().filter(|path| path.starts_with("/libxl/"));
        assert!(ours.into_iter().all(|path| path.starts_with("/libxl/pci")));
        world.destroy(WEB);
    });
    let began = machine.with(|world| world.clock);
    reclaim(&machine.host).unwrap();
    assert!(machine.with(|world| world.clock) - began < std::time::Duration::from_secs(1));
    let expected = Machine::new();
    add_all(&expected);
    expected.with(|world| world.destroy(WEB));
    assert_same(&machine, &expected.dump_but_config());
}

/// A dom0 that takes five seconds over everything that the command does.
fn on_a_loaded_dom0(machine: &Machine) {
    machine.with(|world| world.change_takes = Duration::from_secs(5));
}

#[test]
fn the_command_s_own_work_costs_nobody_s_time() {
    let machine = Machine::new();
    on_a_loaded_dom0(&machine);
    attach_to_web(&machine, &[E1000, EDU]).unwrap();
    attach_to_web(&machine, &[NVME]).unwrap();
    assert!(machine.with(|world| world.clock) > 4 * TIMEOUT, "{:?}", machine.with(|world| world.clock));
    detach_from_web(&machine, &[E1000, NVME]).unwrap();
    detach_from_web(&machine, &[EDU]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn who_is_waited_for_in_vain_is_named_with_the_time_that_it_had() {
    let machine = Machine::new();
    add_all(&machine);
    on_a_loaded_dom0(&machine);
    machine.with(|world| world.stub.silent = true);
    let error = attach_to_web(&machine, &[E1000, EDU, NVME]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the backend pcidom (domain 3) did not answer within 31 s: serving the devices of web (domain 5)"
    );
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[E1000]).unwrap();
    on_a_loaded_dom0(&machine);
    machine.with(|world| world.guest.keeps = true);
    let error = attach_to_web(&machine, &[EDU, NVME]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "web (domain 5) did not answer within 30.5 s (backend Reconfiguring, frontend Connected)"
    );
    let error = detach_from_web(&machine, &[E1000]).unwrap_err();
    assert!(error.to_string().starts_with("web (domain 5) did not answer within 30 s ("), "{error}");
}
