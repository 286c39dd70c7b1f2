//! Taking devices back from guests that are gone, beside the broker and not in it: that waits for stubs and for resets, while the
//! stubs may wait for the broker.

use std::cell::RefCell;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Somebody who puts right what dead guests left.
pub(crate) trait Reclaimer {
    /// Begins, and does not wait for the end. When it ends, the broker looks again.
    fn start(&self) -> io::Result<()>;

    fn is_busy(&self) -> bool;
}

/// Runs `pcidom reclaim`: it takes the commands' lock, waits for it if need be, and does what every command does first.
#[derive(Default)]
pub(crate) struct OwnCommand(RefCell<Option<Child>>);

impl Reclaimer for OwnCommand {
    fn start(&self) -> io::Result<()> {
        // The running program, also where its file was replaced.
        let child = Command::new("/proc/self/exe").arg("reclaim").stdin(Stdio::null()).spawn()?;
        *self.0.borrow_mut() = Some(child);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        let mut child = self.0.borrow_mut();
        let busy = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !busy {
            *child = None;
        }
        busy
    }
}

/// When to try again: soon at first, then less and less often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    at: Duration,
    wait: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(64);

    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.at
    }

    pub(crate) fn tried(&mut self, now: Duration) {
        self.wait = (self.wait * 2).clamp(Self::FIRST, Self::LONGEST);
        self.at = now + self.wait;
    }

    pub(crate) fn at(&self) -> Duration {
        self.at
    }
}
