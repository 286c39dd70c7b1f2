//! What a stub answers when it is asked how it is (`docs/xenstore.md`, "The stub's statistics"): one line of decimal numbers, of which
//! the first is the number of the question.

/// The names of the others, in their order. A later version may append some and changes none.
pub const NAMES: [&str; COUNT] = [
    "uptime_ns",
    "heap_used",
    "heap_peak",
    "heap_total",
    "windows",
    "ports",
    "grants",
    "watches",
    "transactions",
    "alarms",
    "questions",
    "frontends",
    "devices",
    "events",
    "reads",
    "writes",
    "dropped_writes",
    "no_device",
    "bad_accesses",
    "denied_writes",
    "no_broker",
    "interrupts_enabled",
    "interrupts_refused",
    "interrupts_disabled",
    "unknown_commands",
    "broker_timeouts",
];

/// How many there are.
pub const COUNT: usize = 26;
