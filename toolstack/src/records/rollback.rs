//! Steps that are undone when a later one fails.
//!
//! A command that changes several things in several places (Xen, sysfs, xenstore) runs each change as a step of a
//! [`RollbackStack`]: what to do, and what takes it back. Either all steps stay, or none does.

use crate::error::Error;
use crate::host::Host;

type Undo<'a> = Box<dyn FnOnce(&Host) -> Result<(), Error> + 'a>;

/// The steps done so far.
pub(crate) struct RollbackStack<'a> {
    host: &'a Host,
    done: Vec<(String, Undo<'a>)>,
}

impl<'a> RollbackStack<'a> {
    /// Runs `body` with an empty stack, and undoes what it recorded, last first, if it fails. An undo that fails itself is
    /// reported, and the others go on; but what somebody holds on to goes no further back.
    ///
    /// # Errors
    /// The body's.
    pub(crate) fn run<T>(host: &'a Host, body: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let mut rollback = Self { host, done: Vec::new() };
        let result = body(&mut rollback);
        if result.is_err() {
            host.without_stopping(|| rollback.roll_back());
        }
        result
    }

    pub(crate) fn host(&self) -> &'a Host {
        self.host
    }

    /// Does one step. If it fails there is nothing of it to undo: `act` does one thing or nothing. A command may stop before it, and not in it.
    pub(crate) fn step(
        &mut self,
        name: impl Into<String>,
        act: impl FnOnce(&Host) -> Result<(), Error>,
        undo: impl FnOnce(&Host) -> Result<(), Error> + 'a,
    ) -> Result<(), Error> {
        let name = name.into();
        self.host.safe_point()?;
        self.host.trace(&name);
        self.host.without_stopping(|| act(self.host))?;
        self.done.push((name, Box::new(undo)));
        Ok(())
    }

    /// Records what was done already: nothing comes in between.
    pub(crate) fn record(&mut self, name: impl Into<String>, undo: impl FnOnce(&Host) -> Result<(), Error> + 'a) {
        let name = name.into();
        self.host.trace(&name);
        self.done.push((name, Box::new(undo)));
    }

    fn roll_back(self) {
        for (name, undo) in self.done.into_iter().rev() {
            self.host.trace(&format!("undo: {name}"));
            if let Err(error) = undo(self.host) {
                self.host.note(&format!("could not undo \"{name}\": {error}"));
                if matches!(error, Error::Held { .. }) {
                    // What was done before goes on being needed. The commands that follow finish it (`recover.rs`).
                    return;
                }
            }
        }
    }
}
