//! Signals that are raised when their time has come.

use alloc::rc::Rc;

use litemap::LiteMap;

use crate::signal::Signal;

/// An alarm that was set.
pub(crate) struct Alarm(u64, u64);

/// Signals to raise, by time; the second number tells alarms of the same time apart.
pub(crate) struct Alarms {
    waiting: LiteMap<(u64, u64), Rc<Signal>>,
    last: u64,
}

impl Alarms {
    /// None.
    pub(crate) const NONE: Self = Self { waiting: LiteMap::new(), last: 0 };

    /// Raises `signal` once at `deadline_ns`.
    pub(crate) fn set(&mut self, deadline_ns: u64, signal: Rc<Signal>) -> Alarm {
        self.last = self.last.wrapping_add(1);
        let alarm = Alarm(deadline_ns, self.last);
        self.waiting.insert((alarm.0, alarm.1), signal);
        alarm
    }

    /// Takes an alarm back that may not have rung. Who wakes for another reason must, or alarms add up.
    pub(crate) fn cancel(&mut self, alarm: &Alarm) {
        self.waiting.remove(&(alarm.0, alarm.1));
    }

    /// Alarms that have not rung.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the next one is due.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.waiting.first().map(|((deadline_ns, _), _)| *deadline_ns)
    }

    /// Raises what is due at `now_ns`, which is asked for only where there are alarms.
    pub(crate) fn ring(&mut self, now_ns: impl FnOnce() -> u64) {
        if self.waiting.is_empty() {
            return;
        }
        let now_ns = now_ns();
        while let Some(first) = self.waiting.first().map(|(key, _)| *key).filter(|(due_ns, _)| *due_ns <= now_ns) {
            if let Some(signal) = self.waiting.remove(&first) {
                signal.raise();
            }
        }
    }
}
