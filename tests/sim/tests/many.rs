//! Guests with as many devices as may be: xenstored bounds what a domain asks in one transaction, and each daemon counts in its own way.

use sim::world::World;
use xen_types::{DomId, Sbdf};
use xenstored::Flavour;

/// The most that a guest can have.
const DEVICES: u16 = 256;

fn devices(count: u16) -> Vec<Sbdf> {
    let device = |index: u16| {
        let [devfn, bus] = index.to_le_bytes();
        Sbdf::from_devfn(0, 3 + bus, devfn)
    };
    (0..count).map(device).collect()
}

fn on_each(test: impl Fn(&mut World, DomId)) {
    for flavour in [Flavour::Xenstored, Flavour::Oxenstored] {
        let all = devices(DEVICES);
        let mut world = World::new(&all);
        world.xen.store().set_flavour(flavour);
        let guest = world.create_guest(5);
        test(&mut world, guest);
        let states = (0..DEVICES).map(|index| world.tool.backend(guest, &format!("state-{index}"))).collect::<Vec<_>>();
        assert!(states.iter().all(|state| state.as_deref() == Some("3")), "{flavour:?}: {states:?}");
        assert_eq!(world.tool.error(guest), None, "{flavour:?}");
        for device in all {
            assert_eq!(world.tool.pool_state(device).as_deref(), Some("assigned 5"), "{flavour:?}: {device}");
        }
    }
}

#[test]
fn a_guest_may_start_with_256_devices_on_either_xenstored() {
    on_each(|world, guest| {
        world.tool.attach_as(guest, "slot", &devices(DEVICES));
        world.guest(guest).probe();
        world.settle_deadlines(50);
        assert_eq!(world.states(guest).0, "4");
    });
}

#[test]
fn a_guest_may_get_250_devices_more_while_it_runs_on_either_xenstored() {
    on_each(|world, guest| {
        let (first, more) = (devices(6), devices(DEVICES).split_off(6));
        world.tool.attach_as(guest, "slot", &first);
        world.tool.change(|store| world.tool.write_roots(store, guest, 8));
        world.guest(guest).probe();
        world.settle();
        let more = more.into_iter().map(|device| (device, None)).collect::<Vec<_>>();
        world.tool.hot_attach(guest, &more);
        world.settle_deadlines(50);
        assert_eq!(world.states(guest).0, "4");
    });
}
