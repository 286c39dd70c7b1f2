//! `pcidom wait`.

use std::time::Duration;

use super::{add_all, attach_to_web, attached};
use crate::error::{Error, ExitCause};
use crate::fake::{E1000, EDU, Machine, NVME, STUB, device};
use crate::ops::wait::{Awaited, wait};

const SECONDS: Duration = Duration::from_secs(20);

fn free(devices: &[&str]) -> Awaited {
    Awaited::Free { devices: devices.iter().map(|text| device(text)).collect() }
}

fn used(devices: &[&str]) -> Awaited {
    Awaited::Attached { guest: "web".to_owned(), devices: devices.iter().map(|text| device(text)).collect() }
}

fn ready() -> Awaited {
    Awaited::Ready { backend: "pcidom".to_owned() }
}

#[test]
fn what_is_as_it_should_be_is_not_waited_for() {
    let machine = attached();
    for awaited in [ready(), used(&[E1000, EDU, NVME])] {
        wait(&machine.host, &awaited, Duration::ZERO).unwrap();
    }
    let machine = Machine::new();
    add_all(&machine);
    let before = machine.dump();
    wait(&machine.host, &free(&[E1000, NVME]), Duration::ZERO).unwrap();
    machine.dump().assert_same(&before, "watches too");
}

#[test]
fn what_does_not_come_is_told_with_its_time() {
    let machine = attached();
    machine.with(|world| world.write("/local/domain/5/device/pci/0/state", "7"));
    for (awaited, want) in [
        (free(&[E1000]), "not all are free in a pool: 0000:00:05.0, after 20 s"),
        (free(&["00:09.0"]), "not all are free in a pool: 0000:00:09.0, after 20 s"),
        (Awaited::Ready { backend: "other".to_owned() }, "the backend other is not ready, after 20 s"),
        (
            Awaited::Attached { guest: "nobody".to_owned(), devices: vec![device(EDU)] },
            "nobody does not use all of 0000:00:06.0, after 20 s",
        ),
    ] {
        let began = machine.with(|world| world.clock);
        let error = wait(&machine.host, &awaited, SECONDS).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert_eq!((error.cause(), error.code()), (ExitCause::GuestSilent, "E_NOT_IN_TIME"));
        machine.with(|world| assert_eq!(world.clock - began, SECONDS));
    }
}

#[test]
fn what_comes_later_ends_the_wait() {
    let machine = Machine::new();
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.with(|world| {
        world.write("/local/domain/5/device/pci/0/state", "1");
        world.guest.silent = true;
        let until = world.clock + Duration::from_secs(5);
        world.incidents.push(Box::new(move |world| {
            let is_time = world.clock >= until;
            if is_time {
                world.write("/local/domain/5/device/pci/0/state", "4");
            }
            is_time
        }));
    });
    wait(&machine.host, &used(&[EDU]), SECONDS).unwrap();
    assert!(wait(&machine.host, &used(&[EDU, NVME]), SECONDS).is_err(), "both are wanted");
    let version = machine.with(|world| {
        let version = world.value("/local/domain/3/data/pcidom/version").unwrap().to_owned();
        world.remove("/local/domain/3/data/pcidom/version");
        version
    });
    machine.with(|world| {
        let until = world.clock + Duration::from_secs(5);
        world.incidents.push(Box::new(move |world| {
            let is_time = world.clock >= until;
            if is_time {
                world.write(&format!("/local/domain/{STUB}/data/pcidom/version"), &version);
            }
            is_time
        }));
    });
    wait(&machine.host, &ready(), SECONDS).unwrap();
}

#[test]
fn a_signal_ends_it() {
    let machine = Machine::new();
    machine.with(|world| world.signal = Some(2));
    assert!(matches!(wait(&machine.host, &free(&[EDU]), SECONDS), Err(Error::Interrupted(_))));
}
