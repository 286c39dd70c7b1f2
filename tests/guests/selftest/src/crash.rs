//! Failing on purpose, so that the bench can check the crash dump of a stub that has a bug.

/// Fails the way the command line names; returns when it names none.
pub(crate) fn crash_as_told(command_line: &str) {
    kernel::trace::record("before crash", [1, 2]);
    match command_line.split_whitespace().next() {
        Some("panic") => panic!("told to panic"),
        Some("trap") => write_to(0x1000),
        Some("overflow") => log::info!("{}", overflow(0)),
        _ => {}
    }
}

fn write_to(address: usize) {
    // SAFETY: unsound on purpose: nothing is mapped there, and the domain ends in its trap handler.
    unsafe { (address as *mut u32).write_volatile(0) }
}

/// Uses up the stack.
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 128]);
    if depth == u64::MAX {
        return frame[0];
    }
    overflow(depth + 1).wrapping_add(frame[1])
}
