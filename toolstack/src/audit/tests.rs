//! Tests of the audit.

use std::collections::BTreeSet;
use std::time::Duration;

use pcidom_abi::paths;
use xen_types::{DomId, Pirq};

use super::{LeakedMappings, find_leaks, note_pirqs, pirqs, recover};
use crate::device::resources::DeviceResources;
use crate::error::{DomainName, Error};
use crate::fake::{DB, E1000, EDU, Machine, NVME, STUB, WEB, device};
use crate::host::settings::{Audit, Settings};

/// A frame of the `EDU` device's registers, and an entry that maps it.
const REGISTERS: u64 = 0xfea00;
const PRESENT: u64 = 1;
const MAPPED: u64 = REGISTERS << 12 | PRESENT;

/// A machine on which "web" had the device and has no right to it any more.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.with(|world| {
        world.memory.highest = 0x4000;
        world.memory.give(WEB, 0x2000..0x2400);
        world.memory.give(DB, 0x2400..0x2800);
        world.memory.give(STUB, 0x3000..0x3100);
        for (name, phase) in [(EDU, "detaching"), (NVME, "attached"), (E1000, "attached")] {
            let dir = paths::device_dir(device(name));
            for (node, value) in [("stub", "3"), ("frontend", "5"), ("phase", phase)] {
                world.write(&format!("{dir}/{node}"), value);
            }
        }
    });
    machine
}

fn web() -> DomainName {
    DomainName { id: WEB, name: Some("web".to_owned()) }
}

fn edu(machine: &Machine) -> Vec<DeviceResources> {
    vec![DeviceResources::gather(&machine.host, device(EDU)).unwrap()]
}

fn try_look(machine: &Machine, pirqs: &[u32]) -> Result<LeakedMappings, Error> {
    let pirqs: Vec<String> = pirqs.iter().map(u32::to_string).collect();
    machine.with(|world| world.write("/tool/pcidom/device/0000-00-06-0/pirqs", &pirqs.join(" ")));
    let result = find_leaks(&machine.host, &web(), &edu(machine)).map(|mut all| all.remove(0));
    machine.with(|world| {
        assert!(world.memory.pauses.is_empty(), "still standing: {:?}", world.memory.pauses);
        assert_eq!(world.value("/tool/pcidom/paused"), None);
    });
    machine.assert_no_violations();
    result
}

/// What is found, in words.
fn look(machine: &Machine) -> String {
    try_look(machine, &[]).unwrap().to_string()
}

/// As with `audit = all`.
fn look_at_all(machine: &Machine) -> String {
    machine.host.settings.set(Settings { audit: Audit::All });
    look(machine)
}

fn with_table(domain: DomId, frame: u64, entries: &[(usize, u64)]) -> Machine {
    let machine = machine();
    machine.with(|world| world.memory.make_table(domain, frame, entries));
    machine
}

#[test]
fn who_let_go_has_nothing() {
    let machine = with_table(WEB, 0x2001, &[(3, 0x12_3456_7001), (4, (REGISTERS - 1) << 12 | PRESENT)]);
    assert_eq!(look(&machine), "");
    assert!(try_look(&machine, &[]).unwrap().is_empty());
}

#[test]
fn a_mapping_is_found_in_any_entry_of_any_table() {
    for frame in [0x2000, 0x21ff, 0x2200, 0x23ff] {
        for entry in [0, 1, 255, 511] {
            let machine = with_table(WEB, frame, &[(entry, MAPPED)]);
            assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000", "{entry} of {frame:#x}");
        }
    }
}

#[test]
fn every_page_of_the_registers_counts_whatever_else_the_entry_says() {
    let last = REGISTERS + 0xff;
    let flags = 1 << 63 | 0x7ff << 52 | 0xfff;
    let machine = with_table(WEB, 0x2001, &[(7, last << 12 | flags), (9, MAPPED), (11, (last + 1) << 12 | flags)]);
    assert_eq!(look(&machine), "web (domain 5): 2 mappings of 0xfea00000");
}

#[test]
fn an_entry_that_is_not_present_maps_nothing() {
    assert_eq!(look(&with_table(WEB, 0x2001, &[(7, MAPPED & !PRESENT)])), "");
}

#[test]
fn frames_that_are_no_tables_are_not_looked_into() {
    let machine = machine();
    machine.with(|world| world.memory.unmappable.extend((0x2000..0x2800).map(|frame| (frame, false))));
    assert_eq!(look(&machine), "");
}

#[test]
fn tables_are_found_wherever_the_domain_got_its_memory() {
    // Single frames between those of others, as after ballooning, up to the very last.
    for frame in [1, 0x2807, 0x3fff, 0x3ff8, 0x4000] {
        let machine = with_table(WEB, frame, &[(0, MAPPED)]);
        assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000", "{frame:#x}");
    }
}

#[test]
fn memory_in_large_pieces_is_found_without_asking_for_all_of_the_host() {
    let machine = machine();
    machine.with(|world| {
        world.memory.highest = 0x10_0000 - 1;
        world.memory.make_table(WEB, 0x2222, &[(0, MAPPED)]);
    });
    assert_eq!(look_at_all(&machine), "web (domain 5): 1 mapping of 0xfea00000");
    // Each 512th frame, and the domains' own, for both of them.
    let asked = machine.with(|world| world.memory.asked);
    assert!(asked <= 2 * (0x10_0000 / 512 + 0x400), "{asked}");
}

#[test]
fn a_guest_that_maps_its_memory_is_looked_through_without_asking_for_what_is_others() {
    // In single frames all over the host, and a device's registers and a frame of another domain among what it maps.
    let machine = machine();
    machine.with(|world| {
        world.memory.highest = 0x10_0000 - 1;
        let frames: Vec<u64> = (0x2000..0x2400).chain((0x1_0000..0x2_0000).step_by(7)).collect();
        world.memory.give(WEB, frames.iter().copied());
        world.memory.give(DB, [0x2_0001]);
        world.memory.map(WEB, 0x2100, frames.into_iter().chain([0x2_0001]));
        // A table that no root leads to, as of a process that does not run.
        world.memory.make_table(WEB, 0x1_0007, &[(5, MAPPED)]);
    });
    assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000");
    machine.with(|world| {
        assert_eq!(world.memory.printed, 1);
        assert!(world.memory.asked < 0x400 + 0x1_0000 / 7 + 100, "{}", world.memory.asked);
        assert!(world.traces.iter().any(|line| line.contains(" 1 not its own")), "{:?}", world.traces);
    });
}

#[test]
fn frames_that_a_guest_does_not_map_are_found_beside_those_that_it_does() {
    // As the domain builder leaves it: the first 2 MiB of what it has in one piece.
    let machine = machine();
    machine.with(|world| {
        world.memory.highest = 0x10_0000 - 1;
        world.memory.give(WEB, 0x4000..0x8000);
        world.memory.give(WEB, 0x2000..0x2400);
        world.memory.map(WEB, 0x4000, 0x4000..0x4200);
        world.memory.map(WEB, 0x2000, (0x2000..0x2200).chain(0x4000..0x4200));
        world.memory.make_table(WEB, 0x7fff, &[(0, MAPPED)]);
    });
    assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000");
    let printed = machine.with(|world| world.memory.printed);
    assert!(printed <= 8, "{printed}");
}

#[test]
fn what_a_root_table_says_is_believed_only_where_xen_says_so() {
    let machine = with_table(WEB, 0x2345, &[(7, MAPPED)]);
    machine.with(|world| {
        world.memory.roots.insert(WEB, 0x2400);
        world.memory.make_table(WEB, 0x2001, &[(7, 0xf_ffff_ffff_f001), (8, 0xffff_ffff_ffff_ffff)]);
    });
    assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000");
}

#[test]
fn all_frames_are_asked_for_when_some_are_not_found() {
    let machine = machine();
    // Xen says that there are more, and none answers: the host is looked through to its end.
    machine.with(|world| world.memory.give(WEB, [0x5000]));
    machine.with(|world| world.memory.highest = 0x4000);
    assert_eq!(look(&machine), "");
    assert!(machine.with(|world| world.memory.asked) >= 0x4000);
}

#[test]
fn a_table_that_is_none_any_more_when_it_is_mapped_is_no_error() {
    let machine = with_table(WEB, 0x2001, &[(7, MAPPED)]);
    machine.with(|world| {
        world.memory.make_table(WEB, 0x2002, &[(8, MAPPED)]);
        world.memory.unmappable.insert(0x2001, true);
    });
    assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000");
}

#[test]
fn a_table_that_cannot_be_looked_into_is_an_error() {
    let machine = with_table(WEB, 0x2001, &[]);
    machine.with(|world| world.memory.unmappable.insert(0x2001, false));
    let error = try_look(&machine, &[]).unwrap_err().to_string();
    assert_eq!(error, "looking through web (domain 5): Xen refused xenforeignmemory_map: EFAULT");
}

#[test]
fn another_domain_that_got_the_registers_from_the_guest_is_found() {
    let machine = with_table(DB, 0x2500, &[(1, MAPPED), (2, MAPPED)]);
    machine.with(|world| world.memory.make_table(WEB, 0x2001, &[(0, MAPPED)]));
    let expected = "web (domain 5): 1 mapping of 0xfea00000; db (domain 6): 2 mappings of 0xfea00000";
    assert_eq!(look_at_all(&machine), expected);
    machine.with(|world| world.destroy(WEB));
    assert_eq!(look_at_all(&machine), "db (domain 6): 2 mappings of 0xfea00000");
}

#[test]
fn only_the_guest_is_looked_through_unless_the_admin_wants_more_or_less() {
    let machine = with_table(DB, 0x2500, &[(1, MAPPED)]);
    machine.with(|world| world.memory.make_table(WEB, 0x2001, &[(0, MAPPED)]));
    let looks = |audit| {
        machine.host.settings.set(Settings { audit });
        machine.with(|world| world.traces.clear());
        let found = look(&machine);
        let who = |name: &str| {
            machine.with(|world| world.traces.iter().any(|line| line.starts_with(&format!("looked through {name} "))))
        };
        (found, who("web"), who("db"))
    };
    assert_eq!(looks(Audit::Guest), ("web (domain 5): 1 mapping of 0xfea00000".to_owned(), true, false));
    let (found, ..) = looks(Audit::All);
    assert_eq!(found, "web (domain 5): 1 mapping of 0xfea00000; db (domain 6): 1 mapping of 0xfea00000");
    assert_eq!(looks(Audit::Nobody), (String::new(), false, false));
}

#[test]
fn dom0_and_the_stub_are_not_stopped() {
    let machine = with_table(STUB, 0x3000, &[(0, MAPPED)]);
    machine.with(|world| world.memory.make_table(DomId::DOM0, 0x10, &[(0, MAPPED)]));
    assert_eq!(look_at_all(&machine), "");
}

#[test]
fn a_page_that_the_guest_needs_for_another_device_is_its_own() {
    let machine = with_table(WEB, 0x2001, &[(0, MAPPED), (1, (REGISTERS + 1) << 12 | PRESENT)]);
    machine.with(|world| world.memory.make_table(DB, 0x2500, &[(0, MAPPED)]));
    let resource = machine.tree.path().join(format!("bus/pci/devices/{NVME}/resource"));
    std::fs::write(resource, format!("0xfea00800 0xfea00bff 0x200\n{}", "0x0 0x0 0x0\n".repeat(6))).unwrap();
    let expected = "web (domain 5): 1 mapping of 0xfea01000; db (domain 6): 1 mapping of 0xfea00000";
    assert_eq!(look_at_all(&machine), expected);
}

#[test]
fn event_channels_on_the_devices_interrupts_are_counted() {
    let machine = machine();
    machine.with(|world| {
        // NVME keeps its own.
        for (port, pirq) in [(4, 22), (5, 55), (9, 54), (11, 23), (12, 60)] {
            world.memory.channels.insert((WEB, port), Pirq(pirq));
        }
        world.memory.channels.insert((DB, 3), Pirq(22));
    });
    assert_eq!(try_look(&machine, &[22, 23, 54]).unwrap().to_string(), "web (domain 5): 2 event channels");
    assert_eq!(try_look(&machine, &[22]).unwrap().to_string(), "web (domain 5): 1 event channel");
    assert_eq!(try_look(&machine, &[]).unwrap().to_string(), "");
    let mapped = with_table(WEB, 0x2001, &[(7, MAPPED)]);
    mapped.with(|world| world.memory.channels.insert((WEB, 1), Pirq(22)));
    let expected = "web (domain 5): 1 mapping of 0xfea00000, 1 event channel";
    assert_eq!(try_look(&mapped, &[22]).unwrap().to_string(), expected);
}

#[test]
fn a_vector_that_went_to_another_device_of_the_guest_is_not_the_leaving_ones() {
    let machine = machine();
    machine.with(|world| {
        world.write("/tool/pcidom/device/0000-00-07-0/vectors", "msix 0:55 1:54");
        world.memory.channels.insert((WEB, 5), Pirq(55));
    });
    assert_eq!(try_look(&machine, &[22, 55]).unwrap().to_string(), "");
}

#[test]
fn interrupts_are_known_after_they_were_unmapped() {
    let machine = machine();
    machine.with(|world| world.write("/tool/pcidom/device/0000-00-06-0/vectors", "msi 54 55"));
    let known = || pirqs::noted(&machine.host, device(EDU)).unwrap();
    let note = || machine.host.commit(&note_pirqs(&machine.host, &edu(&machine)).unwrap()).unwrap();
    note();
    assert_eq!(known(), BTreeSet::from([22, 54, 55].map(Pirq)));
    // The command died, and the next one begins anew.
    machine.with(|world| world.remove("/tool/pcidom/device/0000-00-06-0/vectors"));
    note();
    assert_eq!(known(), BTreeSet::from([22, 54, 55].map(Pirq)));
    // Nobody knows which: any vector may be.
    machine.with(|world| world.write("/tool/pcidom/device/0000-00-06-0/vectors", "busy"));
    note();
    assert!(known().len() > 30 && known().contains(&Pirq(16)));
}

#[test]
fn a_guest_that_dies_at_any_moment_has_nothing() {
    for moment in 1..1000 {
        let machine = with_table(WEB, 0x2001, &[(7, MAPPED)]);
        machine.with(|world| {
            world.memory.channels.insert((WEB, 40), Pirq(22));
            world.memory.dies = Some((moment, WEB));
        });
        let found = try_look(&machine, &[22]).unwrap();
        if machine.with(|world| world.memory.dies.is_some()) {
            assert!(moment > 20, "{moment}");
            assert_eq!(found.to_string(), "web (domain 5): 1 mapping of 0xfea00000, 1 event channel");
            return;
        }
        // Its death may come after it was looked at, while the other domain is.
        assert!(found.is_empty() || found.to_string().contains("1 event channel"), "{moment}: {found}");
    }
    panic!("it never ended");
}

#[test]
fn a_dying_domain_is_not_looked_at() {
    let machine = with_table(WEB, 0x2001, &[(7, MAPPED)]);
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().dying = true);
    assert_eq!(look(&machine), "");
}

#[test]
fn a_guest_that_the_admin_stopped_goes_on_standing() {
    let machine = with_table(WEB, 0x2001, &[(7, MAPPED)]);
    machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = true);
    assert_eq!(look(&machine), "web (domain 5): 1 mapping of 0xfea00000");
    recover(&machine.host).unwrap();
    machine.assert_no_violations();
}

/// A command that was killed when it had come this far, and what it left.
fn killed_with(machine: &Machine, stage: &str, pauses: u32) {
    machine.with(|world| {
        world.write("/tool/pcidom/paused/5", &format!("77 1 {stage} 1000000000"));
        world.memory.ran.insert(WEB, Duration::from_secs(1));
        if pauses > 0 {
            world.memory.pauses.insert(WEB, pauses);
        }
    });
}

fn stands(machine: &Machine) -> bool {
    recover(&machine.host).unwrap();
    machine.with(|world| assert_eq!(world.value("/tool/pcidom/paused"), None, "a note is left"));
    machine.assert_no_violations();
    crate::host::domain::info(&machine.host, WEB).unwrap().unwrap().paused
}

#[test]
fn a_stop_is_undone_once_where_it_is_known_to_be_ours() {
    for stage in ["pausing", "paused"] {
        let machine = machine();
        killed_with(&machine, stage, 1);
        assert!(!stands(&machine), "{stage}");
        machine.with(|world| assert!(world.notes[0].contains("web (domain 5) goes on"), "{:?}", world.notes));
    }
}

#[test]
fn a_stop_of_the_admin_s_is_never_undone() {
    let admin = |machine: &Machine| machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = true);
    let runs = |machine: &Machine, time| machine.with(|world| *world.memory.ran.get_mut(&WEB).unwrap() += time);
    // Beside ours, which is undone.
    let both = machine();
    killed_with(&both, "paused", 1);
    admin(&both);
    assert!(stands(&both));
    both.with(|world| assert!(world.memory.pauses.is_empty()));
    // After somebody had let it go on, or before it was stopped, or after our command had let it go on and before it forgot it.
    for (stage, time) in [("paused", Duration::from_nanos(1)), ("pausing", Duration::from_millis(21))] {
        let machine = machine();
        killed_with(&machine, stage, 0);
        runs(&machine, time);
        admin(&machine);
        assert!(stands(&machine), "{stage}");
        machine.with(|world| assert!(world.notes[0].contains("somebody has stopped it"), "{:?}", world.notes));
    }
    // One that runs needs nothing.
    let running = machine();
    killed_with(&running, "paused", 0);
    assert!(!stands(&running));
}

#[test]
fn what_a_living_command_has_stopped_is_left_to_it() {
    let machine = machine();
    killed_with(&machine, "paused", 1);
    machine.with(|world| world.living.extend([77]));
    recover(&machine.host).unwrap();
    machine.with(|world| {
        assert_eq!(world.memory.pauses.get(&WEB), Some(&1));
        assert!(world.value("/tool/pcidom/paused/5").is_some());
        world.living.clear();
    });
    assert!(!stands(&machine));
}

#[test]
fn a_domain_is_left_standing_only_where_xen_does_not_let_it_go_on_and_then_not_for_long() {
    for failing in 1..100 {
        let machine = with_table(WEB, 0x2001, &[(7, MAPPED)]);
        machine.host.settings.set(Settings { audit: Audit::All });
        let before = machine.with(|world| {
            world.failing_change = Some(world.changes + failing);
            world.changes
        });
        let result = find_leaks(&machine.host, &web(), &edu(&machine));
        let reached = machine.with(|world| {
            world.failing_change = None;
            world.changes >= before + failing
        });
        if !reached {
            assert!(failing > 6, "{failing}");
            return;
        }
        result.unwrap_err();
        machine.with(|world| world.process += 1);
        recover(&machine.host).unwrap();
        machine.with(|world| {
            assert!(world.memory.pauses.is_empty(), "{failing}: {:?}", world.memory.pauses);
            assert_eq!(world.value("/tool/pcidom/paused"), None);
        });
        machine.assert_no_violations();
    }
    panic!("it never ended");
}

#[test]
fn a_command_that_is_killed_leaves_no_domain_standing_for_long() {
    for killed in 1..100 {
        let machine = with_table(WEB, 0x2001, &[(7, MAPPED)]);
        machine.host.settings.set(Settings { audit: Audit::All });
        machine.with(|world| world.failing_after = Some(world.changes + killed));
        let finished = find_leaks(&machine.host, &web(), &edu(&machine)).is_ok();
        machine.with(|world| {
            world.failing_after = None;
            world.process += 1;
        });
        recover(&machine.host).unwrap();
        machine.with(|world| assert!(world.memory.pauses.is_empty(), "{killed}: {:?}", world.memory.pauses));
        machine.assert_no_violations();
        if finished {
            assert!(killed > 6, "{killed}");
            return;
        }
    }
    panic!("it never ended");
}
