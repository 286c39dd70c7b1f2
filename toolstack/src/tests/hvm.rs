//! HVM guests, whose stub domain has the frontend: its rights are both domains', and its device model is told.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pcidom_abi::DeviceNode;
use xen_types::DomId;
use xenstore::path;

use super::create::settings_alone;
use super::{TIMEOUT, add_all, attach_to_web, detach_from_web, request};
use crate::create::{Plan, create};
use crate::error::{Error, ExitCause};
use crate::fake::{DB, E1000, HVM, Killed, Machine, NVME, STUB, TempTree, WEB, World, device};
use crate::host::lock;
use crate::ops::attach::{self, Following};
use crate::ops::detach;
use crate::ops::device_model;
use crate::ops::maintenance::SavedPlan;
use crate::ops::recover::reclaim;
use crate::ops::unfinished_guests;
use crate::records::export::ExportMode;

/// A new guest with a device.
const NEW: [&str; 4] = ["name='new'", "type='hvm'", "device_model_stubdomain_override=1", "pci=['00:07.0']"];
const UUID: &str = "0a5e2f3c-7f7b-4a55-8f4e-000000000007";

/// A machine whose HVM guest runs, with its device model in a stub domain.
fn with_hvm() -> (Machine, DomId) {
    let machine = Machine::new();
    add_all(&machine);
    let stub_domain = machine.with(|world| {
        world.write("/local/domain/7/vm", &format!("/vm/{UUID}"));
        world.add_stub_domain(HVM)
    });
    (machine, stub_domain)
}

/// The number of the guest after a reboot.
const AGAIN: DomId = DomId(20);

/// The guest is there again, and its stub domain not yet.
fn come_again(world: &mut World) {
    world.add_domain(AGAIN, "windows");
    world.domains.get_mut(&AGAIN).unwrap().hvm = true;
    world.write(&path::child(&path::domain_path(AGAIN), "vm"), &format!("/vm/{UUID}"));
}

fn attach_to(machine: &Machine, guest: &str, devices: &[&str], following: Following) -> Result<(), Error> {
    reclaim(&machine.host)?;
    attach::attach(&machine.host, &attach::Request { following, ..request(guest, devices) }).map(drop)
}

fn detach_from(machine: &Machine, guest: &str, devices: &[&str], force: bool) -> Result<(), Error> {
    let reclaimed = reclaim(&machine.host)?;
    let devices = devices.iter().map(|text| device(text)).collect();
    let request = detach::Request { guest: guest.to_owned(), backend: None, devices, timeout: TIMEOUT, force };
    detach::detach(&machine.host, &request, &reclaimed)
}

#[track_caller]
fn assert_uses(machine: &Machine, guest: DomId, stub_domain: DomId, name: &str) {
    let dir = format!("/tool/pcidom/device/{}", device(name).path_component());
    machine.with(|world| {
        assert_eq!(world.owners[&device(name)], guest, "DMA");
        for domain in [guest, stub_domain] {
            assert!(world.iomem.iter().any(|(other, _)| *other == domain), "registers of {domain}");
            assert!(world.irqs.iter().any(|(other, _)| *other == domain), "interrupt of {domain}");
            assert!(world.pirqs.iter().any(|(other, _)| *other == domain), "pirq of {domain}");
        }
        let node = |name: &str| world.value(&format!("{dir}/{name}")).map(str::to_owned);
        assert_eq!(node("frontend"), Some(stub_domain.to_string()));
        assert_eq!(node("target"), Some(guest.to_string()));
        assert_eq!(node("policy").as_deref(), Some("permissive=0,interrupt-control=1"));
        assert!(node("permitted-writes").unwrap().contains(" interrupts:"));
        let backend = format!("/local/domain/{STUB}/backend/pci/{stub_domain}/0");
        assert_eq!(world.value(&format!("{backend}/export")), Some("passthrough"));
        assert_eq!(world.value(&format!("{backend}/state")), Some("4"));
        assert!(!world.has_node(&format!("/local/domain/{STUB}/backend/pci/{guest}")));
        assert_eq!(world.plugged.iter().filter(|(other, _)| *other == guest).count(), 1);
    });
    machine.assert_no_violations();
}

#[test]
fn a_device_reaches_an_hvm_guest_through_its_stub_domain_and_leaves_no_trace() {
    // Both names mean the guest.
    for name in ["windows", "windows-dm"] {
        let (machine, stub_domain) = with_hvm();
        let before = machine.dump();
        attach_to(&machine, name, &[NVME], Following::No).unwrap();
        assert_uses(&machine, HVM, stub_domain, NVME);
        detach_from(&machine, name, &[NVME], false).unwrap();
        machine.dump().assert_same(&before, name);
        // And a PV guest can have it.
        attach_to_web(&machine, &[NVME]).unwrap();
        machine.with(|world| {
            assert_eq!(world.owners[&device(NVME)], WEB);
            let policy = format!("/tool/pcidom/device/{}/policy", device(NVME).path_component());
            assert!(!world.has_node(&policy));
        });
        detach_from_web(&machine, &[NVME]).unwrap();
        machine.dump().assert_same(&before, name);
        machine.assert_no_violations();
    }
}

#[test]
fn a_device_of_several_leaves_alone() {
    let (machine, stub_domain) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    let before = machine.dump_but_config();
    attach_to(&machine, "windows", &[E1000], Following::No).unwrap();
    machine.with(|world| assert_eq!(world.plugged.len(), 2));
    detach_from(&machine, "windows", &[E1000], false).unwrap();
    machine.dump_but_config().assert_same(&before, "");
    assert_uses(&machine, HVM, stub_domain, NVME);
}

#[test]
fn a_guest_without_a_stub_domain_is_told_how_to_get_one() {
    let machine = Machine::new();
    add_all(&machine);
    let error = attach_to(&machine, "windows", &[NVME], Following::No).unwrap_err();
    assert!(error.hint().unwrap().contains("device_model_stubdomain_override=1"), "{error}");
}

#[test]
fn a_stub_domain_whose_guest_is_gone_gets_no_device() {
    let (machine, _) = with_hvm();
    add_all(&machine);
    // The number of the guest came again.
    machine.with(|world| world.write(&xenstore::path::device_model_node(HVM), "99"));
    let error = attach_to(&machine, "windows-dm", &[NVME], Following::No).unwrap_err();
    assert!(error.to_string().contains("whose guest is gone"), "{error}");
}

#[test]
fn a_guest_that_does_not_let_go_keeps_its_device_unless_by_force() {
    let (machine, stub_domain) = with_hvm();
    let free = machine.dump();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    machine.with(|world| world.guest.keeps = true);
    let error = detach_from(&machine, "windows", &[NVME], false).unwrap_err();
    assert!(matches!(error, Error::NotUnplugged { .. }), "{error}");
    assert_eq!(error.cause(), ExitCause::GuestSilent);
    assert_uses(&machine, HVM, stub_domain, NVME);
    // By force it loses it, and nobody gets it as long as the guest may have its registers mapped.
    let error = detach_from(&machine, "windows", &[NVME], true).unwrap_err();
    assert!(matches!(error, Error::Leaked { .. }), "{error}");
    assert!(matches!(detach_from(&machine, "windows", &[NVME], false), Err(Error::Leaked { .. })));
    // It does what QEMU had asked it for.
    machine.with(|world| world.plugged.clear());
    detach_from(&machine, "windows", &[NVME], false).unwrap();
    machine.dump().assert_same(&free, "");
}

#[test]
fn a_device_model_that_refuses_has_everything_undone() {
    let (machine, _) = with_hvm();
    let before = machine.dump_but_config();
    let mut failures = 0;
    for step in 1.. {
        machine.with(|world| world.failing_change = Some(world.changes + step));
        let attached = attach_to(&machine, "windows", &[NVME], Following::No);
        let failed = machine.with(|world| world.failing_change.take().is_some_and(|at| at <= world.changes));
        machine.settle();
        match attached {
            Err(_) => {
                failures += 1;
                // QEMU unmaps the interrupt of what it removes: there is nothing left to undo.
                machine.with(|world| {
                    assert!(
                        !world.notes.iter().any(|note| note.contains("could not undo")),
                        "{step}: {:?}",
                        world.notes
                    );
                });
                reclaim(&machine.host).unwrap();
                machine.dump_but_config().assert_same(&before, step);
            }
            Ok(()) if failed => detach_from(&machine, "windows", &[NVME], false).unwrap(),
            Ok(()) => break,
        }
    }
    assert!(failures > 10, "{failures}");
}

#[test]
fn a_killed_command_leaves_all_or_nothing() {
    type Act = fn(&Machine);
    let attach: Act = |machine| attach_to(machine, "windows", &[NVME], Following::No).unwrap();
    let detach: Act = |machine| detach_from(machine, "windows", &[NVME], false).unwrap();
    for (what, prepare, act) in [("attach", None, attach), ("detach", Some(attach), detach)] {
        let prepared = || {
            let (machine, _) = with_hvm();
            prepare.into_iter().for_each(|prepare| prepare(&machine));
            machine
        };
        let before = prepared().dump_but_config();
        let after = {
            let machine = prepared();
            act(&machine);
            machine.dump_but_config()
        };
        for step in 1.. {
            let machine = prepared();
            machine.with(|world| world.killing_change = Some(world.changes + step));
            match catch_unwind(AssertUnwindSafe(|| act(&machine))) {
                Ok(()) => break,
                Err(payload) if payload.is::<Killed>() => {}
                Err(payload) => std::panic::resume_unwind(payload),
            }
            machine.with(|world| {
                world.killing_change = None;
                world.process += 1;
                world.undisturbed = false;
                world.uncertain = true;
                world.watches.clear();
            });
            machine.settle();
            reclaim(&machine.host).unwrap();
            machine.settle();
            let when = format!("{what}, killed before change {step}");
            // Between device model and stub domain a detach has changed nothing that is noted: who wants the device back detaches again.
            if prepare.is_some() && machine.with(|world| world.plugged.is_empty() && world.owners[&device(NVME)] == HVM)
            {
                act(&machine);
            }
            let now = machine.dump_but_config();
            assert!(now.is_same(&before) || now.is_same(&after), "{when}\n{}", now.differences(&before, &after));
            machine.assert_no_violations();
        }
    }
}

#[test]
fn a_guest_that_is_destroyed_gives_its_devices_back() {
    let (machine, stub_domain) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    machine.host.xl.destroy(HVM).unwrap();
    let reclaimed = reclaim(&machine.host).unwrap();
    assert_eq!(reclaimed.iter().map(|dead| dead.guest.id).collect::<Vec<_>>(), [stub_domain]);
    machine.with(|world| assert_eq!(world.owners[&device(NVME)], DomId::IO));
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_guest_whose_device_model_dies_loses_its_rights_and_nobody_else_has_its_devices_before_it_ends() {
    let (machine, stub_domain) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    machine.with(|world| world.destroy(stub_domain));
    reclaim(&machine.host).unwrap();
    machine.with(|world| {
        assert_eq!(world.owners[&device(NVME)], DomId::IO);
        assert!(!world.iomem.iter().any(|(domain, _)| *domain == HVM));
        assert!(!world.irqs.iter().chain(&world.pirqs).any(|(domain, _)| *domain == HVM));
    });
    let error = attach_to_web(&machine, &[NVME]).unwrap_err();
    assert!(error.to_string().contains("windows"), "{error}");
    reclaim(&machine.host).unwrap();
    machine.host.xl.destroy(HVM).unwrap();
    reclaim(&machine.host).unwrap();
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn devices_follow_a_guest_that_reboots_with_both_its_domains() {
    let (machine, _) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::Yes).unwrap();
    machine.host.xl.destroy(HVM).unwrap();
    reclaim(&machine.host).unwrap();
    // It is there before its device model is.
    machine.with(come_again);
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.owners[&device(NVME)], DomId::IO));
    // The stub domain is there before QEMU is: that is no news.
    let (stub_domain, state) = machine.with(|world| {
        let stub_domain = world.add_stub_domain(AGAIN);
        let state = device_model::state_node(stub_domain, AGAIN);
        world.remove(&state);
        (stub_domain, state)
    });
    reclaim(&machine.host).unwrap();
    machine.with(|world| {
        assert_eq!(world.owners[&device(NVME)], DomId::IO);
        assert!(!world.notes.iter().any(|note| note.contains("did not follow")), "{:?}", world.notes);
        world.write(&state, "running");
    });
    reclaim(&machine.host).unwrap();
    assert_uses(&machine, AGAIN, stub_domain, NVME);
}

#[test]
fn a_guest_is_created_with_its_devices_before_it_runs() {
    let machine = Machine::new();
    add_all(&machine);
    unfinished_guests::settle(&machine.host).unwrap();
    let request = settings_alone(&NEW);
    create(&machine.host, &request, Plan::read(&request).unwrap(), &mut None).unwrap();
    let (guest, stub_domain) =
        machine.with(|world| world.stub_domains.iter().map(|(guest, id)| (*guest, *id)).next().unwrap());
    assert_uses(&machine, guest, stub_domain, NVME);
    machine.with(|world| {
        assert!(!world.domains[&guest].paused);
        assert_eq!(world.children("/tool/pcidom/create"), [""; 0]);
        let added = |word| world.notes.iter().any(|note| note.contains(word) && note.contains("was added"));
        assert!(added("passthrough") && !added("e820_host"), "{:?}", world.notes);
    });
}

#[test]
fn a_guest_that_cannot_be_created_leaves_nothing() {
    let machine = Machine::new();
    add_all(&machine);
    let before = machine.dump_but_config();
    let request = settings_alone(&NEW);
    // The device model does not find the device.
    machine.with(|world| world.stub.cannot_export = Some((device(NVME), "22 broken")));
    create(&machine.host, &request, Plan::read(&request).unwrap(), &mut None).unwrap_err();
    machine.with(|world| {
        world.stub.cannot_export = None;
        world.remove("/local/domain/3/error/backend");
        assert!(world.stub_domains.is_empty());
    });
    machine.dump_but_config().assert_same(&before, "");
}

#[test]
fn a_device_model_that_answers_nothing_is_found_before_anything_is_changed() {
    let (machine, _) = with_hvm();
    let (before, changes) = (machine.dump(), machine.with(|world| world.changes));
    machine.with(|world| world.device_model.silent = true);
    assert!(matches!(attach_to(&machine, "windows", &[NVME], Following::No), Err(Error::DeviceModel { .. })));
    machine.dump().assert_same(&before, "");
    machine.with(|world| assert_eq!(world.changes, changes));
}

#[test]
fn a_device_model_that_answers_too_late_has_the_device_taken_again() {
    let (machine, _) = with_hvm();
    let before = machine.dump_but_config();
    machine.with(|world| world.device_model.loses_answer = true);
    let error = attach_to(&machine, "windows", &[NVME], Following::No).unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    machine.dump_but_config().assert_same(&before, "");
    // One that answers nothing any more may show it to its guest, so no other guest gets it.
    machine.with(|world| {
        world.device_model.loses_answer = true;
        world.after_device_model = Some(Box::new(|world| world.device_model.silent = true));
    });
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap_err();
    assert!(matches!(attach_to_web(&machine, &[NVME]), Err(Error::Leaked { .. })));
    assert!(matches!(detach_from(&machine, "windows", &[NVME], false), Err(Error::Leaked { .. })));
    // When it answers again it is told.
    machine.with(|world| world.device_model.silent = false);
    detach_from(&machine, "windows", &[NVME], false).unwrap();
    machine.with(|world| assert!(world.plugged.is_empty()));
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_guest_that_is_asked_a_second_time_is_waited_for() {
    let (machine, _) = with_hvm();
    let free = machine.dump();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    machine.with(|world| world.guest.keeps = true);
    assert!(matches!(detach_from(&machine, "windows", &[NVME], false), Err(Error::NotUnplugged { .. })));
    // It lets go after it was asked again, which QEMU does not do.
    machine.with(|world| {
        world.incidents.push(Box::new(|world| {
            let asked = world.traces.iter().filter(|trace| trace.contains("device_del")).count();
            if asked == 2 {
                world.guest.keeps = false;
                world.plugged.clear();
                world.device_model.asked.clear();
            }
            asked == 2
        }));
    });
    detach_from(&machine, "windows", &[NVME], false).unwrap();
    machine.dump().assert_same(&free, "");
}

#[test]
fn a_guest_that_ends_while_it_is_to_let_go_leaves_its_devices_free() {
    type Act = fn(&Machine);
    let detach: Act = |machine| detach_from(machine, "windows", &[NVME], false).unwrap();
    // Of a command that was killed while it gave the device to the guest.
    let recover: Act = |machine| {
        machine.with(|world| world.write(&DeviceNode::Phase.of(device(NVME)), "attaching"));
        reclaim(&machine.host).unwrap();
    };
    for (act, reboots) in [(detach, false), (detach, true), (recover, false), (recover, true)] {
        let (machine, stub_domain) = with_hvm();
        attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
        machine.with(|world| {
            world.after_device_model = Some(Box::new(move |world| {
                // Its device model goes first, or with it.
                world.destroy(stub_domain);
                world.plugged.clear();
                world.stub_domains.remove(&HVM);
                let mut guest = world.domains.remove(&HVM).unwrap();
                guest.shutdown = true;
                match reboots {
                    true => drop(world.domains.insert(HVM, guest)),
                    false => world.destroy(HVM),
                }
            }));
            let end = |world: &mut World| {
                let is_down = world.domains.get(&HVM).is_some_and(|guest| guest.shutdown);
                if is_down {
                    world.destroy(HVM);
                    come_again(world);
                    world.add_stub_domain(AGAIN);
                }
                is_down
            };
            world.incidents.push(Box::new(end));
        });
        act(&machine);
        machine.with(|world| {
            assert!(!world.notes.iter().any(|note| note.contains("not settled")), "{:?}", world.notes);
            assert_eq!(world.owners[&device(NVME)], DomId::IO);
            assert!(!world.domains.contains_key(&HVM));
        });
        attach_to_web(&machine, &[NVME]).unwrap();
        machine.assert_no_violations();
    }
}

#[test]
fn a_guest_that_another_command_waits_for_is_left_alone() {
    let (machine, _) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::Yes).unwrap();
    machine.host.xl.destroy(HVM).unwrap();
    let stub_domain = machine.with(|world| {
        come_again(world);
        world.add_stub_domain(AGAIN)
    });
    let locks = TempTree::new();
    machine.host.lock_commands_in(locks.path());
    let waits = lock::try_take_guest(locks.path(), stub_domain).unwrap().unwrap();
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.owners[&device(NVME)], DomId::IO));
    drop(waits);
    reclaim(&machine.host).unwrap();
    assert_uses(&machine, AGAIN, stub_domain, NVME);
}

#[test]
fn a_stub_domain_is_not_told_what_drivers_need() {
    let (machine, _) = with_hvm();
    machine.with(|world| world.build_info = Some("{}"));
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    machine.with(|world| {
        assert!(!world.notes.iter().any(|note| note.contains("was created without")), "{:?}", world.notes)
    });
}

#[test]
fn two_guests_at_once_each_have_their_own() {
    let (machine, stub_domain) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    attach_to(&machine, "db", &[E1000], Following::No).unwrap();
    assert_uses(&machine, HVM, stub_domain, NVME);
    machine.with(|world| assert_eq!(world.owners[&device(E1000)], DB));
    detach_from(&machine, "windows", &[NVME], false).unwrap();
    machine.with(|world| assert_eq!(world.owners[&device(E1000)], DB));
    machine.assert_no_violations();
}

#[test]
fn a_plan_names_the_guest_and_not_its_stub_domain() {
    let (machine, _) = with_hvm();
    attach_to(&machine, "windows", &[NVME], Following::No).unwrap();
    let plan = SavedPlan::of(&machine.host, Some("windows")).unwrap();
    let [saved] = &plan.guests[..] else { panic!("{plan:?}") };
    assert_eq!(saved.find(&machine.host).unwrap().id, HVM);
    assert_eq!(saved.missing(&machine.host, HVM).unwrap(), []);
    detach_from(&machine, "windows", &[NVME], false).unwrap();
    let missing = saved.missing(&machine.host, HVM).unwrap();
    assert_eq!(missing.iter().map(|spec| spec.device).collect::<Vec<_>>(), [device(NVME)]);
    assert_eq!(saved.mode().unwrap(), Some(ExportMode::Passthrough));
}
