//! Whether an assigned function answers, and when one that does not is looked at again.

/// What a guest waits for after it has started a function level reset, and so the earliest time at which anybody looks at the function again
/// (PCIe 5.0 §6.6.2).
const RESET_NS: u64 = 100_000_000;
/// Resets of one function that a guest has at once; after that the function comes back as late as the pace below demands.
const FREE_RESETS: u64 = 5;
/// The pace of resets after these: each has the broker write the function's configuration anew.
const PACE_NS: u64 = 1_000_000_000;
/// Until the broker is asked once more that is not there.
const ASK_AGAIN_NS: u64 = 1_000_000_000;
/// Looks at a function that has stopped answering by itself before it is called absent, which is after 1.1 s: at 10 ms, 100 ms and 1 s, and once more.
const LOOKS: u8 = 4;
/// Looks at a function that is being reset before it is called absent, which is after 15 s: some take seconds.
const LOOKS_AFTER_RESET: u8 = 7;

/// Whether a function answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It does.
    Here,
    /// Not now: it reads as ones, and is looked for.
    Away(Away),
    /// Not any more until it is given back, even if something answers: that may be another.
    Gone,
}

/// A function that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Away {
    /// What is next.
    pub(crate) next: Next,
    /// When, by the platform's clock.
    pub(crate) at_ns: u64,
    /// How often it was looked at in vain.
    looks: u8,
    /// How often it may be, before it is called absent.
    patience: u8,
}

/// What is to be done for a function that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is to be reset: its guest has asked for that.
    Reset,
    /// It is looked at, and has what it lost written back if it answers.
    Look,
}

impl Presence {
    /// Whether its guest's requests are served.
    #[inline(always)] // a part of each read
    pub(crate) const fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }

    /// Whether it is called absent: toolstack and guest are told.
    pub(crate) const fn is_absent(&self) -> bool {
        match self {
            Self::Here => false,
            Self::Away(away) => away.looks >= away.patience,
            Self::Gone => true,
        }
    }
}

impl Away {
    /// It does not answer any more.
    pub(crate) fn lost(now_ns: u64) -> Self {
        let mut away = Self { next: Next::Look, at_ns: now_ns, looks: 0, patience: LOOKS };
        away.look_later(now_ns);
        away
    }

    /// Its guest wants it reset, and the broker is asked for that.
    pub(crate) const fn to_be_reset(now_ns: u64) -> Self {
        Self { next: Next::Reset, at_ns: now_ns.saturating_add(ASK_AGAIN_NS), looks: 0, patience: LOOKS_AFTER_RESET }
    }

    /// It was reset just now. `paid_ns` is the function's account of resets: the time up to which those that it had are paid for.
    pub(crate) fn since_reset(now_ns: u64, paid_ns: &mut u64) -> Self {
        *paid_ns = (*paid_ns).max(now_ns).saturating_add(PACE_NS);
        let at_ns = paid_ns.saturating_sub(FREE_RESETS * PACE_NS).max(now_ns.saturating_add(RESET_NS));
        Self { next: Next::Look, at_ns, looks: 0, patience: LOOKS_AFTER_RESET }
    }

    /// It did not answer, or what it lost could not be written back: the next look is later each time, up to a minute.
    pub(crate) fn look_later(&mut self, now_ns: u64) {
        self.looks = self.looks.saturating_add(1);
        let wait_ns = match self.looks {
            1 => 10_000_000,
            2 => 100_000_000,
            looks => PACE_NS << (looks - 3).min(6),
        };
        self.at_ns = now_ns.saturating_add(wait_ns);
    }

    /// The broker is not there.
    pub(crate) const fn ask_later(&mut self, now_ns: u64) {
        self.at_ns = now_ns.saturating_add(ASK_AGAIN_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_function_is_looked_for_soon_and_then_ever_less_often() {
        let mut away = Away::since_reset(0, &mut 0);
        let mut waits = vec![away.at_ns / MS];
        for _ in 0..12 {
            let now_ns = away.at_ns;
            away.look_later(now_ns);
            waits.push((away.at_ns - now_ns) / MS);
        }
        assert_eq!(waits, [100, 10, 100, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 64000, 64000, 64000]);
    }

    #[test]
    fn one_that_was_reset_is_called_absent_after_fifteen_seconds() {
        let mut away = Away::since_reset(0, &mut 0);
        while !Presence::Away(away).is_absent() {
            let now_ns = away.at_ns;
            away.look_later(now_ns);
            assert!(now_ns < 16_000 * MS);
        }
        assert!(away.at_ns > 15_000 * MS);
        assert!(Presence::Gone.is_absent() && !Presence::Here.is_absent());
    }

    #[test]
    fn one_that_stops_answering_is_called_absent_after_a_second() {
        let mut away = Away::lost(0);
        let mut at = Vec::new();
        while !Presence::Away(away).is_absent() {
            at.push(away.at_ns / MS);
            away.look_later(away.at_ns);
        }
        assert_eq!(at, [10, 110, 1110]);
    }

    #[test]
    fn resets_in_a_loop_are_one_a_second_after_the_first_ones() {
        let (mut paid_ns, mut now_ns) = (0, 7 * MS);
        let mut took = Vec::new();
        for _ in 0..8 {
            let back_ns = Away::since_reset(now_ns, &mut paid_ns).at_ns;
            took.push((back_ns - now_ns) / MS);
            now_ns = back_ns;
        }
        assert_eq!(took[..5], [100; 5]);
        assert_eq!(took[6..], [1000; 2]);
        let rested_ns = now_ns + 10_000 * MS;
        assert_eq!(Away::since_reset(rested_ns, &mut paid_ns).at_ns, rested_ns + 100 * MS);
        // Whatever the clock says.
        assert_eq!(Away::since_reset(u64::MAX, &mut u64::MAX.clone()).at_ns, u64::MAX);
    }
}
