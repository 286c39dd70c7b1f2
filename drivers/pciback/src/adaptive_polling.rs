//! Adaptive polling: whether to poll for the next request before going to sleep.
//!
//! Requests come in bursts, each as soon as the one before is answered. Where the frontend runs on another CPU, finding the next request
//! without having slept saves both of them a wake-up; where it waits for our CPU, each moment that we look is lost. Nothing tells which of the
//! two it is, so it is learnt: looking lasts about as long as the last sleep between two requests did, pays off or not, and after each
//! time that it did not pay off twice as many requests pass before the next attempt. With one CPU that is one attempt in a thousand
//! requests. A stub that sleeps for longer than any attempt may last does not poll at all, so rare requests cost nothing, and an idle
//! backend sleeps.

/// No attempt lasts longer. In ticks of the CPU's counter: a third of a millisecond at 3 GHz.
const LONGEST: u64 = 1 << 20;
/// Requests that pass at most between two attempts.
const MOST_LEFT_OUT: u32 = 1023;

/// State of the adaptation. Times may be in any unit that `LONGEST` is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdaptivePolling {
    /// Duration of the last sleep between requests.
    pause: u64,
    /// Requests that pass after the next miss.
    back_off: u32,
    /// Requests that still pass.
    left_out: u32,
}

impl AdaptivePolling {
    /// Time to poll after requests were answered; 0 for none.
    pub fn spin_budget(&mut self) -> u64 {
        if let Some(left) = self.left_out.checked_sub(1) {
            self.left_out = left;
            return 0;
        }
        // Twice as long as a sleep that includes waking up, which looking does not.
        if self.pause > LONGEST { 0 } else { (2 * self.pause).min(LONGEST) }
    }

    /// Whether it matters how long the sleep that follows will last.
    #[must_use]
    pub const fn has_budget(&self) -> bool {
        self.left_out == 0
    }

    /// Records whether polling found a request.
    pub fn looked(&mut self, has_found: bool) {
        if has_found {
            self.back_off = 0;
        } else {
            self.back_off = (2 * self.back_off + 1).min(MOST_LEFT_OUT);
            self.left_out = self.back_off;
        }
    }

    /// A sleep that followed answered requests was ended by an event after so long. Only the last one before an attempt matters
    /// ([`AdaptivePolling::has_budget`]).
    pub fn slept(&mut self, pause: u64) {
        self.pause = pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves `requests` that each come `gap` after the answer before, or never while it is polled for; returns how long was looked, and how often
    /// that found something.
    fn burst(polling: &mut AdaptivePolling, requests: u32, gap: u64, is_found_by_looking: bool) -> (u64, u32) {
        let (mut looked, mut found) = (0, 0);
        for _ in 0..requests {
            let spin_budget = polling.spin_budget();
            if spin_budget > 0 {
                let has_found = is_found_by_looking && gap <= spin_budget;
                polling.looked(has_found);
                looked += if has_found { gap } else { spin_budget };
                found += u32::from(has_found);
                if has_found {
                    continue;
                }
            }
            if polling.has_budget() {
                polling.slept(gap);
            }
        }
        (looked, found)
    }

    #[test]
    fn with_another_cpu_every_request_but_the_first_is_found_by_looking() {
        let mut polling = AdaptivePolling::default();
        assert_eq!(burst(&mut polling, 1000, 5_000, true), (999 * 5_000, 999));
    }

    #[test]
    fn on_one_cpu_looking_is_given_up_but_for_one_in_a_thousand_requests() {
        let mut polling = AdaptivePolling::default();
        let (at_first, found) = burst(&mut polling, 2048, 5_000, false);
        assert_eq!((at_first, found), (11 * 10_000, 0));
        assert_eq!(burst(&mut polling, 102_400, 5_000, false), (100 * 10_000, 0));
        // Then the frontend moves to a CPU of its own.
        let (_, found) = burst(&mut polling, 2048, 5_000, true);
        assert!(found > 1000, "{found}");
    }

    #[test]
    fn rare_requests_are_not_looked_for() {
        let mut polling = AdaptivePolling::default();
        burst(&mut polling, 100, 5_000, true);
        let (looked, found) = burst(&mut polling, 100, 1_000_000_000, true);
        assert!(looked <= 2 * 10_000 && found == 0, "{looked}, {found}");
    }

    #[test]
    fn the_end_of_a_burst_costs_one_attempt() {
        let mut polling = AdaptivePolling::default();
        burst(&mut polling, 100, 5_000, true);
        let spin_budget = polling.spin_budget();
        polling.looked(false);
        assert_eq!((spin_budget, polling.spin_budget()), (10_000, 0));
    }
}
