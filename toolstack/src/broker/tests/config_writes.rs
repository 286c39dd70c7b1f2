//! Writes to configuration space, as a stub asks for them.

use super::*;
use std::time::Duration;

const PMCSR: u64 = PM + 4;

#[test]
fn a_write_reaches_its_register_and_no_neighbour() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.set_config(NVME, |config| config.set_word(6, 0x1230 | 0x10));
    let before = bench.config(NVME);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, 4, 2, 0xffff, 0x0014), &[]), success(0));
    let after = bench.config(NVME);
    assert_eq!(after.word(4), 0x0017);
    assert_eq!(after.0[..4], before.0[..4]);
    assert_eq!(after.0[6..], before.0[6..]);
    bench.assert_sound();
}

#[test]
fn the_guests_wish_for_intx_outlives_its_vectors() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let intx = |value| conf_write(NVME, 4, 2, value, 0x0400);
    for (before, during, after) in
        [(0, None, 0), (0x400, None, 0x400), (0, Some(0x400), 0x400), (0x400, Some(0), 0), (0, Some(0), 0)]
    {
        assert_eq!(bench.ask(&mut broker, STUB, &intx(before), &[]), success(0));
        bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
        if let Some(during) = during {
            assert_eq!(bench.ask(&mut broker, STUB, &intx(during), &[]), success(0));
        }
        bench.assert_sound();
        // A second set is no new "before".
        bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, NVME), &[]);
        bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsix, NVME), &[]);
        assert_eq!(u32::from(bench.config(NVME).word(4) & INTX_OFF), after, "{before:#x} {during:x?}");
        bench.assert_sound();
    }
}

#[test]
fn a_device_gets_the_time_that_a_power_state_takes() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let clock = || bench.machine.with(|world| world.clock);
    for (state, at_least) in [(3, 10_000), (0, 10_000), (2, 200), (0, 200), (0, 0)] {
        let before = clock();
        assert_eq!(bench.ask(&mut broker, STUB, &conf_write(E1000, PMCSR, 2, state, 3), &[]), success(0));
        let took = clock() - before;
        assert!(took >= Duration::from_micros(at_least) && took < Duration::from_millis(100), "{state}: {took:?}");
        assert_eq!(u32::from(bench.config(E1000).word(PMCSR)) & 3, state);
    }
}

#[test]
fn a_device_that_wakes_has_its_header_again() {
    let bench = Bench::new();
    let process = bench.process();
    // Asleep since before this broker; its reset has taken the addresses.
    bench.set_config(NVME, |config| {
        config.set_word(PMCSR, 0x0103);
        config.set_word(4, 0x0404);
        config.0[0x0c] = 0x10;
        config.0[0x3c] = 23;
    });
    let mut broker = bench.start(&process);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!((config.word(0x10), config.word(0x12), config.word(0x14)), (0, 0xc000, 8), "BAR 0 as in sysfs");
    assert_eq!((config.word(4), config.0[0x0c], config.0[0x3c]), (0x0406, 0x10, 23));
    assert_eq!(config.word(PMCSR), 0x0100);
}

#[test]
fn a_device_that_slept_with_vectors_has_them_again() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1]), &[0, 1]);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 3, 3), &[]), success(0));
    // Its reset takes Enable too.
    bench.set_config(NVME, |config| config.set_word(MSIX + 2, TABLE_ENTRIES - 1));
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]), success(0));
    assert_eq!(*bench.physdev.restored.borrow(), [device(NVME)]);
    bench.assert_sound();
}

#[test]
fn what_is_not_on_the_list_changes_nothing() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.config(NVME).0;
    let denied = refused(ErrorCode::AccessDenied);
    for (offset, size, mask) in [
        (0x10, 4, 0xffff_ffff),    // a BAR
        (0x30, 4, 1),              // the ROM
        (4, 2, 3),                 // decoders
        (6, 2, 0xf900),            // status
        (MSI + 2, 2, 1),           // MSI control
        (MSI + 4, 4, 0xffff_ffff), // message address
        (MSI + 12, 2, 0xffff),     // message data
        (MSIX + 2, 2, 0x8000),     // MSI-X control
        (0x100, 4, 1),             // extended space
    ] {
        let write = conf_write(NVME, offset, size, mask, mask);
        assert_eq!(bench.ask(&mut broker, STUB, &write, &[]), denied, "{offset:#x}");
    }
    let bad = refused(ErrorCode::InvalidOffset);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, 5, 2, 4, 4), &[]), bad);
    assert_eq!(bench.config(NVME).0, before);
}
