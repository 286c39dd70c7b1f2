//! Signals that are raised when their time has come.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::signal::Signal;

/// Signals to raise, each with its time. They are as few as there are tasks, and looked at when something else is done too. (`Vec::retain` would be twice the
/// code.)
pub(crate) struct Alarms(Vec<(u64, Rc<Signal>)>);

impl Alarms {
    /// None.
    pub(crate) const NONE: Self = Self(Vec::new());

    /// Raises `signal` once at `deadline_ns`.
    pub(crate) fn set(&mut self, deadline_ns: u64, signal: &Rc<Signal>) {
        self.0.push((deadline_ns, Rc::clone(signal)));
    }

    /// Takes the alarms of a signal back that have not rung. Who wakes for another reason must, or alarms add up.
    pub(crate) fn cancel(&mut self, signal: &Rc<Signal>) {
        while let Some(place) = self.0.iter().position(|(_, other)| Rc::ptr_eq(other, signal)) {
            self.0.swap_remove(place);
        }
    }

    /// Alarms that have not rung.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the next one is due.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.0.iter().map(|(deadline_ns, _)| *deadline_ns).min()
    }

    /// Raises what is due at `now_ns`, which is asked for only where there are alarms.
    pub(crate) fn ring(&mut self, now_ns: impl FnOnce() -> u64) {
        if self.0.is_empty() {
            return;
        }
        let now_ns = now_ns();
        while let Some(place) = self.0.iter().position(|(deadline_ns, _)| *deadline_ns <= now_ns) {
            self.0.swap_remove(place).1.raise();
        }
    }
}
