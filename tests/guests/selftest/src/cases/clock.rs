//! Time.

use crate::check::{Outcome, check, check_eq, ok};
use kernel::timer::Timer;
use kernel::{clock, events};

const MS: u64 = 1_000_000;

/// Sleeps without listening to anything.
fn sleep_until(deadline_ns: u64) -> Result<(), xen_types::Errno> {
    while clock::now_ns() < deadline_ns {
        events::wait(&[], Some(deadline_ns))?;
    }
    Ok(())
}

pub(super) fn runs() -> Outcome {
    let mut last = clock::now_ns();
    check!(last > 0, "the clock stands at 0");
    for _ in 0..10_000 {
        let now = clock::now_ns();
        check!(now >= last, "went back from {last} to {now}");
        last = now;
    }
    // Xen wakes us by its own clock: ours agrees if neither much less nor much more has passed.
    let start = clock::now_ns();
    ok!(events::wait(&[], Some(start + 50 * MS)));
    let passed = clock::now_ns() - start;
    check!((49 * MS..2_000 * MS).contains(&passed), "a sleep of 50 ms took {passed} ns");
    Ok(())
}

pub(super) fn timer() -> Outcome {
    let timer = ok!(Timer::bind());
    let deadline = clock::now_ns() + 5 * MS;
    ok!(timer.set(deadline));
    ok!(events::wait(&[timer.port()], Some(deadline + 5_000 * MS)));
    check!(clock::now_ns() >= deadline, "fired early");
    check!(events::clear(timer.port()), "fired");
    ok!(timer.set(clock::now_ns() + 5 * MS));
    ok!(timer.cancel());
    ok!(sleep_until(clock::now_ns() + 20 * MS));
    check!(!events::is_pending(timer.port()), "fired though it was cancelled");
    Ok(())
}

pub(super) fn no_periodic_timer() -> Outcome {
    let timer = ok!(Timer::bind());
    ok!(sleep_until(clock::now_ns() + 50 * MS));
    check_eq!(events::is_pending(timer.port()), false);
    Ok(())
}
