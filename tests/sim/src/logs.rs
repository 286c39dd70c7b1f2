//! Log lines of the current test, kept per thread because each test has a thread.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{}: {}", record.level(), record.args());
        LINES.with(|lines| lines.borrow_mut().push(line));
    }

    fn flush(&self) {}
}

/// Begins to collect what is logged at this level or a graver one.
pub fn collect(level: log::LevelFilter) {
    static ONCE: Once = Once::new();
    // A logger that is there already is ours, or the test is about something else.
    ONCE.call_once(|| drop(log::set_logger(&Collector)));
    if log::max_level() < level {
        log::set_max_level(level);
    }
    take();
}

/// The lines since the last call.
pub fn take() -> Vec<String> {
    LINES.with(|lines| std::mem::take(&mut *lines.borrow_mut()))
}
