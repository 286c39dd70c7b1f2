//! The pool: devices are added, checked, assigned, taken back and released.

use sim::device::Function;
use sim::tool::ecam;
use sim::world::{STUB, World};
use xen_types::{Errno, Sbdf};

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);

fn state(world: &World, address: Sbdf) -> String {
    world.tool.pool_state(address).unwrap_or_default()
}

fn ecam_pages(world: &World) -> usize {
    world.xen.held_by(STUB).ecam_pages
}

#[test]
fn devices_that_are_not_fit_are_refused_with_the_reason_and_not_kept() {
    type Spoil = fn(&World);
    let cases: [(&str, Spoil); 11] = [
        ("cannot map its configuration space: EPERM", |world| world.xen.permit(STUB, ecam(A), false)),
        ("the function does not answer", |world| world.xen.unplug(ecam(A))),
        ("header type 0x01 is not that of an endpoint", |world| world.xen.plug(ecam(A), Function::bridge())),
        ("bus mastering is on", |world| {
            world.xen.with_function(ecam(A), |function| function.set_bus_master(true));
        }),
        ("ecam is missing or malformed", |world| write(world, "ecam", "here")),
        ("irq is missing or malformed", |world| write(world, "irq", "-1")),
        ("ids is missing or malformed", |world| write(world, "ids", "8086:1520")),
        ("ids is missing or malformed", |world| write(world, "ids", "100000000")),
        ("resource-0 is missing or malformed", |world| write(world, "resource-0", "0x1000 mem32")),
        ("resource-1 is of a kind that this register cannot be", |world| {
            write(world, "resource-1", "0xfe000000 0x1000 rom");
        }),
        ("cannot map its configuration space: ENOMEM", |world| world.xen.fail_next("map_config", Errno::ENOMEM)),
    ];
    for (want, spoil) in cases {
        let mut world = World::new(&[]);
        world.tool.add_to_pool(A, Function::endpoint(0x8086, 1));
        spoil(&world);
        world.settle();
        assert_eq!(state(&world, A), format!("refused {want}"));
        assert_eq!(ecam_pages(&world), 0, "{want}");
    }
}

fn write(world: &World, name: &str, value: &str) {
    world.tool.write(&format!("/local/domain/{STUB}/pool/0000-03-00-0/{name}"), value);
}

#[test]
fn a_refused_device_is_looked_at_again_when_its_nodes_change() {
    let mut world = World::new(&[]);
    world.tool.add_to_pool(A, Function::endpoint(0x8086, 1));
    world.xen.with_function(ecam(A), |function| function.set_bus_master(true));
    world.settle();
    assert_eq!(state(&world, A), "refused bus mastering is on");
    world.xen.with_function(ecam(A), |function| function.set_bus_master(false));
    world.tool.set_online(A, true);
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("free", 1));
}

#[test]
fn a_device_presented_again_is_looked_at_again() {
    let mut world = World::new(&[]);
    world.tool.add_to_pool(A, Function::endpoint(0x8086, 1));
    world.xen.with_function(ecam(A), |function| function.set_bus_master(true));
    world.settle();
    world.xen.with_function(ecam(A), |function| function.set_bus_master(false));
    write(&world, "state", "new"); // what the tool does once it has reset a device
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("free", 1));
}

#[test]
fn our_own_answer_is_no_reason_to_look_again() {
    let mut world = World::new(&[]);
    world.tool.add_to_pool(A, Function::endpoint(0x8086, 1));
    world.xen.fail_next("map_config", Errno::ENOMEM);
    world.settle();
    // It would be found well now. But a device that changes its mind at each look would then be looked at for ever.
    assert_eq!(state(&world, A), "refused cannot map its configuration space: ENOMEM");
}

#[test]
fn the_33rd_slot_is_refused_alone_and_not_asked_for_again_and_again() {
    let devices = (0..33).map(|bus| Sbdf::from_devfn(0, bus, 0)).collect::<Vec<_>>();
    let mut world = World::new(&devices);
    let guest = world.connect(5, &devices);
    assert_eq!(world.states(guest), ("4".to_string(), 4));
    assert_eq!(world.guest(guest).found.len(), 32);
    assert_eq!(world.tool.backend(guest, "state-32").as_deref(), Some("6"));
    let error = world.tool.error(guest).unwrap_or_default();
    assert_eq!(error, "28 0000:20:00.0: no free slot on the virtual bus");
    assert_eq!(state(&world, devices[32]), "free");
}

#[test]
fn a_device_is_let_go_when_asked_but_not_while_it_is_assigned() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    world.tool.set_online(A, false);
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("assigned 5", 1));
    world.destroy(guest);
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("released", 0));
    world.tool.remove_from_pool(A);
    world.tool.remove_dirs(guest);
    world.settle();
    world.assert_clean();
}

#[test]
fn a_device_that_is_leaving_is_not_assigned_again() {
    let mut world = World::new(&[A]);
    world.connect(5, &[A]);
    world.tool.set_online(A, false);
    world.stub.settle();
    let second = world.create_guest(6);
    world.tool.attach(second, &[A]);
    world.tool.request_close(xen_types::DomId(5));
    world.settle();
    assert_eq!(world.tool.backend(second, "state-0").as_deref(), Some("6"));
    assert_eq!(state(&world, A), "released");
}

#[test]
fn a_device_that_comes_back_loud_is_refused() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    world.xen.with_function(ecam(A), |function| function.set_bus_master(true));
    world.destroy(guest);
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("refused bus mastering is on", 0));
}

#[test]
fn a_device_that_is_pulled_out_while_assigned_reads_as_ones_and_does_not_come_back() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    world.xen.unplug(ecam(A));
    world.destroy(guest);
    world.settle();
    assert_eq!(state(&world, A), "refused the function does not answer");
}

#[test]
fn a_device_described_anew_is_mapped_anew() {
    let mut world = World::new(&[A]);
    world.xen.plug(ecam(B), Function::endpoint(0x8086, 0x7777));
    world.xen.permit(STUB, ecam(B), true);
    write(&world, "ecam", &format!("{:x}", ecam(B)));
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("free", 1));
    let guest = world.connect(5, &[A]);
    assert_eq!(world.guest(guest).found.first().map(|(_, ids)| ids >> 16), Some(0x7777));
}

#[test]
fn nodes_that_vanish_while_the_device_is_assigned_are_no_loss() {
    let mut world = World::new(&[A]);
    let guest = world.connect(5, &[A]);
    world.tool.remove_from_pool(A);
    world.settle();
    assert_eq!(ecam_pages(&world), 1);
    world.destroy(guest);
    world.tool.remove_dirs(guest);
    world.settle();
    world.assert_clean();
    assert_eq!(ecam_pages(&world), 0);
}

#[test]
fn a_whole_pool_that_vanishes_and_comes_again_is_taken_in() {
    let mut world = World::new(&[A, B]);
    world.tool.remove_from_pool(A);
    world.tool.remove_from_pool(B);
    world.tool.change(|store| store.remove(&format!("/local/domain/{STUB}/pool")));
    world.settle();
    assert_eq!(ecam_pages(&world), 0);
    world.tool.change(|store| store.mkdir(&format!("/local/domain/{STUB}/pool")));
    world.tool.add_to_pool(A, Function::endpoint(0x8086, 1));
    world.settle();
    assert_eq!((state(&world, A).as_str(), ecam_pages(&world)), ("free", 1));
}

#[test]
fn names_that_are_no_addresses_are_ignored() {
    let mut world = World::new(&[A]);
    for name in ["nonsense", "0000-03-00-8", "0000-03-00"] {
        world.tool.write(&format!("/local/domain/{STUB}/pool/{name}/ecam"), "b0000");
    }
    world.settle();
    assert_eq!(state(&world, A), "free");
    assert_eq!(ecam_pages(&world), 1);
}
