//! XSA-237 (CVE-2017-15590): setting up MSI was not checked as it should be: domains could have vectors mapped for themselves, of devices and of numbers that were not theirs.
//!
//! Xen has closed that, and asks dom0 alone. Ours: a guest has vectors of its own device only, as many as the device can and a power of two of MSI, and the broker maps them for the
//! guest that has the device and for no other.

use pciif::{Command, Request};
use xen_types::Sbdf;

use super::{ATTACKER, MINE, OTHER, THEIRS, V, ask, enable_msi, registers, vectors, world};

#[test]
fn vectors_of_other_devices_are_not_to_be_had() {
    let mut world = world();
    let before = registers(&world, THEIRS);
    // Real addresses, other virtual ones, and numbers that are no function.
    let places = [(0, u32::from(THEIRS.bus()), THEIRS.devfn().into()), (0, 3, 0), (0, 0, 8), (0, 0, 0x100), (1, 0, 0)];
    for (domain, bus, devfn) in places.into_iter().chain([(0x1_0000, 0, 0), (0, 0x100, 0), (u32::MAX, 0, 0)]) {
        for command in [Command::EnableMsi, Command::EnableMultiMsi, Command::EnableMsix, Command::DisableMsi] {
            let request = Request { domain, bus, devfn, value: 1, info: 2, ..Request::new(command, V) };
            assert_eq!(ask(&mut world, &request).err, -1, "{request}");
        }
    }
    assert_eq!((vectors(&world), world.broker.log.iter().filter(|(_, device)| *device != MINE).count()), (0, 0));
    assert_eq!(registers(&world, THEIRS), before);
}

#[test]
fn no_more_and_no_other_numbers_than_the_device_has() {
    let mut world = world(); // MSI for 8
    for count in [0, 3, 5, 6, 7, 9, 16, 32, 33, 64, 0x100, 1 << 31, u32::MAX] {
        assert_eq!(ask(&mut world, &enable_msi(count)).err, -5, "{count}");
        assert_eq!(vectors(&world), 0);
    }
    for count in [1, 2, 4, 8] {
        assert_eq!(ask(&mut world, &enable_msi(count)).err, 0, "{count}");
        assert_eq!(u32::try_from(vectors(&world)), Ok(count));
        ask(&mut world, &Request::new(Command::DisableMsi, V));
    }
}

#[test]
fn vectors_are_the_guests_that_has_the_device() {
    let mut world = world();
    // Both see their device at the same address.
    for (guest, device) in [(ATTACKER, MINE), (OTHER, THEIRS)] {
        let answer = world.ask(guest, &Request::new(Command::EnableMsi, V)).expect("an answer");
        assert_eq!(answer.err, 0);
        let theirs: Vec<Sbdf> =
            world.xen.pirqs().into_iter().filter(|(owner, ..)| *owner == guest).map(|(.., device)| device).collect();
        assert_eq!(theirs, [device]);
    }
}
