//! Notices that the image of a stub hangs, and has it started again (`docs/restart.md`, "Hangs").
//!
//! A stub that sleeps is never woken for it: it is asked something only when Xen says that its processor is busy, by what `pcidom status` asks. One that is
//! given a processor and does not answer hangs; one that is paused, or gets no processor, is only slow.

use std::collections::BTreeMap;
use std::time::Duration;

use dom0::store::Change;
use dom0::{Doing as _, Dom0, Error};
use pcidom_abi::paths;
use xen_types::DomId;
use xenstore::path;

use crate::log::Log;

/// Between two looks. With it a hang is found within 1.6 s: guests wait for two.
const LOOK: Duration = Duration::from_millis(400);
/// A stub is busy that has run for this part of the time between them.
const BUSY_PART: u32 = 4;
/// Looks at which a busy stub has not answered, before it is interrupted. It turns to xenstore every five milliseconds.
const PATIENCE: u32 = 2;
/// For how long one that was interrupted is left alone.
const REST: Duration = Duration::from_secs(5);

/// What is to be done about a stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Nothing,
    Ask,
    /// It has answered: question and answer are taken away.
    Clear,
    Hangs,
}

/// A stub as it was at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    at: Duration,
    /// How long it has run in all.
    ran: Duration,
    is_asked: bool,
    unanswered: u32,
    /// What it said of its restarts when it was asked.
    restarts: Option<String>,
}

impl Seen {
    const fn first(at: Duration, ran: Duration) -> Self {
        Self { at, ran, is_asked: false, unanswered: 0, restarts: None }
    }

    /// Judges by what it has done since the last look.
    fn judge(&mut self, at: Duration, ran: Duration, is_answered: bool) -> Finding {
        let (passed, worked) = (at.saturating_sub(self.at), ran.saturating_sub(self.ran));
        let is_busy = worked.saturating_mul(BUSY_PART) >= passed;
        (self.at, self.ran) = (at, ran);
        if self.is_asked && is_answered {
            *self = Self::first(at, ran);
            return Finding::Clear;
        }
        if !is_busy {
            return Finding::Nothing;
        }
        self.unanswered += u32::from(self.is_asked);
        self.is_asked = true;
        if self.unanswered < PATIENCE { Finding::Ask } else { Finding::Hangs }
    }
}

/// What is known of the stubs that are served.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    stubs: BTreeMap<DomId, Seen>,
    looked: Duration,
}

impl Watchdog {
    /// When to look again.
    pub(crate) fn at(&self) -> Duration {
        self.looked + LOOK
    }

    /// Looks at these stubs, and interrupts those that hang.
    pub(crate) fn look(&mut self, host: &Dom0, stubs: &[DomId], log: &mut Log) -> Result<(), Error> {
        let now = host.elapsed();
        self.looked = now;
        self.stubs.retain(|stub, _| stubs.contains(stub));
        for stub in stubs.iter().copied() {
            let ran = host.hypervisor.run_time(stub).doing(|| format!("asking how long domain {stub} has run"))?;
            let Some(ran) = ran else { continue };
            let seen = self.stubs.entry(stub).or_insert(Seen::first(now, ran));
            // Nothing has passed, or it was interrupted not long ago.
            if seen.at >= now {
                continue;
            }
            let is_answered = seen.is_asked && is_answered(host, stub, seen.restarts.as_ref())?;
            match seen.judge(now, ran, is_answered) {
                Finding::Nothing => {}
                Finding::Ask => {
                    seen.restarts = host.read(&restarts(stub))?;
                    host.commit(&[Change::write(question(stub), "")])?;
                }
                Finding::Clear => clear(host, stub)?,
                Finding::Hangs => {
                    *seen = Seen::first(now + REST, ran);
                    clear(host, stub)?;
                    log.tell(host, stub, None, "hangs and is interrupted, so that its image starts again", None);
                    host.hypervisor.send_nmi(stub).doing(|| format!("interrupting domain {stub}"))?;
                }
            }
        }
        Ok(())
    }
}

/// A question for the stub's statistics, by this process's number (`pcidom_abi::statistics`, which the broker has no more of than this).
fn question(stub: DomId) -> String {
    path::child(&paths::query_node(stub), &std::process::id().to_string())
}

fn restarts(stub: DomId) -> String {
    paths::of_stub(stub, paths::relative::RESTARTS)
}

/// Whether it has answered, or nothing is known and it is asked anew: a command that has asked at the same time may have cleared question and answer away, and an
/// image that was started again does not know what the one before was asked.
fn is_answered(host: &Dom0, stub: DomId, before: Option<&String>) -> Result<bool, Error> {
    let (question, answer) = (question(stub), paths::statistics_node(stub));
    let [question, answer, now] = host.read_many([question.as_str(), answer.as_str(), &restarts(stub)])?;
    let own = std::process::id().to_string();
    Ok(question.is_none() || now.as_ref() != before || answer.is_some_and(|text| text.split(' ').next() == Some(&own)))
}

fn clear(host: &Dom0, stub: DomId) -> Result<(), Error> {
    host.commit(&[Change::remove(paths::query_node(stub)), Change::remove(paths::statistics_node(stub))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found at looks of a stub that has run for so many of the milliseconds in between, and has answered or not.
    fn findings(looks: &[(u64, u64, bool)]) -> Vec<Finding> {
        let (mut at, mut ran) = (Duration::from_secs(9), Duration::from_secs(3));
        let mut seen = Seen::first(at, ran);
        let look = |&(passed, worked, is_answered): &(u64, u64, bool)| {
            at += Duration::from_millis(passed);
            ran += Duration::from_millis(worked);
            seen.judge(at, ran, is_answered)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn only_a_stub_that_runs_and_does_not_answer_hangs() {
        use Finding::{Ask, Clear, Hangs, Nothing};
        // Asleep, or at work now and then: not even asked.
        assert_eq!(findings(&[(400, 0, false), (400, 99, false), (400, 0, false)]), [Nothing; 3]);
        // At work and answering.
        assert_eq!(findings(&[(400, 400, false), (400, 400, true), (400, 400, false)]), [Ask, Clear, Ask]);
        assert_eq!(findings(&[(400, 400, false), (400, 0, true), (400, 0, false)]), [Ask, Clear, Nothing]);
        // It hangs, also where others have the processor most of the time.
        assert_eq!(findings(&[(400, 400, false), (400, 400, false), (400, 400, false)]), [Ask, Ask, Hangs]);
        assert_eq!(findings(&[(400, 100, false), (400, 100, false), (400, 100, false)]), [Ask, Ask, Hangs]);
        // Paused after it was asked: however long, it is only slow, and goes on where it was.
        let paused = [(400, 400, false), (400, 0, false), (90_000, 0, false), (400, 400, false), (400, 9, true)];
        assert_eq!(findings(&paused), [Ask, Nothing, Nothing, Ask, Clear]);
        // The broker itself was late.
        assert_eq!(findings(&[(400, 400, false), (60_000, 300, false)]), [Ask, Nothing]);
    }
}
