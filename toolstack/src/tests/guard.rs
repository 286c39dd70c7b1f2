//! Beside xl, which knows of our devices what `/libxl/pci` says, and nothing else.

use xen_types::DomId;
use xenstore::path;

use super::{TIMEOUT, add_all, attach_to_web, attached, detach_from_web, request};
use crate::cli::list::{devices, json, table};
use crate::doctor::{Opened, examine};
use crate::error::{Error, ExitCause};
use crate::fake::{DB, E1000, EDU, Machine, NVME, SATA, STUB, WEB, device};
use crate::ops::assignable::{add, remove};
use crate::ops::recover::reclaim;

fn guard(machine: &Machine, name: &str) -> Option<String> {
    machine.with(|world| world.value(&crate::records::guard::node(device(name))).map(str::to_owned))
}

/// `xl pci-attach db BDF`, as libxl does it up to the point where it asks Xen. Whether it got so far.
fn xl_attach(machine: &Machine, name: &str) -> bool {
    machine.with(|world| {
        let node = crate::records::guard::node(device(name));
        if world.has_node(&node) {
            world.remove(&node);
            return false;
        }
        world.write(&node, &DB.to_string());
        world.resets.push(name.to_owned());
        true
    })
}

/// What `xl pci-assignable-remove` does, with `-r` where there is a driver.
fn xl_assignable_remove(machine: &Machine, name: &str, driver: Option<&str>) {
    let sysfs = &machine.host.sysfs;
    sysfs.unbind(device(name), "pciback").unwrap();
    sysfs.remove_pciback_slot(device(name)).unwrap();
    machine.with(|world| world.owners.insert(device(name), DomId::DOM0));
    if let Some(driver) = driver {
        sysfs.bind(device(name), driver).unwrap();
    }
}

#[test]
fn every_device_of_ours_has_an_owner_that_xl_respects() {
    let machine = Machine::new();
    assert_eq!(guard(&machine, EDU), None);
    add_all(&machine);
    assert_eq!(guard(&machine, EDU).as_deref(), Some("3"));
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("5"));
    detach_from_web(&machine, &[EDU]).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("3"));
    remove(&machine.host, &[device(EDU)], false).unwrap();
    assert_eq!(guard(&machine, EDU), None);
    assert!(machine.with(|world| !world.has_node("/libxl/pci/0000-00-06-0")));
    machine.assert_no_violations();
}

#[test]
fn no_domain_with_a_dead_stubs_number_is_an_owner() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.with(|world| world.destroy(STUB));
    reclaim(&machine.host).unwrap();
    assert_eq!(guard(&machine, NVME), None, "remembered, and nobody's");
    assert_eq!(guard(&machine, EDU).as_deref(), Some("5"), "its guest goes on using it");
    machine.with(|world| world.destroy(WEB));
    reclaim(&machine.host).unwrap();
    assert_eq!(guard(&machine, EDU), None);
}

#[test]
fn a_guard_that_xl_removes_is_there_again_with_the_next_command() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    let before = machine.with(|world| world.resets.len());
    for time in 1..=2 {
        for name in [EDU, NVME] {
            assert!(!xl_attach(&machine, name));
            assert_eq!(guard(&machine, name), None);
        }
        let shown = table(&devices(&machine.host, None).unwrap());
        assert!(shown.contains("attached  assigned 5, guard missing"), "{shown}");
        reclaim(&machine.host).unwrap();
        assert_eq!((guard(&machine, EDU).as_deref(), guard(&machine, NVME).as_deref()), (Some("5"), Some("3")));
        let shown = json(&devices(&machine.host, None).unwrap());
        assert!(shown.contains(&format!("\"guard\": \"mended {time}\"")), "{shown}");
    }
    assert_eq!(machine.with(|world| world.resets.len()), before, "xl got to no device");
    let notes = machine.with(|world| world.notes.join("\n"));
    assert!(
        notes.contains("0000:00:07.0: its guard against xl was gone, and it is mended: a failed `xl pci-attach`"),
        "{notes}"
    );
    // The count is about the device where it is.
    detach_from_web(&machine, &[EDU]).unwrap();
    attach_to_web(&machine, &[NVME]).unwrap();
    assert!(!json(&devices(&machine.host, None).unwrap()).contains("mended"));
    machine.assert_no_violations();
}

#[test]
fn a_free_device_whose_guard_was_gone_is_reset_before_a_guest_gets_it() {
    let machine = Machine::new();
    add_all(&machine);
    assert!(machine.with(|world| world.has_node("/tool/pcidom/device/0000-00-07-0/reset")));
    assert!(!xl_attach(&machine, NVME));
    let before = machine.with(|world| world.resets.len());
    attach_to_web(&machine, &[NVME]).unwrap();
    assert_eq!(machine.with(|world| world.resets.len()), before + 1);
}

#[test]
fn what_xl_has_got_stays_xls() {
    let machine = Machine::new();
    add_all(&machine);
    assert!(!xl_attach(&machine, EDU) && xl_attach(&machine, EDU));
    machine.with(|world| world.owners.insert(device(EDU), DB));
    reclaim(&machine.host).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("6"));
    let shown = table(&devices(&machine.host, None).unwrap());
    assert!(shown.contains("pool   taken by xl, guard names 6"), "{shown}");
    let before = machine.dump();
    for error in [
        attach_to_web(&machine, &[EDU]).unwrap_err(),
        remove(&machine.host, &[device(EDU)], false).unwrap_err(),
        add(&machine.host, &[device(EDU)], "pcidom").unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "0000:00:06.0 is already assigned to db (domain 6)");
    }
    machine.dump().assert_same(&before, "");
    // The stub's end does not make it anybody's either.
    machine.with(|world| world.destroy(STUB));
    reclaim(&machine.host).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("6"));
}

#[test]
fn a_note_about_a_domain_that_is_gone_is_no_note() {
    let machine = Machine::new();
    add_all(&machine);
    machine.with(|world| world.write(&crate::records::guard::node(device(EDU)), "77"));
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("5"));
}

#[test]
fn a_device_whose_dma_xl_took_by_force_is_told_of_and_detached() {
    let machine = attached();
    // `xl pci-detach -f web BDF`
    machine.with(|world| {
        world.owners.insert(device(EDU), DomId::IO);
        world.remove(&crate::records::guard::node(device(EDU)));
        // The simulated guest would call that a theft.
        world.guest.keeps = true;
    });
    reclaim(&machine.host).unwrap();
    let notes = machine.with(|world| world.notes.join("\n"));
    assert!(notes.contains("0000:00:06.0: `xl pci-detach -f` has reset it and taken its DMA from domain 5"), "{notes}");
    let request = crate::ops::detach::Request {
        guest: "web".to_owned(),
        backend: None,
        devices: vec![device(EDU)],
        timeout: TIMEOUT,
        force: true,
    };
    crate::ops::detach::detach(&machine.host, &request, &[]).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("3"));
    // Where a failed attach removed it, the guest still has everything.
    let machine = attached();
    xl_attach(&machine, EDU);
    reclaim(&machine.host).unwrap();
    assert!(machine.with(|world| !world.notes.iter().any(|note| note.contains("taken its DMA"))));
}

#[test]
fn a_device_that_a_guest_has_is_not_given_away_by_a_note() {
    let machine = attached();
    machine.with(|world| world.write(&crate::records::guard::node(device(EDU)), "6"));
    reclaim(&machine.host).unwrap();
    assert_eq!(guard(&machine, EDU).as_deref(), Some("5"));
}

#[test]
fn of_two_tools_at_once_one_wins() {
    // xl writes its note between our look and our transaction.
    for hidden in [EDU, SATA] {
        let machine = Machine::new();
        let given = if hidden == SATA { "0000:00:1f.2,seize=1" } else { hidden };
        let (owner, node) = (device(hidden), crate::records::guard::node(device(hidden)));
        let at = machine.with(|world| world.changes);
        let before = machine.dump_but_config();
        // At each change that the attach makes, until the device is in the pool.
        let mut refused = 0;
        for change in 1.. {
            let machine = Machine::new();
            machine.with(|world| world.on_change = Some((at + change, node.clone(), DB.to_string())));
            let outcome = attach_to_web(&machine, &[given]);
            let note = guard(&machine, hidden);
            if machine.with(|world| world.on_change.is_some()) {
                break;
            }
            match outcome {
                Ok(_) => assert!(note.is_some(), "change {change}"),
                Err(error) => {
                    assert_eq!(
                        error.to_string(),
                        format!("{owner} is already assigned to db (domain 6)"),
                        "change {change}"
                    );
                    assert_eq!(note.as_deref(), Some("6"), "change {change}");
                    machine.with(|world| world.remove(&path::libxl_pci_dir(owner)));
                    machine.with(|world| world.remove("/libxl/pci"));
                    machine.dump_but_config().assert_same(&before, format!("change {change}"));
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
    }
}

#[test]
fn what_xl_takes_from_xen_pciback_is_told_and_prepared_anew() {
    for driver in [None, Some("ahci")] {
        let machine = Machine::new();
        add(&machine.host, &[device(SATA)], "pcidom").unwrap();
        xl_assignable_remove(&machine, SATA, driver);
        let shown = table(&devices(&machine.host, None).unwrap());
        assert!(shown.contains("pool   not parked"), "{shown}");
        for given in [SATA.to_owned(), format!("{SATA},seize=1")] {
            let error = attach_to_web(&machine, &[&given]).unwrap_err();
            assert!(matches!(error, Error::NotAssignable { .. }), "{error}");
            assert_eq!(error.hint().unwrap(), "`pcidom assignable add 0000:00:1f.2` makes it so");
        }
        let resets = machine.with(|world| world.resets.len());
        add(&machine.host, &[device(SATA)], "pcidom").unwrap();
        assert_eq!(machine.host.sysfs.driver(device(SATA)).as_deref(), Some("pciback"));
        assert_eq!(guard(&machine, SATA).as_deref(), Some("3"));
        machine.with(|world| {
            assert_eq!(world.owners[&device(SATA)], DomId::IO);
            assert_eq!(world.value("/local/domain/3/pool/0000-00-1f-2/state"), Some("free"));
            // Whoever had it meanwhile, the next one gets it reset: now, or when it is attached.
            let is_noted = world.value("/tool/pcidom/device/0000-00-1f-2/reset") == Some("done");
            assert!(world.resets.len() > resets || !is_noted);
        });
        assert!(!table(&devices(&machine.host, None).unwrap()).contains("not parked"));
        attach_to_web(&machine, &[SATA]).unwrap();
        machine.assert_no_violations();
    }
}

#[test]
fn what_xl_takes_from_xen_pciback_can_be_let_go() {
    for driver in [None, Some("ahci")] {
        let machine = Machine::new();
        let before = machine.dump_but_config();
        add(&machine.host, &[device(SATA)], "pcidom").unwrap();
        xl_assignable_remove(&machine, SATA, driver);
        remove(&machine.host, &[device(SATA)], true).unwrap();
        machine.dump_but_config().assert_same(&before, "");
    }
}

#[test]
fn preparing_anew_is_undone_as_a_whole() {
    let taken = || {
        let machine = Machine::new();
        add(&machine.host, &[device(SATA)], "pcidom").unwrap();
        xl_assignable_remove(&machine, SATA, Some("ahci"));
        machine
    };
    let machine = taken();
    let start = machine.with(|world| world.changes);
    add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    let changes = machine.with(|world| world.changes) - start;
    for failing in 1..=changes {
        let machine = taken();
        let before = machine.dump_but_config();
        machine.with(|world| world.failing_change = Some(world.changes + failing));
        let error = add(&machine.host, &[device(SATA)], "pcidom").unwrap_err();
        machine.dump_but_config().assert_same(&before, format!("change {failing}: {error}"));
    }
}

/// What `xl pci-attach` of a device of xl's own does to a guest of ours.
fn replace_frontend(machine: &Machine, guest: DomId) {
    machine.with(|world| {
        let dir = path::frontend_dir(guest);
        world.remove(&dir);
        world.write(&format!("{dir}/backend"), &format!("/local/domain/0/backend/pci/{guest}/0"));
        world.write(&format!("{dir}/backend-id"), "0");
        world.write(&format!("{dir}/state"), "1");
    });
}

#[test]
fn a_guest_whose_frontend_xl_has_replaced_is_told_of_and_left_alone() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[E1000, EDU]).unwrap();
    replace_frontend(&machine, WEB);
    let shown = table(&devices(&machine.host, None).unwrap());
    assert!(shown.contains("attached  frontend replaced"), "{shown}");
    let before = machine.dump();
    let says = "web (domain 5) lost its connection: its frontend directory was replaced and leads to /local/domain/0/backend/pci/5/0";
    for error in [attach_to_web(&machine, &[NVME]).unwrap_err(), detach_from_web(&machine, &[EDU]).unwrap_err()] {
        assert_eq!(error.to_string(), says);
        assert!(error.hint().unwrap().contains("`pcidom detach --force 5 BDF...`"));
        machine.dump().assert_same(&before, "");
    }
}

#[test]
fn devices_of_a_guest_whose_frontend_xl_has_replaced_are_taken_by_force() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[E1000, EDU]).unwrap();
    replace_frontend(&machine, WEB);
    for name in [E1000, EDU] {
        let request = crate::ops::detach::Request {
            guest: "web".to_owned(),
            backend: None,
            devices: vec![device(name)],
            timeout: TIMEOUT,
            force: true,
        };
        crate::ops::detach::detach(&machine.host, &request, &[]).unwrap();
    }
    machine.with(|world| {
        for name in ["0000-00-05-0", "0000-00-06-0"] {
            assert_eq!(world.value(&format!("/tool/pcidom/device/{name}/phase")), Some("pool"));
            assert_eq!(world.value(&format!("/local/domain/3/pool/{name}/state")), Some("free"));
        }
        assert!(!world.has_node("/local/domain/3/backend/pci/5"));
        assert_eq!(world.value("/local/domain/5/device/pci/0/backend-id"), Some("0"), "that is xl's");
    });
    let error = crate::ops::attach::attach(&machine.host, &request("web", &[EDU])).unwrap_err();
    assert!(matches!(error, Error::ServedByDom0 { .. }), "{error}");
    assert_eq!(error.cause(), ExitCause::Failed);
}

#[test]
fn doctor_tells_what_became_of_a_guard() {
    let says = |machine: Machine, words: &str| {
        let report = examine(&Opened::of(machine.host), "pcidom", &[]).json();
        assert!(report.contains(words), "{words}: {report}");
    };
    let pool = || {
        let machine = Machine::new();
        add_all(&machine);
        machine
    };
    says(pool(), "xl gives it to nobody");
    says(Machine::new(), "it is in no pool: who comes first gets it");
    let machine = pool();
    xl_attach(&machine, EDU);
    says(machine, "nothing keeps xl from giving it to somebody");
    let machine = pool();
    xl_attach(&machine, EDU);
    reclaim(&machine.host).unwrap();
    says(machine, "its guard against xl was removed, 1 times, and is there again");
    let machine = pool();
    xl_attach(&machine, EDU);
    xl_attach(&machine, EDU);
    says(machine, "xl has given it to domain 6, out of our pool");
    let machine = pool();
    xl_assignable_remove(&machine, EDU, None);
    says(machine, "it is in the pool and not with xen-pciback");
    let machine = attached();
    replace_frontend(&machine, WEB);
    says(machine, "its frontend directory was replaced");
}
