//! The modes of export (docs/protocol.md §5), chosen for the stub and for a guest, at the first connect and while the guest runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciback::Options;
use pciback::topology::ExportMode;
use pciif::Request;
use sim::SimXen;
use sim::world::{STUB, World, device_id};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const A1: Sbdf = Sbdf::from_devfn(0, 3, 1);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
/// In another segment. The simulation puts its configuration space where it puts that of segment 0, so no two may share bus, device
/// and function.
const FAR: Sbdf = Sbdf::from_devfn(1, 9, 0x0b);
const GUEST: u16 = 5;

fn at(address: &str, device: Sbdf) -> (Sbdf, u32) {
    (address.parse().expect("an address"), u32::from(device_id(device)) << 16 | 0x8086)
}

/// All devices are multi-function ones.
fn world(mode: ExportMode, devices: &[Sbdf]) -> World {
    let options = Options { export: mode, ..Options::default() };
    World::with(SimXen::new(), devices, options, |mut function| {
        function.write(0x0c, 0x0080_0000);
        function
    })
}

fn node(world: &World, guest: DomId, name: &str) -> String {
    world.tool.backend(guest, name).unwrap_or_default()
}

fn roots(world: &World, guest: DomId) -> Vec<String> {
    let count = node(world, guest, "root_num").parse().expect("a number");
    (0..count).map(|root: u32| node(world, guest, &format!("root-{root}"))).collect()
}

fn connected(world: &mut World, devices: &[Sbdf], mode: Option<&str>) -> DomId {
    let guest = world.create_guest(GUEST);
    match mode {
        Some(mode) => world.tool.attach_as(guest, mode, devices),
        None => world.tool.attach(guest, devices),
    }
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(world.tool.error(guest), None);
    guest
}

/// Whether a guest is told that there are more functions in the slot.
fn is_multi_function(world: &mut World, guest: DomId, address: Sbdf) -> bool {
    let World { stub, guests, .. } = world;
    let response = guests[&guest].ask(stub, &Request::conf_read(address, 0x0e, 1)).expect("an answer");
    assert_eq!(response.err, 0);
    response.value & 0x80 != 0
}

#[test]
fn the_stub_announces_its_mode() {
    for mode in [ExportMode::Vpci, ExportMode::Slot, ExportMode::Passthrough] {
        let world = world(mode, &[]);
        let path = format!("/local/domain/{STUB}/data/pcidom/export");
        assert_eq!(world.tool.read(&path), Some(mode.to_string()));
    }
}

#[test]
fn in_slot_mode_each_function_has_a_slot() {
    let mut world = world(ExportMode::Slot, &[A, A1, B]);
    let guest = connected(&mut world, &[A, A1, B], None);
    assert_eq!(roots(&world, guest), ["0000:00"]);
    assert_eq!(
        ["vdev-0", "vdev-1", "vdev-2"].map(|name| node(&world, guest, name)),
        ["0000:00:00.00", "0000:00:01.00", "0000:00:02.00"]
    );
    let found = world.guest(guest).found.clone();
    assert_eq!(found, [at("00:00.0", A), at("00:01.0", A1), at("00:02.0", B)]);
    for (address, _) in found {
        assert!(!is_multi_function(&mut world, guest, address));
    }
}

#[test]
fn in_passthrough_mode_addresses_are_real() {
    let mut world = world(ExportMode::Passthrough, &[A, A1, B, FAR]);
    let guest = connected(&mut world, &[B, FAR, A1, A], None);
    assert_eq!(roots(&world, guest), ["0000:03", "0000:05", "0001:09"]);
    assert_eq!(node(&world, guest, "vdev-1"), "0001:09:01.03");
    let found = world.guest(guest).found.clone();
    assert_eq!(found, [at("03:00.0", A), at("03:00.1", A1), at("05:02.0", B), at("0001:09:01.3", FAR)]);
    assert!(is_multi_function(&mut world, guest, A), "as it really is");
}

#[test]
fn a_guest_has_a_mode_of_its_own() {
    for (mode, address, root) in
        [("slot", "00:00.0", "0000:00"), ("passthrough", "05:02.0", "0000:05"), ("vpci", "00:00.0", "0000:00")]
    {
        for stubs in [ExportMode::Vpci, ExportMode::Slot, ExportMode::Passthrough] {
            let mut world = world(stubs, &[B]);
            let guest = connected(&mut world, &[B], Some(mode));
            assert_eq!(
                (roots(&world, guest), world.guest(guest).found.clone()),
                (vec![root.into()], vec![at(address, B)])
            );
        }
    }
}

#[test]
fn a_device_forgets_how_its_last_guest_saw_it() {
    let mut world = world(ExportMode::Vpci, &[A]);
    for (mode, address, is_multi) in [
        ("vpci", "00:00.0", true),
        ("slot", "00:00.0", false),
        ("passthrough", "03:00.0", true),
        ("slot", "00:00.0", false),
    ] {
        let guest = connected(&mut world, &[A], Some(mode));
        assert_eq!(is_multi_function(&mut world, guest, address.parse().expect("an address")), is_multi, "{mode}");
        world.destroy(guest);
        world.settle();
        world.tool.remove_dirs(guest);
        world.settle();
        world.assert_clean();
    }
}

#[test]
fn the_mode_of_a_new_directory_counts() {
    let mut world = world(ExportMode::Vpci, &[A, B]);
    let guest = connected(&mut world, &[B], Some("passthrough"));
    // The directories are replaced before the stub has had a look.
    world.guest(guest).forget();
    world.tool.remove_dirs(guest);
    world.tool.attach_as(guest, "slot", &[A]);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(
        (roots(&world, guest), world.guest(guest).found.clone()),
        (vec!["0000:00".into()], vec![at("00:00.0", A)])
    );
    assert_eq!(world.pool_states()["0000-05-02-0"], "free");
}

#[test]
fn a_mode_that_is_none_is_reported() {
    let mut world = world(ExportMode::Vpci, &[A]);
    let guest = world.create_guest(GUEST);
    world.tool.attach_as(guest, "controller", &[A]);
    world.settle();
    assert_eq!(node(&world, guest, "state"), "5");
    assert!(world.tool.error(guest).is_some_and(|text| text.contains("export")), "{:?}", world.tool.error(guest));
    assert_eq!(world.pool_states()["0000-03-00-0"], "free");
}

#[test]
fn buses_are_counted_even_when_there_are_none() {
    // Linux takes a root_num that is no number for an error of its own.
    let mut world = world(ExportMode::Passthrough, &[]);
    let guest = world.create_guest(GUEST);
    world.tool.attach(guest, &[A]);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!((node(&world, guest, "root_num").as_str(), node(&world, guest, "state-0").as_str()), ("0", "6"));
}

#[test]
fn the_slot_after_the_last_of_a_bus_is_on_the_next() {
    let devices = (0..70).map(|bus| Sbdf::from_devfn(0, bus, 9)).collect::<Vec<_>>();
    let mut world = world(ExportMode::Slot, &devices);
    let guest = connected(&mut world, &devices, None);
    assert_eq!(roots(&world, guest), ["0000:00", "0000:01", "0000:02"]);
    let want = (0..).zip(&devices).map(|(place, device): (u8, _)| {
        let address = Sbdf::from_devfn(0, place / 32, (place % 32) << 3);
        at(&address.to_string(), *device)
    });
    assert_eq!(world.guest(guest).found, want.collect::<Vec<_>>());
}

#[test]
fn a_device_is_plugged_onto_a_new_bus_while_the_guest_runs() {
    let devices = (0..33).map(|bus| Sbdf::from_devfn(0, bus, 0)).collect::<Vec<_>>();
    let (last, first) = devices.split_last().expect("some");
    let mut world = world(ExportMode::Slot, &devices);
    let guest = connected(&mut world, first, None);
    assert_eq!(roots(&world, guest), ["0000:00"]);
    world.tool.change(|store| world.tool.write_roots(store, guest, 2));
    world.tool.hot_attach(guest, &[(*last, None)]);
    world.settle();
    assert!(world.tool.is_settled(guest));
    assert_eq!(roots(&world, guest), ["0000:00", "0000:01"]);
    assert_eq!(world.guest(guest).found.last(), Some(&at("01:00.0", *last)));
    assert_eq!(world.guest(guest).found.len(), 33);
    // The bus stays when its device goes, and so do all the others' addresses.
    world.tool.hot_detach(guest, &[*last, devices[3]]);
    world.settle();
    world.tool.remove_entries(guest, &[*last, devices[3]]);
    world.settle();
    assert_eq!(roots(&world, guest), ["0000:00", "0000:01"]);
    assert_eq!(world.guest(guest).found.len(), 31);
    // The wanted slot is free on one bus only.
    world.tool.hot_attach(guest, &[(*last, Some(3))]);
    world.settle();
    assert_eq!(world.guest(guest).found.get(3), Some(&at("00:03.0", *last)));
}

#[test]
fn real_addresses_come_and_go_while_the_guest_runs() {
    let mut world = world(ExportMode::Passthrough, &[A, A1, B, FAR]);
    let guest = connected(&mut world, &[B], None);
    world.tool.change(|store| world.tool.write_roots(store, guest, 3));
    world.tool.hot_attach(guest, &[(FAR, Some(1)), (A, None)]);
    world.settle();
    // In the order in which guests were told of them; B's was there first.
    assert_eq!(roots(&world, guest), ["0000:05", "0000:03", "0001:09"]);
    world.tool.hot_detach(guest, &[B]);
    world.settle();
    world.tool.remove_entries(guest, &[B]);
    world.tool.hot_attach(guest, &[(A1, None)]);
    world.settle();
    assert_eq!(roots(&world, guest), ["0000:05", "0000:03", "0001:09"]);
    let found = world.guest(guest).found.clone();
    assert_eq!(found, [at("03:00.0", A), at("03:00.1", A1), at("0001:09:01.3", FAR)]);
    // Back again, after the driver was loaded anew: nothing moves.
    world.guest(guest).unload();
    world.settle();
    world.guest(guest).set_state(1);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(roots(&world, guest), ["0000:05", "0000:03", "0001:09"]);
    assert_eq!(world.guest(guest).found, found);
}
