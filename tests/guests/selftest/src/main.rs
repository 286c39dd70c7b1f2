//! The kernel's self-test image: Xen boots it as its only domain, it tests the platform layer against the real hypervisor and prints
//! a line a case, then `selftest: N passed, N failed`, and reboots (which ends QEMU).
//!
//! With a command line of `case=PARTS` only those run whose names have one of the parts in them, with commas between the parts. With one of `panic`, `trap` or
//! `overflow` it fails in that way instead, so that the bench can read its crash dump.
#![no_std]
#![no_main]

extern crate alloc;

mod cases;
mod check;
mod crash;

use kernel::control::{ShutdownReason, shutdown};

kernel::image!(main);

fn main(info: &'static kernel::BootInfo) -> ! {
    crash::crash_as_told(info.command_line());
    // The parts may have blanks in them.
    let filter = info.command_line().split_once("case=").map_or("", |(_, filter)| filter.trim());
    let is_wanted = |name: &str| filter.split(',').any(|part| name.contains(part));
    // The bench tells from the time stamps of lines how long each case took: the first one needs a line before it.
    log::info!("selftest: {} cases", cases::ALL.len());
    let (mut passed, mut failed) = (0u32, 0u32);
    for (name, case) in cases::ALL.iter().filter(|(name, _)| is_wanted(name)) {
        match case() {
            Ok(()) => {
                passed += 1;
                log::info!("case {name}: ok");
            }
            Err(why) => {
                failed += 1;
                log::info!("case {name}: FAILED {why}");
            }
        }
    }
    log::info!("selftest: {passed} passed, {failed} failed");
    shutdown(ShutdownReason::Reboot)
}
