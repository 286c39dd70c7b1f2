//! Panic handler: writes a crash dump to the console and ends the domain as crashed, so that `on_crash=` of its
//! configuration applies.

use crate::control::{ShutdownReason, shutdown};
use crate::culprit::culprit;
use crate::{clock, console, survivor, trace};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

/// How long the console may take to print the crash dump.
const PATIENCE_NS: u64 = 200_000_000;

/// A panic is being handled: another one meanwhile is the end.
static IS_PANICKING: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    /// The entry of a restart in place (`entry.rs`).
    fn _restart() -> !;
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if IS_PANICKING.swap(true, Ordering::Relaxed) {
        shutdown(ShutdownReason::Crash);
    }
    log::set_max_level(log::LevelFilter::Info);
    console::break_lock();
    let (file, line) = info.location().map_or(("?", 0), |place| (place.file(), place.line()));
    plain_log::error!("PANIC at {file}:{line}: {}", info.message());
    // An image that crashes where it is told to puts no frontend aside.
    let culprit = if cfg!(feature = "faults") { None } else { culprit() };
    // Without a wait: frontends wait.
    if survivor::crashed(clock::now_ns(), culprit, format_args!("{file}:{line}: {}", info.message())) {
        say_trace(false);
        plain_log::warning!("restarting in place");
        // SAFETY: the entry code makes stack and data new; what is left of this life is what `survivor` and the fixmap's records say, which the
        // new one takes over. No code of this life runs again.
        unsafe { _restart() };
    }
    crash_dump();
}

/// Prints the trace buffer and ends the domain as crashed.
pub(crate) fn crash_dump() -> ! {
    say_trace(true);
    console::flush(PATIENCE_NS);
    shutdown(ShutdownReason::Crash)
}

#[inline(never)] // its callers are two
fn say_trace(waits: bool) {
    trace::for_each(|entry| {
        if waits {
            console::flush(PATIENCE_NS);
        }
        let ([a, b], time_us) = (entry.values, clock::at_ns(entry.ticks) / 1000);
        plain_log::error!("  {time_us:>10} us {:<12} {a:#x} {b:#x} x{}", entry.what, entry.count);
    });
}
