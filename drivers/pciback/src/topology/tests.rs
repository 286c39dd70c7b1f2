use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const PLAIN: Traits = Traits { is_virtual_function: false, is_bridge: false };
const VIRTUAL: Traits = Traits { is_virtual_function: true, is_bridge: false };

/// Adds functions in the order of their addresses' list; ids count from 0. Returns the topology and `slot.function` of each.
fn exported(list: &[(&str, Traits)]) -> (Topology, Vec<String>) {
    let mut topology = Topology::new(ExportMode::Vpci);
    let places = list
        .iter()
        .zip(0..)
        .map(|((text, traits), id)| {
            let address = topology.add(DeviceId(id), sbdf(text), *traits, None).expect("room");
            assert_eq!((address.segment(), address.bus()), (0, 0));
            format!("{}.{}", address.device(), address.function())
        })
        .collect();
    (topology, places)
}

fn sbdf(text: &str) -> Sbdf {
    text.parse().expect("an address")
}

#[test]
fn functions_of_one_slot_stay_together_and_keep_their_numbers() {
    let (_, places) =
        exported(&[("03:00.1", PLAIN), ("04:00.0", PLAIN), ("03:00.0", PLAIN), ("03:01.0", PLAIN), ("03:00.7", PLAIN)]);
    assert_eq!(places, ["0.1", "1.0", "0.0", "2.0", "0.7"]);
}

#[test]
fn segment_and_bus_belong_to_the_slot() {
    let (_, places) = exported(&[("0000:03:00.0", PLAIN), ("0001:03:00.1", PLAIN), ("0000:02:00.1", PLAIN)]);
    assert_eq!(places, ["0.0", "1.1", "2.1"]);
}

#[test]
fn a_lone_function_needs_no_function_0() {
    assert_eq!(exported(&[("03:00.3", PLAIN)]).1, ["0.3"]);
}

#[test]
fn virtual_functions_numbered_0_take_slots_of_their_own() {
    let (_, places) = exported(&[
        ("03:10.0", VIRTUAL),
        ("03:10.1", VIRTUAL), // no mate: the one at function 0 stays alone
        ("03:10.2", VIRTUAL),
        ("03:11.1", VIRTUAL),
        ("03:11.0", VIRTUAL),
        ("03:11.2", PLAIN),
    ]);
    assert_eq!(places, ["0.0", "1.1", "1.2", "2.1", "3.0", "2.2"]);
}

#[test]
fn bridges_are_refused() {
    let mut topology = Topology::new(ExportMode::Vpci);
    let bridge = Traits { is_bridge: true, ..PLAIN };
    assert_eq!(topology.add(DeviceId(0), sbdf("00:1c.0"), bridge, None), Err(TopologyError::Bridge));
    assert_eq!(topology.iter().count(), 0);
}

#[test]
fn the_33rd_slot_is_refused_and_the_others_stay() {
    let list: Vec<_> = (0..32).map(|bus| (format!("{bus:02x}:00.0"), PLAIN)).collect();
    let list: Vec<_> = list.iter().map(|(text, traits)| (text.as_str(), *traits)).collect();
    let (mut topology, _) = exported(&list);
    assert_eq!(topology.add(DeviceId(100), sbdf("40:00.0"), PLAIN, None), Err(TopologyError::Full));
    assert_eq!(topology.add(DeviceId(100), sbdf("40:00.0"), PLAIN, Some(3)), Err(TopologyError::Full));
    assert_eq!(topology.lookup(0, 0, 31 << 3), Some(DeviceId(31)));
    assert_eq!(topology.add(DeviceId(101), sbdf("05:00.4"), PLAIN, None), Ok(sbdf("00:05.4")), "a mate still fits");
}

#[test]
fn a_freed_slot_is_the_next_to_be_taken() {
    let (mut topology, _) = exported(&[("03:00.0", PLAIN), ("04:00.0", PLAIN), ("05:00.0", PLAIN)]);
    assert_eq!(topology.remove(DeviceId(1)).map(|entry| entry.address), Some(sbdf("00:01.0")));
    assert_eq!(topology.remove(DeviceId(1)), None);
    assert_eq!(topology.lookup(0, 0, 8), None);
    assert_eq!(topology.add(DeviceId(7), sbdf("06:00.0"), PLAIN, None), Ok(sbdf("00:01.0")));
}

#[test]
fn a_wanted_slot_is_given_where_it_is_free_or_holds_mates() {
    let mut topology = Topology::new(ExportMode::Vpci);
    let mut add = |id, text, traits, slot| topology.add(DeviceId(id), sbdf(text), traits, Some(slot)).map(Sbdf::device);
    assert_eq!(add(0, "03:00.0", PLAIN, 5), Ok(5));
    assert_eq!(add(1, "03:00.1", PLAIN, 5), Ok(5), "joins its mate");
    assert_eq!(add(2, "03:00.2", PLAIN, 9), Ok(9), "free, though mates are elsewhere");
    assert_eq!(add(3, "04:00.0", PLAIN, 5), Ok(0), "taken by others");
    assert_eq!(add(4, "05:00.0", PLAIN, 32), Ok(1), "no such slot");
    assert_eq!(add(5, "03:10.0", VIRTUAL, 7), Ok(7));
    assert_eq!(add(6, "03:10.1", VIRTUAL, 7), Ok(2), "stays alone");
}

#[test]
fn nothing_is_exported_twice() {
    let (mut topology, _) = exported(&[("03:00.0", PLAIN)]);
    let present = Err(TopologyError::Present(sbdf("00:00.0")));
    assert_eq!(topology.add(DeviceId(1), sbdf("03:00.0"), PLAIN, None), present);
    assert_eq!(topology.add(DeviceId(0), sbdf("04:00.0"), PLAIN, None), present);
    assert_eq!(topology.iter().count(), 1);
}

#[test]
fn addresses_out_of_range_name_nothing() {
    let (topology, _) = exported(&[("03:00.0", PLAIN)]);
    assert_eq!(topology.lookup(0, 0, 0), Some(DeviceId(0)));
    for (domain, bus, devfn) in [
        (0, 0, 0x100),
        (0, 0x100, 0),
        (0x1_0000, 0, 0),
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (0, 0, 8),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert_eq!(topology.lookup(domain, bus, devfn), None, "{domain:#x} {bus:#x} {devfn:#x}");
    }
}

#[test]
fn the_root_is_there_before_any_function() {
    let topology = Topology::new(ExportMode::Vpci);
    assert_eq!(topology.roots().collect::<Vec<_>>(), [(0, 0)]);
}

#[test]
fn a_mode_is_chosen_while_nothing_has_an_address() {
    let mut topology = Topology::new(ExportMode::Vpci);
    topology.choose(ExportMode::Passthrough);
    assert_eq!(topology.add(DeviceId(0), sbdf("03:00.1"), PLAIN, None), Ok(sbdf("03:00.1")));
    topology.choose(ExportMode::Slot);
    assert_eq!(topology.add(DeviceId(1), sbdf("04:00.1"), PLAIN, None), Ok(sbdf("04:00.1")), "too late");
    topology.remove(DeviceId(0));
    topology.remove(DeviceId(1));
    topology.choose(ExportMode::Slot);
    assert_eq!(topology.add(DeviceId(2), sbdf("04:00.1"), PLAIN, None), Ok(sbdf("00:00.0")));
}

#[test]
fn in_slot_mode_each_function_is_alone() {
    let mut topology = Topology::new(ExportMode::Slot);
    let mut add = |id, text, traits, slot| topology.add(DeviceId(id), sbdf(text), traits, slot);
    assert_eq!(add(0, "03:00.0", PLAIN, None), Ok(sbdf("00:00.0")));
    assert_eq!(add(1, "03:00.1", PLAIN, None), Ok(sbdf("00:01.0")), "a mate gets its own");
    assert_eq!(add(2, "0001:03:10.7", VIRTUAL, Some(5)), Ok(sbdf("00:05.0")));
    assert_eq!(add(3, "04:00.0", PLAIN, Some(5)), Ok(sbdf("00:02.0")), "taken");
    assert_eq!(add(4, "05:00.0", PLAIN, Some(32)), Ok(sbdf("00:03.0")), "no such slot");
    let bridge = Traits { is_bridge: true, ..PLAIN };
    assert_eq!(add(5, "00:1c.0", bridge, None), Err(TopologyError::Bridge));
    assert!(topology.shows_single_functions());
    assert_eq!(topology.roots().collect::<BTreeSet<_>>(), BTreeSet::from([(0, 0)]));
}

#[test]
fn in_slot_mode_a_bus_begins_when_those_before_are_full() {
    let mut topology = Topology::new(ExportMode::Slot);
    assert_eq!(topology.roots().collect::<Vec<_>>(), [(0, 0)], "before any function");
    for id in 0..256u16 {
        // All ask for slot 7: it is had once on each bus, and no bus is begun for it.
        let physical = Sbdf::from_devfn(1, id.to_le_bytes()[0], 3);
        let address = topology.add(DeviceId(id), physical, PLAIN, Some(7)).expect("room");
        assert_eq!(u16::from(address.bus()), id / 32, "{address}");
    }
    let roots = topology.roots().collect::<BTreeSet<_>>();
    assert_eq!(roots, (0..8).map(|bus| (0, bus)).collect::<BTreeSet<_>>());
    let removed = topology.remove(DeviceId(100)).expect("one of them").address;
    assert_eq!(topology.add(DeviceId(300), sbdf("09:00.0"), PLAIN, None), Ok(removed), "the first gap");
}

#[test]
fn in_passthrough_mode_addresses_are_real() {
    let mut topology = Topology::new(ExportMode::Passthrough);
    assert_eq!(topology.roots().count(), 0, "no bus before there is a function on it");
    let list = ["03:00.1", "0001:03:00.1", "ffff:ff:1f.7", "03:1f.0", "00:00.0"];
    for (id, text) in (0..).zip(list) {
        assert_eq!(topology.add(DeviceId(id), sbdf(text), PLAIN, Some(9)), Ok(sbdf(text)));
    }
    let roots = topology.roots().collect::<BTreeSet<_>>();
    assert_eq!(roots, BTreeSet::from([(0, 0), (0, 3), (1, 3), (0xffff, 0xff)]));
    assert_eq!(topology.lookup(1, 3, 1), Some(DeviceId(1)));
    assert_eq!(topology.lookup(0, 3, 1), Some(DeviceId(0)));
    assert_eq!(topology.lookup(2, 3, 1), None);
    let bridge = Traits { is_bridge: true, ..PLAIN };
    assert_eq!(topology.add(DeviceId(9), sbdf("00:1c.0"), bridge, None), Err(TopologyError::Bridge));
    assert!(!topology.shows_single_functions());
}

/// The toolstack makes the nodes of as many buses as there can be devices for. Addresses of devices that were taken by force must not lead beyond.
#[test]
fn retired_addresses_begin_no_bus_that_nobody_made() {
    let mut topology = Topology::new(ExportMode::Slot);
    let physical = |number: u8| Sbdf::from_devfn(0, 1, number);
    for number in 0..32 {
        topology.add(DeviceId(number.into()), physical(number), PLAIN, None).unwrap();
        topology.retire(DeviceId(number.into()));
    }
    assert_eq!(topology.add(DeviceId(40), physical(40), PLAIN, None), Err(TopologyError::Full));
    topology.forget_retired();
    assert_eq!(topology.add(DeviceId(40), physical(40), PLAIN, None), Ok(Sbdf::from_devfn(0, 0, 0)));
}

#[derive(Clone, Debug)]
enum Step {
    Add { id: u16, devfn: u8, bus: u8, is_virtual_function: bool, wanted: Option<u8> },
    Remove { id: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let add = (0..48u16, any::<u8>(), 0..3u8, any::<bool>(), prop::option::of(0..40u8)).prop_map(
        |(id, devfn, bus, is_virtual_function, wanted)| Step::Add { id, devfn, bus, is_virtual_function, wanted },
    );
    prop_oneof![3 => add, 1 => (0..48u16).prop_map(|id| Step::Remove { id })]
}

proptest! {
    #[test]
    fn addresses_are_unique_stable_and_found(steps in prop::collection::vec(step(), 1..120)) {
        let mut topology = Topology::new(ExportMode::Vpci);
        // What must be there, kept apart from the topology: id, physical address, virtual address.
        let mut model: Vec<(DeviceId, Sbdf, Sbdf)> = Vec::new();
        for step in steps {
            match step {
                Step::Add { id, devfn, bus, is_virtual_function, wanted } => {
                    let (id, physical) = (DeviceId(id), Sbdf::from_devfn(0, bus, devfn));
                    let is_present = model.iter().any(|entry| entry.0 == id || entry.1 == physical);
                    let result = topology.add(id, physical, Traits { is_virtual_function, ..PLAIN }, wanted);
                    prop_assert_eq!(is_present, matches!(result, Err(TopologyError::Present(_))));
                    if let Ok(address) = result {
                        prop_assert!(model.iter().all(|entry| entry.2 != address));
                        prop_assert_eq!(address.function(), physical.function());
                        // A virtual slot never mixes functions of several physical ones.
                        prop_assert!(model.iter().all(|entry| !entry.2.same_slot(address) || entry.1.same_slot(physical)));
                        model.push((id, physical, address));
                    } else {
                        prop_assert!(is_present || (0..32).all(|slot| model.iter().any(|entry| entry.2.device() == slot)));
                    }
                }
                Step::Remove { id } => {
                    let id = DeviceId(id);
                    let want = model.iter().position(|entry| entry.0 == id).map(|at| model.remove(at).2);
                    prop_assert_eq!(topology.remove(id).map(|entry| entry.address), want);
                }
            }
            for devfn in 0..=255 {
                let want = model.iter().find(|entry| entry.2 == Sbdf::from_devfn(0, 0, devfn)).map(|entry| entry.0);
                prop_assert_eq!(topology.lookup(0, 0, devfn.into()), want);
            }
            prop_assert_eq!(topology.iter().count(), model.len());
            for (id, physical, address) in &model {
                let entry = topology.entry(*id).map(|entry| (entry.physical, entry.address));
                prop_assert_eq!(entry, Some((*physical, *address)));
            }
        }
    }

    #[test]
    fn slots_and_real_addresses_are_unique_stable_and_found(
        steps in prop::collection::vec(step(), 1..120),
        is_slot in any::<bool>(),
    ) {
        let mut topology = Topology::new(if is_slot { ExportMode::Slot } else { ExportMode::Passthrough });
        let mut model: Vec<(DeviceId, Sbdf, Sbdf)> = Vec::new();
        let mut peak = 0;
        for step in steps {
            match step {
                Step::Add { id, devfn, bus, is_virtual_function, wanted } => {
                    let (id, physical) = (DeviceId(id), Sbdf::from_devfn(0, bus, devfn));
                    let is_present = model.iter().any(|entry| entry.0 == id || entry.1 == physical);
                    let result = topology.add(id, physical, Traits { is_virtual_function, ..PLAIN }, wanted);
                    prop_assert_eq!(is_present, result.is_err());
                    let Ok(address) = result else { continue };
                    prop_assert!(model.iter().all(|entry| entry.2 != address));
                    if is_slot {
                        let is_free = |slot| model.iter().all(|entry| entry.2 != Sbdf::from_devfn(0, 0, slot << 3));
                        prop_assert_eq!(address.function(), 0);
                        if let Some(slot) = wanted.filter(|slot| *slot < 32 && is_free(*slot)) {
                            prop_assert_eq!(address, Sbdf::from_devfn(0, 0, slot << 3));
                        }
                    } else {
                        prop_assert_eq!(address, physical);
                    }
                    model.push((id, physical, address));
                    peak = peak.max(model.len());
                    // What the toolstack relies on when it makes the nodes of buses.
                    prop_assert!(!is_slot || usize::from(address.bus()) < peak.div_ceil(32));
                }
                Step::Remove { id } => {
                    let id = DeviceId(id);
                    let want = model.iter().position(|entry| entry.0 == id).map(|at| model.remove(at).2);
                    prop_assert_eq!(topology.remove(id).map(|entry| entry.address), want);
                }
            }
            for (id, physical, address) in &model {
                let entry = topology.entry(*id).map(|entry| (entry.physical, entry.address));
                prop_assert_eq!(entry, Some((*physical, *address)));
                let found = topology.lookup(0, address.bus().into(), address.devfn().into());
                prop_assert_eq!(found, Some(*id));
                prop_assert!(topology.roots().any(|root| root == (0, address.bus())));
            }
            prop_assert_eq!(topology.iter().count(), model.len());
        }
    }
}
