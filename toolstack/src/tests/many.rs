//! Hosts with more devices than one message of xenstored has names for.

use super::{TIMEOUT, request};
use crate::cli::list;
use crate::error::Error;
use crate::fake::{E1000, EDU, MachineWithStub, NVME, device};
use crate::ops::assignable;
use crate::ops::attach::attach;
use crate::ops::connect::Connection;
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;
use pcidom_abi::paths;
use xen_types::Sbdf;
use xenstored::Flavour;

const ALL: [&str; 3] = [E1000, EDU, NVME];
/// Devices beside those.
const OTHERS: u16 = 400;

fn others() -> impl Iterator<Item = Sbdf> {
    (0..OTHERS).map(|index| {
        let [devfn, bus] = index.to_le_bytes();
        Sbdf::from_devfn(0, 0x40 + bus, devfn)
    })
}

/// A machine whose table has 400 devices besides, which wait for a backend that is not there.
fn machine(flavour: Flavour) -> MachineWithStub {
    let machine = MachineWithStub::new();
    machine.with_peers(|peers| {
        peers.xen.store().set_flavour(flavour);
        peers.tool.change(|store| {
            others().try_for_each(|device| store.write(&format!("{}/backend", paths::device_dir(device)), "elsewhere"))
        });
    });
    machine
}

#[test]
fn every_command_works_with_400_devices_in_the_table_on_either_xenstored() {
    for flavour in [Flavour::Xenstored, Flavour::Oxenstored] {
        let machine = machine(flavour);
        let host = &machine.host;
        let devices = ALL.map(device).to_vec();
        assignable::add(host, &devices, "pcidom").unwrap();
        assert_eq!(list::assignable(host).unwrap().len(), ALL.len(), "{flavour:?}");
        assert_eq!(attach(host, &request("web", &ALL)).unwrap(), Connection::Connected, "{flavour:?}");
        assert_eq!(list::devices(host, Some("web")).unwrap().len(), ALL.len(), "{flavour:?}");
        let reclaimed = reclaim(host).unwrap();
        let take = detach::Request {
            guest: "web".to_owned(),
            backend: None,
            devices: devices.clone(),
            timeout: TIMEOUT,
            force: false,
        };
        detach(host, &take, &reclaimed).unwrap();
        assignable::remove(host, &devices, false).unwrap();
        assert_eq!(host.list(paths::DEVICES).unwrap().len(), usize::from(OTHERS), "{flavour:?}");
        machine.machine.assert_no_violations();
    }
}

#[test]
fn a_pool_that_its_stub_could_not_list_is_full() {
    let machine = MachineWithStub::new();
    // As many as fit with one more.
    machine.with_peers(|peers| {
        peers.tool.change(|store| {
            others().take(314).try_for_each(|device| store.mkdir(&paths::pool_dir(crate::fake::STUB, device)))
        });
    });
    assignable::add(&machine.host, &[device(E1000)], "pcidom").unwrap();
    let error = assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap_err();
    assert!(matches!(error, Error::PoolFull { devices: 315, .. }), "{error}");
    assert_eq!(error.to_string(), "the pool of pcidom (domain 3) has 315 devices, and cannot have more");
    let state = machine.read(&format!("{}/state", paths::pool_dir(crate::fake::STUB, device(E1000))));
    assert_eq!(state.as_deref(), Some("free"));
    machine.machine.assert_no_violations();
}
