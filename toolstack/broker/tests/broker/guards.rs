//! Tests of the guards.

use std::time::Duration;

use xenstore::path;

use super::*;
use pcidom_broker::guard;

fn note(bench: &Bench, name: &str) -> Option<String> {
    bench.machine.with(|world| world.value(&guard::node(device(name))).map(str::to_owned))
}

fn told(bench: &Bench, words: &str) -> usize {
    bench.notes().iter().filter(|note| note.contains(words)).count()
}

/// Something has happened: runs until nothing is to be done at once.
fn settle(bench: &Bench, broker: &mut Broker<'_, FakeRings>) {
    broker.turn().unwrap();
    while let Some(idle) = broker.idle()
        && idle <= Duration::from_millis(100)
    {
        bench.pass(idle);
        broker.turn().unwrap();
    }
}

/// xl removes the note of a device.
fn remove(bench: &Bench, process: &Process, name: &str) {
    let node = guard::node(device(name));
    bench.machine.with(|world| world.remove(&node));
    process.changed(&node);
}

#[test]
fn a_guard_that_xl_removes_is_mended_within_a_tenth_of_a_second() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    settle(&bench, &mut broker);
    assert_eq!(bench.notes(), ["domain 3 is served", "domain 4 is served"]);
    bench.pass(Duration::from_secs(1));
    for time in 1..=3 {
        remove(&bench, &process, NVME);
        settle(&bench, &mut broker);
        assert_eq!(note(&bench, NVME).as_deref(), Some("5"));
        assert_eq!(told(&bench, "0000:00:07.0: its guard against xl was gone, and it is mended"), time);
    }
    // A free device's, whose reset nobody can vouch for any more.
    bench.machine.with(|world| {
        world.remove("/tool/pcidom/device/0000-00-05-0/frontend");
        world.write("/tool/pcidom/device/0000-00-05-0/phase", "pool");
        world.write("/tool/pcidom/device/0000-00-05-0/reset", "done");
    });
    remove(&bench, &process, E1000);
    settle(&bench, &mut broker);
    assert_eq!(note(&bench, E1000).as_deref(), Some("3"));
    assert!(bench.machine.with(|world| !world.has_node("/tool/pcidom/device/0000-00-05-0/reset")));
    assert_eq!(broker.idle(), None);
}

/// `xl pci-assignable-remove -r` removes its own notes, and the driver that has the device then may do what it wants with it.
#[test]
fn a_free_device_that_dom0_takes_is_not_called_reset_any_more() {
    let bench = Bench::new();
    let process = bench.process();
    let reset = "/tool/pcidom/device/0000-00-05-0/reset";
    bench.machine.with(|world| {
        world.remove("/tool/pcidom/device/0000-00-05-0/frontend");
        world.write("/tool/pcidom/device/0000-00-05-0/phase", "pool");
        world.write(reset, "done");
        world.write(&guard::node(device(E1000)), "3");
    });
    let mut broker = bench.start(&process);
    settle(&bench, &mut broker);
    assert!(bench.machine.with(|world| world.has_node(reset)));
    let link = bench.machine.tree.path().join(format!("bus/pci/devices/{E1000}/driver"));
    std::fs::remove_file(link).unwrap();
    bench.pass(Duration::from_secs(1));
    process.changed("/libxl/pci/0000-00-05-0/driver_path");
    settle(&bench, &mut broker);
    assert!(bench.machine.with(|world| !world.has_node(reset)));
    assert_eq!(told(&bench, "0000:00:05.0 is in the pool and not with xen-pciback any more"), 1);
}

#[test]
fn a_storm_of_notes_costs_ten_looks_a_second() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    settle(&bench, &mut broker);
    bench.pass(Duration::from_secs(1));
    for _ in 0..100 {
        bench.pass(Duration::from_millis(10));
        remove(&bench, &process, NVME);
        broker.turn().unwrap();
    }
    assert!((9..=11).contains(&told(&bench, "and it is mended")), "{}", told(&bench, "and it is mended"));
}

#[test]
fn what_was_broken_while_no_broker_ran_is_mended_at_its_start() {
    let bench = Bench::new();
    let process = bench.process();
    bench.machine.with(|world| world.remove(&guard::node(device(NVME)))); // nobody watches yet
    drop(bench.start(&process));
    assert_eq!(note(&bench, NVME).as_deref(), Some("5"));
}

#[test]
fn a_free_device_that_xl_has_given_away_is_told_once_and_left_to_it() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.machine.with(|world| {
        world.remove("/tool/pcidom/device/0000-00-05-0/frontend");
        world.write("/tool/pcidom/device/0000-00-05-0/phase", "pool");
        world.write(&guard::node(device(E1000)), "6");
    });
    for _ in 0..3 {
        process.changed(&guard::node(device(E1000)));
        settle(&bench, &mut broker);
    }
    assert_eq!(note(&bench, E1000).as_deref(), Some("6"));
    assert_eq!(told(&bench, "0000:00:05.0: xl has given it to db (domain 6), out of our pool"), 1);
    // Until xl has it back, or its guest is gone.
    remove(&bench, &process, E1000);
    settle(&bench, &mut broker);
    assert_eq!(note(&bench, E1000).as_deref(), Some("3"));
}

#[test]
fn a_frontend_directory_that_xl_replaces_is_told() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    settle(&bench, &mut broker);
    // First it notes that it is about to give a device of its own to our guest.
    let other = guard::node(device("0000:00:1f.2"));
    bench.machine.with(|world| world.write(&other, "5"));
    process.changed(&other);
    settle(&bench, &mut broker);
    assert!(broker.idle().is_some(), "it looks what comes of it");
    bench.machine.with(|world| {
        world.write(&format!("{}/backend", path::frontend_dir(WEB)), "/local/domain/0/backend/pci/5/0");
    });
    for _ in 0..3 {
        let Some(idle) = broker.idle() else { break };
        bench.pass(idle);
        broker.turn().unwrap();
    }
    assert_eq!(told(&bench, "web (domain 5): its frontend directory was replaced"), 1);
    assert_eq!(broker.idle(), None);
}

#[test]
fn a_guest_that_keeps_its_directory_is_not_suspected_for_ever() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let other = guard::node(device("0000:00:1f.2"));
    bench.machine.with(|world| world.write(&other, "5"));
    process.changed(&other);
    let mut looks = 0;
    broker.turn().unwrap();
    while let Some(idle) = broker.idle() {
        bench.pass(idle);
        broker.turn().unwrap();
        looks += 1;
        assert!(looks < 12, "it does not come to rest");
    }
    assert_eq!(told(&bench, "replaced"), 0);
}

#[test]
fn a_device_that_nobody_shall_have_is_kept_from_xl_again() {
    const HELD: &str = "0000:00:1f.2";
    let bench = Bench::new();
    bench.machine.with(|world| {
        world.write("/tool/pcidom/held/0000-00-1f-2", "another device is there");
        world.write(&guard::node(device(HELD)), "0");
    });
    let process = bench.process();
    let mut broker = bench.start(&process);
    settle(&bench, &mut broker);
    bench.pass(Duration::from_secs(1));
    // As each `xl pci-attach` that fails does.
    remove(&bench, &process, HELD);
    settle(&bench, &mut broker);
    assert_eq!(note(&bench, HELD).as_deref(), Some("0"));
    assert_eq!(told(&bench, "0000:00:1f.2 is kept from xl again: another device is there"), 1);
    process.changed(&guard::node(device(HELD)));
    settle(&bench, &mut broker);
    assert_eq!(told(&bench, "is kept from xl again"), 1, "its own change is no news");
    // Let go, and given away by xl.
    bench.machine.with(|world| world.remove("/tool/pcidom/held"));
    remove(&bench, &process, HELD);
    settle(&bench, &mut broker);
    assert_eq!(note(&bench, HELD), None);
}
