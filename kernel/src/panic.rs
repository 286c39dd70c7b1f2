//! Panic handler: writes a crash dump to the console and ends the domain as crashed, so that `on_crash=` of its
//! configuration applies.

use crate::control::{ShutdownReason, shutdown};
use crate::{clock, console, trace};
use core::panic::PanicInfo;

/// How long the console may take to print the crash dump.
const PATIENCE_NS: u64 = 200_000_000;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    log::set_max_level(log::LevelFilter::Info);
    console::break_lock();
    match info.location() {
        Some(place) => log::error!("PANIC at {}:{}: {}", place.file(), place.line(), info.message()),
        None => log::error!("PANIC: {}", info.message()),
    }
    crash_dump();
}

/// Prints the trace buffer and ends the domain as crashed.
pub(crate) fn crash_dump() -> ! {
    trace::for_each(|entry| {
        console::flush(PATIENCE_NS);
        let ([a, b], time_us) = (entry.values, clock::at_ns(entry.ticks) / 1000);
        log::error!("  {time_us:>10} us {:<12} {a:#x} {b:#x} x{}", entry.what, entry.count);
    });
    console::flush(PATIENCE_NS);
    shutdown(ShutdownReason::Crash)
}
