//! Commands and parts of other releases.

use std::time::Duration;

use super::{TIMEOUT, add_all, attach_to_web, detach_from_web, request};
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, STUB, device};
use crate::ops::assignable;
use crate::ops::attach::{self, attach};
use crate::ops::detach;
use crate::ops::driver_domain::DriverDomain;
use crate::ops::wait::{Awaited, wait};

/// As a stub says it that the commands understand, and as others do.
const FITTING: [&str; 3] = [pcidom_abi::ANNOUNCEMENT, "7.0.0 contract 1", "0.0.9"];
const OTHERS: [&str; 3] = ["0.0.1 contract 0", "7.0.0 contract 2", "7.0.0 contract new"];

fn announce(machine: &Machine, version: &str) {
    machine.with(|world| world.write(&pcidom_abi::paths::version_node(STUB), version));
}

fn force(devices: &[&str]) -> detach::Request {
    let devices = devices.iter().map(|name| device(name)).collect();
    detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: true }
}

#[track_caller]
fn assert_refused<T>(outcome: Result<T, Error>, version: &str) {
    let error = outcome.err().unwrap_or_else(|| panic!("{version} is not refused"));
    assert!(matches!(error, Error::OtherVersion { .. }), "{version}: {error}");
    assert_eq!(error.code(), "E_OTHER_VERSION");
    let release = version.split(' ').next().unwrap();
    let told = error.to_string();
    assert!(told.contains(release) && told.contains(env!("CARGO_PKG_VERSION")) && error.hint().is_some(), "{told}");
}

#[test]
fn a_stub_of_the_same_contract_is_worked_with_whatever_its_release() {
    for version in FITTING {
        let machine = Machine::new();
        announce(&machine, version);
        add_all(&machine);
        attach_to_web(&machine, &[EDU]).unwrap();
        detach_from_web(&machine, &[EDU]).unwrap();
        assignable::remove(&machine.host, &[device(EDU)], false).unwrap();
        machine.assert_no_violations();
    }
}

#[test]
fn a_stub_of_another_contract_is_left_alone_and_both_are_told() {
    for version in OTHERS {
        let machine = Machine::new();
        assignable::add(&machine.host, &[E1000, EDU].map(device), "pcidom").unwrap();
        attach_to_web(&machine, &[EDU]).unwrap();
        announce(&machine, version);
        let before = machine.dump();
        assert_refused(attach(&machine.host, &request("web", &[E1000])), version);
        assert_refused(attach::plan(&machine.host, &request("web", &[E1000])), version);
        assert_refused(detach_from_web(&machine, &[EDU]), version);
        assert_refused(assignable::add(&machine.host, &[device(NVME)], "pcidom"), version);
        assert_refused(assignable::remove(&machine.host, &[device(E1000)], false), version);
        let ready = Awaited::Ready { backend: "pcidom".to_owned() };
        assert_refused(wait(&machine.host, &ready, Duration::from_secs(1)), version);
        machine.dump().assert_same(&before, version);
        // What is shown is shown all the same.
        let status = crate::cli::status::status(&machine.host, "pcidom").unwrap();
        assert!(status.text().contains(version.split(' ').next().unwrap()), "{}", status.text());
        // The way out where the guest cannot be ended.
        detach::detach(&machine.host, &force(&[EDU]), &[]).unwrap();
        machine.assert_no_violations();
    }
}

#[test]
fn a_driver_domain_of_another_contract_is_replaced_when_nobody_uses_it() {
    for version in OTHERS {
        let machine = Machine::new();
        let config = machine.tree.path().join("pcidom.cfg");
        std::fs::write(&config, "name = 'pcidom'\n").unwrap();
        let domain = DriverDomain { config, name: "pcidom".to_owned() };
        add_all(&machine);
        attach_to_web(&machine, &[EDU]).unwrap();
        announce(&machine, version);
        let before = machine.dump();
        assert_refused(domain.create(&machine.host), version);
        machine.dump().assert_same(&before, version);
        assert_refused(domain.await_ready(&machine.host), version);
        let said = machine.with(|world| world.notes.join("\n"));
        assert!(said.contains("serves 0000:00:06.0 to web (domain 5)"), "{said}");
        announce(&machine, pcidom_abi::ANNOUNCEMENT);
        detach_from_web(&machine, &[EDU]).unwrap();
        announce(&machine, version);
        domain.create(&machine.host).unwrap();
        assert_ne!(domain.await_ready(&machine.host).unwrap().id, STUB);
    }
}
