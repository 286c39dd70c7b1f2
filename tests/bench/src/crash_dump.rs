//! Crash dumps: the self-test image is made to fail in each way and its console is checked.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    qemu::{Line, Logs, Machine},
    tally::Tally,
};

/// What Xen says last. Then it waits five seconds and restarts the machine, which nobody needs.
const CRASHED: &str = "Hardware Dom0 crashed";

/// A run takes seconds.
const LIMIT: Duration = Duration::from_secs(40);

/// How it is to fail (the self-test's command line), and what must stand on the console, in this order.
const FAILURES: [(&str, &[&str]); 3] = [
    ("panic", &["PANIC at tests/guests/selftest/src/crash.rs:", "before crash", CRASHED]),
    ("trap", &["error 0x2, address 0x1000", "before crash", CRASHED]),
    // Xen cannot deliver the fault, for there is no stack to deliver it on: the page below the stack is not there.
    ("overflow", &["Fault while accessing guest memory", CRASHED]),
];

/// The names of these cases.
pub(crate) fn cases() -> Vec<String> {
    FAILURES.iter().map(|(failure, _)| name(failure)).collect()
}

fn name(failure: &str) -> String {
    format!("crash dump: {failure}")
}

/// Runs `machine`, whose first module is the self-test, once for each of these cases. Consoles go to `dir`.
pub(crate) fn run(machine: &mut Machine, cases: &[String], dir: &Path, verbose: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    for (failure, expected) in FAILURES.into_iter().filter(|(failure, _)| cases.contains(&name(failure))) {
        let started = Instant::now();
        if let Some((_, options)) = machine.modules.first_mut() {
            failure.clone_into(options);
        }
        let mut missing = expected.iter().peekable();
        let logs = Logs {
            serial: dir.join(format!("{failure}.log")),
            report: None,
            until: Some(CRASHED),
            on_line: &mut |line| {
                if let Line::Serial(line) = line
                    && missing.peek().is_some_and(|text| line.contains(**text))
                {
                    missing.next();
                }
            },
        };
        let ended = machine.run(LIMIT, verbose, logs).map(drop);
        let seconds = started.elapsed().as_secs_f64();
        let verdict = match (missing.next(), ended) {
            (Some(text), _) => format!("FAILED ({seconds:.1} s): no {text:?} on the console"),
            (None, Err(error)) => format!("FAILED ({seconds:.1} s): {error:#}"),
            (None, Ok(())) => format!("ok ({seconds:.1} s)"),
        };
        println!("case {} ... {verdict}", name(failure));
        tally += Tally::of_verdict(&verdict);
    }
    Ok(tally)
}
