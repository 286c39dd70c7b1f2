//! XSA-337 (CVE-2020-25595): Xen read MSI and MSI-X registers back from the device and believed them, where a guest could have had them changed.
//!
//! Ours: limits are those of the list that was made when the device was attached, and the place of the table is what dom0's kernel says. What the device says later
//! opens nothing.

use pciback::platform::Width;
use pciif::Command;
use sim::tool::ecam;

use super::{ATTACKER, MINE, V, ask, command, enable_msi, vectors, world};

#[test]
fn a_device_that_claims_more_later_gets_no_more() {
    let mut world = world(); // MSI for 8, MSI-X with 16 entries
    world.xen.with_function(ecam(MINE), |card| {
        card.write_register(0x52, Width::Word, 0x008a); // 32 messages
        card.write_register(0x62, Width::Word, 0x07ff); // 2048 entries
    });
    assert_eq!(ask(&mut world, &enable_msi(16)).err, -5);
    assert_eq!(ask(&mut world, &enable_msi(32)).err, -5);
    for entries in [&[16][..], &[100], &[2047], &[0, 1, 127]] {
        assert_eq!(world.ask_msix(ATTACKER, V, entries).0.map(|answer| answer.err), Some(-5), "{entries:?}");
    }
    assert_eq!(vectors(&world), 0);
    assert_eq!(ask(&mut world, &enable_msi(8)).err, 0, "what it had is still there");
    assert_eq!(command(&mut world, Command::DisableMsi).err, 0);
    assert_eq!(world.ask_msix(ATTACKER, V, &[0, 15]).1.len(), 2);
}

#[test]
fn a_capability_that_went_elsewhere_gets_no_writes() {
    let mut world = world();
    // The lists lead elsewhere now: the header of MSI-X stands where a device's own register was.
    world.xen.with_function(ecam(MINE), |card| {
        card.write_register(0x51, Width::Byte, 0x90);
        card.write(0x90, 0x000f_0011);
        card.write(0x60, 0x0000_0009);
    });
    let elsewhere = |world: &sim::World| world.xen.with_function(ecam(MINE), |card| card.read(0x90, Width::Dword));
    let before = elsewhere(&world);
    let _ = world.ask_msix(ATTACKER, V, &[0]);
    let _ = command(&mut world, Command::DisableMsix);
    assert_eq!(elsewhere(&world), before);
}
