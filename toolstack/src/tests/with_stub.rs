//! The tool and the real backend together: what one writes, the other understands.

use pcidom_abi::DeviceNode;
use pciif::layout::MsixEntry;
use pciif::{Command, Request};
use sim::broker::Fault;
use sim::process::{Moment, Signal};

use super::{TIMEOUT, request};
use crate::error::Error;
use crate::fake::{E1000, EDU, MachineWithStub, NVME, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::attach;
use crate::ops::connect::Connection;
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;

const ALL: [&str; 3] = [E1000, EDU, NVME];

/// All nodes, but those that a guest's driver or the stub leave in their own directories.
fn nodes(machine: &MachineWithStub) -> Vec<String> {
    let dump = machine.with_peers(|peers| peers.xen.store().dump());
    dump.into_iter().filter(|line| !line.starts_with("/local/domain/3/error")).collect()
}

fn pool_states(machine: &MachineWithStub) -> Vec<Option<String>> {
    ["05", "06", "07"].map(|slot| machine.read(&format!("/local/domain/3/pool/0000-00-{slot}-0/state"))).to_vec()
}

fn all(word: &str) -> Vec<Option<String>> {
    vec![Some(word.to_owned()); 3]
}

fn detach_all(machine: &MachineWithStub) -> Result<(), Error> {
    let devices = ALL.map(device).to_vec();
    let request = detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: false };
    detach(&machine.host, &request, &reclaim(&machine.host)?)
}

fn with_pool() -> MachineWithStub {
    let machine = MachineWithStub::new();
    assignable::add(&machine.host, &ALL.map(device), "pcidom").unwrap();
    machine
}

#[test]
fn the_backend_takes_devices_into_its_pool_and_lets_go() {
    let machine = MachineWithStub::new();
    let before = nodes(&machine);
    assignable::add(&machine.host, &ALL.map(device), "pcidom").unwrap();
    assert_eq!(pool_states(&machine), all("free"));
    assignable::remove(&machine.host, &ALL.map(device), false).unwrap();
    assert_eq!(pool_states(&machine), vec![None; 3]);
    assert_eq!(nodes(&machine), before);
    machine.with_peers(|peers| assert_eq!(peers.xen.held_by(crate::fake::STUB).ecam_pages, 0));
    machine.machine.assert_no_violations();
}

#[test]
fn a_guest_finds_what_was_attached_and_loses_what_was_detached() {
    let machine = with_pool();
    let before = nodes(&machine);
    assert_eq!(attach(&machine.host, &request("web", &ALL)).unwrap(), Connection::Connected);
    assert_eq!(pool_states(&machine), all("assigned 5"));
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 3));
    detach_all(&machine).unwrap();
    assert_eq!(pool_states(&machine), all("free"));
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 0));
    assert_eq!(nodes(&machine), before);
    machine.machine.assert_no_violations();
}

#[test]
fn a_paused_guest_connects_when_it_runs() {
    let machine = MachineWithStub::new();
    super::pause(&machine.machine, WEB);
    assert_eq!(attach(&machine.host, &request("web", &ALL)).unwrap(), Connection::Waiting);
    machine.machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = false);
    machine.with_peers(|peers| {
        peers.settle();
        assert_eq!(peers.guests[&WEB].found.len(), 3);
    });
    detach_all(&machine).unwrap();
    assert_eq!(pool_states(&machine), all("free"));
}

#[test]
fn a_destroyed_guest_leaves_free_devices() {
    let machine = with_pool();
    attach(&machine.host, &request("web", &ALL)).unwrap();
    machine.with_peers(|peers| {
        peers.destroy(WEB);
        peers.settle();
    });
    assert_eq!(reclaim(&machine.host).unwrap().len(), 1);
    assert_eq!(pool_states(&machine), all("free"));
    assert_eq!(machine.read("/local/domain/3/backend/pci/5/0/state"), None);
    machine.machine.assert_no_violations();
}

#[test]
fn a_backend_directory_that_somebody_removed_does_not_hold_up_a_detach() {
    let machine = with_pool();
    let before = nodes(&machine);
    attach(&machine.host, &request("web", &ALL)).unwrap();
    machine.with_peers(|peers| {
        peers.tool.change(|store| store.remove("/local/domain/3/backend/pci/5"));
        peers.settle();
        assert_eq!(peers.guests[&WEB].found.len(), 3, "nobody has told the guest");
    });
    assert_eq!(pool_states(&machine), all("free"));
    detach_all(&machine).unwrap();
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 0));
    assert_eq!(nodes(&machine), before);
    assert_eq!(attach(&machine.host, &request("web", &ALL)).unwrap(), Connection::Connected);
    machine.machine.assert_no_violations();
}

#[test]
fn a_device_that_was_busy_when_its_guest_died_is_free_after_its_reset() {
    let machine = with_pool();
    attach(&machine.host, &request("web", &ALL)).unwrap();
    let mut config = machine.machine.config(EDU);
    config.set_word(4, config.word(4) | 4);
    machine.machine.tree.write(format!("bus/pci/devices/{EDU}/config"), config.bytes);
    machine.with_peers(|peers| {
        peers.destroy(WEB);
        peers.settle();
    });
    assert_eq!(pool_states(&machine)[1].as_deref(), Some("refused bus mastering is on"));
    reclaim(&machine.host).unwrap();
    assert_eq!(pool_states(&machine), all("free"));
}

/// A pool whose NVMe has MSI-X, a broker that runs, and a guest that has it.
fn with_broker() -> MachineWithStub {
    let machine = MachineWithStub::new();
    machine.give_nvme_vectors();
    assignable::add(&machine.host, &ALL.map(device), "pcidom").unwrap();
    machine.with_peers(|peers| peers.broker.start());
    attach(&machine.host, &request("web", &ALL)).unwrap();
    machine
}

/// The guest's driver turns bus mastering and two vectors on; the answers' errors, `None` where there is none.
fn drive(machine: &MachineWithStub) -> [Option<i32>; 2] {
    machine.with_peers(|peers| {
        let ids = 0x10d3_8086;
        assert!(peers.guests[&WEB].found.iter().all(|(_, found)| *found == ids), "{:?}", peers.guests[&WEB].found);
        let (place, _) = peers.guests[&WEB].found[2];
        let master = Request::conf_write(place, 4, 2, 0x0006);
        let vectors = Request { value: 2, ..Request::new(Command::EnableMsix, place) };
        let entries = [3, 0].map(|entry| MsixEntry { vector: 0xffff, entry });
        [(master, &entries[..0]), (vectors, &entries)].map(|(request, entries)| {
            peers.guests[&WEB].publish_with_entries(&request, entries);
            peers.settle();
            peers.guests[&WEB].response().map(|response| response.err)
        })
    })
}

/// Nothing is left of what the guest's driver did.
fn assert_quiet(machine: &MachineWithStub) {
    assert_eq!(pool_states(machine), all("free"));
    machine.with_peers(|peers| assert_eq!(peers.xen.pirqs(), []));
    assert!(machine.machine.config(NVME).is_quiesced());
    assert_eq!(machine.read(&DeviceNode::Vectors.of(device(NVME))), None);
    machine.machine.assert_no_violations();
}

#[test]
fn a_guest_drives_what_was_attached_and_leaves_nothing_on_when_it_is_detached() {
    let machine = with_broker();
    assert_eq!(drive(&machine), [Some(0), Some(0)]);
    machine.with_peers(|peers| {
        assert_eq!(
            peers.xen.pirqs().iter().map(|(guest, _, of)| (*guest, *of)).collect::<Vec<_>>(),
            [(WEB, device(NVME)); 2]
        );
    });
    assert!(!machine.machine.config(NVME).is_quiesced());
    assert!(machine.read(&DeviceNode::Vectors.of(device(NVME))).is_some_and(|vectors| vectors.starts_with("msix ")));
    detach_all(&machine).unwrap();
    assert_quiet(&machine);
    assert_eq!(attach(&machine.host, &request("web", &ALL)).unwrap(), Connection::Connected);
    assert_eq!(drive(&machine), [Some(0), Some(0)], "and again");
}

#[test]
fn vectors_that_a_dead_broker_was_at_are_cleared_away_by_the_next_command() {
    for fault in [Fault::DIE_BEFORE, Fault::DIE_AFTER, Fault::Signal(Signal::Kill, Moment::Call(10))] {
        for guest_dies in [false, true] {
            let machine = with_broker();
            // The first request makes fewer calls.
            let none = Fault::Signal(Signal::Stop, Moment::Call(1000));
            machine.with_peers(|peers| peers.broker.faults.extend([none, fault]));
            assert_eq!(drive(&machine), [Some(0), None], "{fault:?}");
            machine.with_peers(|peers| assert!(!peers.broker.is_running()));
            if guest_dies {
                machine.with_peers(|peers| {
                    peers.destroy(WEB);
                    peers.settle();
                });
                reclaim(&machine.host).unwrap();
            } else {
                machine.with_peers(|peers| peers.guests[&WEB].give_up());
                detach_all(&machine).unwrap();
            }
            assert_quiet(&machine);
        }
    }
}

#[test]
fn a_guest_without_driver_leaves_no_trace() {
    let machine = with_pool();
    let before = nodes(&machine);
    machine.with_peers(|peers| peers.guests.clear());
    let error = attach(&machine.host, &request("web", &ALL)).unwrap_err();
    assert!(matches!(error, Error::GuestSilent { .. }), "{error}");
    assert_eq!(nodes(&machine), before);
    assert_eq!(pool_states(&machine), all("free"));
    machine.machine.assert_no_violations();
}

fn detach_some(machine: &MachineWithStub, names: &[&str], force: bool) -> Result<(), Error> {
    let devices = names.iter().map(|name| device(name)).collect();
    let request = detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force };
    detach(&machine.host, &request, &reclaim(&machine.host)?)
}

#[test]
fn devices_come_and_go_while_the_guest_uses_others() {
    let machine = with_pool();
    let before = nodes(&machine);
    attach(&machine.host, &request("web", &[E1000])).unwrap();
    let with_one = nodes(&machine);
    assert_eq!(attach(&machine.host, &request("web", &[EDU, NVME])).unwrap(), Connection::Connected);
    assert_eq!(pool_states(&machine), all("assigned 5"));
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 3));
    detach_some(&machine, &[EDU, NVME], false).unwrap();
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 1));
    assert_eq!(nodes(&machine), with_one);
    attach(&machine.host, &request("web", &[NVME])).unwrap();
    detach_some(&machine, &[E1000], false).unwrap();
    attach(&machine.host, &request("web", &[EDU])).unwrap();
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 2));
    detach_some(&machine, &[EDU, NVME], false).unwrap();
    assert_eq!(pool_states(&machine), all("free"));
    assert_eq!(nodes(&machine), before);
    machine.machine.assert_no_violations();
}

#[test]
fn devices_that_are_added_while_the_guest_is_paused_are_there_when_it_runs() {
    let machine = with_pool();
    super::pause(&machine.machine, WEB);
    for name in ALL {
        assert_eq!(attach(&machine.host, &request("web", &[name])).unwrap(), Connection::Waiting);
    }
    detach_some(&machine, &[EDU], false).unwrap();
    machine.machine.with(|world| world.domains.get_mut(&WEB).unwrap().paused = false);
    machine.with_peers(|peers| {
        peers.settle();
        assert_eq!(peers.guests[&WEB].found.len(), 2);
    });
    detach_some(&machine, &[E1000, NVME], false).unwrap();
    assert_eq!(pool_states(&machine), all("free"));
    machine.machine.assert_no_violations();
}

#[test]
fn a_guest_that_does_not_answer_keeps_what_it_has_or_loses_it_by_force() {
    let machine = with_pool();
    attach(&machine.host, &request("web", &[E1000, EDU])).unwrap();
    let before = nodes(&machine);
    let guest = machine.with_peers(|peers| peers.guests.remove(&WEB).unwrap());
    assert!(matches!(attach(&machine.host, &request("web", &[NVME])).unwrap_err(), Error::GuestSilent { .. }));
    assert_eq!(nodes(&machine), before);
    assert!(matches!(detach_some(&machine, &[EDU], false).unwrap_err(), Error::GuestSilent { .. }));
    assert_eq!(nodes(&machine), before);
    detach_some(&machine, &[EDU], true).unwrap();
    assert_eq!(pool_states(&machine)[1].as_deref(), Some("free"));
    machine.with_peers(|peers| {
        peers.guests.insert(WEB, guest);
        peers.settle();
    });
    attach(&machine.host, &request("web", &[NVME])).unwrap();
    machine.with_peers(|peers| assert_eq!(peers.guests[&WEB].found.len(), 2));
    machine.machine.assert_no_violations();
}
