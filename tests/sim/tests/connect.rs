//! The initial connect, and the stub's announcements.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use pciif::{ErrorCode, Request};
use sim::world::{STUB, World, device_id};
use xen_types::{DomId, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const A1: Sbdf = Sbdf::from_devfn(0, 3, 1);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);

/// The ids that a guest finds for a real device.
fn ids(address: Sbdf) -> u32 {
    u32::from(device_id(address)) << 16 | 0x8086
}

fn virtual_address(devfn: u8) -> Sbdf {
    Sbdf::from_devfn(0, 0, devfn)
}

#[test]
fn the_stub_announces_itself_and_takes_the_pool_in() {
    let world = World::new(&[A, B]);
    assert!(world.stub.backend.is_ready());
    let node = |name: &str| world.tool.read(&format!("/local/domain/{STUB}/data/pcidom/{name}"));
    assert_eq!(node("export").as_deref(), Some("vpci"));
    assert_eq!(node("version").as_deref(), Some(pcidom_abi::ANNOUNCEMENT));
    assert!(world.pool_states().values().all(|state| state == "free"), "{:?}", world.pool_states());
    world.assert_clean();
}

#[test]
fn xenstore_trace_a_one_device_at_boot() {
    let mut world = World::new(&[A]);
    let guest = world.create_guest(5);
    world.tool.attach(guest, &[A]);
    world.stub.settle();
    // t2 and t3 of docs/protocol.md §8.1, before the guest has done anything.
    let node = |world: &World, name: &str| world.tool.backend(guest, name).unwrap_or_default();
    assert_eq!(world.states(guest), ("3".to_string(), 1));
    assert_eq!(node(&world, "vdev-0"), "0000:00:00.00");
    assert_eq!(node(&world, "state-0"), "3");
    assert_eq!(node(&world, "root-0"), "0000:00");
    assert_eq!(node(&world, "root_num"), "1");
    assert_eq!(world.tool.pool_state(A).as_deref(), Some("assigned 5"));

    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(world.guest(guest).found, [(virtual_address(0), ids(A))]);
    assert_eq!(world.tool.error(guest), None);
}

#[test]
fn many_devices_keep_their_functions_together() {
    let mut world = World::new(&[A, A1, B]);
    let guest = world.connect(5, &[B, A, A1]);
    let found = world.guest(guest).found.clone();
    assert_eq!(found, [(virtual_address(0), ids(B)), (virtual_address(8), ids(A)), (virtual_address(9), ids(A1))]);
    for (index, vdev) in [(0, "0000:00:00.00"), (1, "0000:00:01.00"), (2, "0000:00:01.01")] {
        assert_eq!(world.tool.backend(guest, &format!("vdev-{index}")).as_deref(), Some(vdev));
    }
}

#[test]
fn each_guest_sees_its_own_devices_only() {
    let mut world = World::new(&[A, B]);
    let first = world.connect(5, &[A]);
    let second = world.connect(6, &[B]);
    assert_eq!(world.guest(first).found, [(virtual_address(0), ids(A))]);
    assert_eq!(world.guest(second).found, [(virtual_address(0), ids(B))]);
    let World { stub, guests, .. } = &mut world;
    for guest in guests.values() {
        let other = guest.ask(stub, &Request::conf_read(virtual_address(8), 0, 4)).expect("an answer");
        assert_eq!((other.code(), other.value), (Some(ErrorCode::DevNotFound), u32::MAX));
    }
}

#[test]
fn forty_guests_are_served_at_the_same_time() {
    let devices = (0..40).map(|bus| Sbdf::from_devfn(0, bus, 0)).collect::<Vec<_>>();
    let mut world = World::new(&devices);
    for (domid, device) in (10..).zip(&devices) {
        let guest = world.create_guest(domid);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[*device]);
    }
    world.settle();
    for (domid, device) in (10..).zip(&devices) {
        assert_eq!(world.guest(DomId(domid)).found, [(virtual_address(0), ids(*device))]);
    }
    for domid in 10..50 {
        world.destroy(DomId(domid));
    }
    world.settle();
    for domid in 10..50 {
        world.tool.remove_dirs(DomId(domid));
    }
    world.settle();
    world.assert_clean();
}

#[test]
fn devices_appended_before_the_guest_runs_are_exported_at_3() {
    let mut world = World::new(&[A, B]);
    let guest = world.create_guest(5);
    world.tool.attach(guest, &[A]);
    world.stub.settle();
    // As libxl does while it builds a guest: the second device comes with state 7.
    world.tool.change(|store| {
        world.tool.write_device(store, guest, 1, B)?;
        store.write(&format!("{}/num_devs", world.tool.backend_dir(guest)), "2")?;
        store.write(&format!("{}/state", world.tool.backend_dir(guest)), "7")
    });
    world.stub.settle();
    assert_eq!(world.states(guest), ("3".to_string(), 1));
    assert_eq!(world.tool.backend(guest, "state-1").as_deref(), Some("3"));
    assert_eq!(world.tool.backend(guest, "vdev-1").as_deref(), Some("0000:00:01.00"));
    world.settle();
    assert_eq!(world.guest(guest).found.len(), 2);
}

#[test]
fn a_directory_without_num_devs_waits_for_it() {
    let mut world = World::new(&[A]);
    let guest = world.create_guest(5);
    let dir = world.tool.backend_dir(guest);
    world.tool.change(|store| {
        world.tool.write_backend_dir(store, guest, &[A])?;
        world.tool.write_frontend_dir(store, guest)?;
        store.remove(&format!("{dir}/num_devs"))
    });
    world.stub.settle();
    assert_eq!(world.states(guest).0, "2");
    assert_eq!(world.tool.error(guest), None);
    world.tool.write(&format!("{dir}/num_devs"), "1");
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
}

#[test]
fn no_node_is_created_in_the_directories_that_the_tool_made() {
    let mut world = World::new(&[A, A1, B]);
    let guest = world.create_guest(5);
    world.tool.attach(guest, &[A, A1, B]);
    let names = |world: &World| {
        let lines = world.xen.store().dump();
        let ours = lines.iter().filter(|line| line.contains("/backend/pci/") && !line.contains("/error/"));
        ours.filter_map(|line| Some(line.split_once(" = ")?.0.to_string())).collect::<Vec<_>>()
    };
    let before = names(&world);
    world.settle();
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(names(&world), before);
}

#[test]
fn reads_and_writes_are_answered_while_the_store_is_silent() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    // A reconfiguration is queued and its questions are on their way; nobody carries them.
    world.tool.write(&format!("{}/num_devs", world.tool.backend_dir(guest)), "1");
    let World { stub, guests, .. } = &mut world;
    let front = &guests[&guest];
    let response = front.ask(stub, &Request::conf_read(virtual_address(0), 0, 4)).expect("an answer");
    assert_eq!((response.code(), response.value), (Some(ErrorCode::Success), ids(A)));
    let response = front.ask(stub, &Request::conf_write(virtual_address(0), 0x10, 4, u32::MAX)).expect("an answer");
    assert_eq!(response.code(), Some(ErrorCode::Success));
    let response = front.ask(stub, &Request::conf_read(virtual_address(0), 0x10, 4)).expect("an answer");
    assert_eq!(response.value, 0xffff_f000);
}
