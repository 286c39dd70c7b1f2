//! Everything that the broker and the commands work on, in one place.

use std::fmt::Arguments;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::store::{Change, Store};
use crate::sysfs::Sysfs;
use crate::xen::Hypervisor;

/// Time since the process began.
pub trait Clock {
    /// How long that is ago.
    fn elapsed(&self) -> Duration;

    /// Lets time pass, for hardware that needs it.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Where a process says what is going on, apart from its result.
pub trait Console {
    /// Something the user should know though the work goes on.
    fn note(&self, text: &str);
    /// A step or a transition, for `-v`.
    fn trace(&self, at: Duration, text: &str);
}

/// The monotonic clock, from this moment on.
pub struct SinceStart(pub Instant);

impl Clock for SinceStart {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Standard error.
pub struct StandardError {
    /// Steps and transitions too.
    pub is_verbose: bool,
}

impl Console for StandardError {
    fn note(&self, text: &str) {
        say(format_args!("pcidom: note: {text}"));
    }

    fn trace(&self, at: Duration, text: &str) {
        if self.is_verbose {
            say(format_args!("{:>7} ms  {text}", at.as_millis()));
        }
    }
}

/// dom0.
pub struct Dom0 {
    /// The hypervisor.
    pub hypervisor: Rc<dyn Hypervisor>,
    /// PCI functions as Linux shows them.
    pub sysfs: Sysfs,
    /// Xenstore.
    pub store: Rc<dyn Store>,
    clock: Box<dyn Clock>,
    console: Box<dyn Console>,
}

impl Dom0 {
    /// All of it together.
    #[must_use]
    pub fn new(
        hypervisor: Rc<dyn Hypervisor>,
        sysfs: Sysfs,
        store: Rc<dyn Store>,
        clock: Box<dyn Clock>,
        console: Box<dyn Console>,
    ) -> Self {
        Self { hypervisor, sysfs, store, clock, console }
    }

    /// Time since the process began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Lets time pass, for hardware that needs it.
    pub fn pause(&self, time: Duration) {
        self.clock.pause(time);
    }

    /// Says something that the user should know.
    pub fn note(&self, text: &str) {
        self.console.note(text);
    }

    /// Says something for `-v`.
    pub fn trace(&self, text: &str) {
        self.console.trace(self.elapsed(), text);
    }

    /// A node's value; `None` where there is no such node.
    ///
    /// # Errors
    /// Xenstore's, as in everything below.
    pub fn read(&self, path: &str) -> Result<Option<String>, Error> {
        Ok(self.store.read(path)?)
    }

    /// As [`Dom0::read`] for several nodes, with one wait for all of them where that is possible.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn read_many<const N: usize>(&self, paths: [&str; N]) -> Result<[Option<String>; N], Error> {
        Ok(array(self.store.read_many(&paths)?))
    }

    /// As [`Dom0::read_many`] for any number.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn read_all(&self, paths: &[String]) -> Result<Vec<Option<String>>, Error> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.store.read_many(&paths.iter().map(String::as_str).collect::<Vec<_>>())?)
    }

    /// Writes a node and reads others as they are afterwards, with one wait for all of it where that is possible.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn write_and_read<const N: usize>(
        &self,
        change: &Change,
        paths: [&str; N],
    ) -> Result<[Option<String>; N], Error> {
        let Change::Write { path, value } = change else {
            self.commit(std::slice::from_ref(change))?;
            return self.read_many(paths);
        };
        Ok(array(self.store.write_and_read(path, value, &paths)?))
    }

    /// Whether there is such a node.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.read(path)?.is_some())
    }

    /// The names of a node's children; none as well when there is no such node.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        Ok(self.store.list(path)?)
    }

    /// Makes the changes in one transaction.
    ///
    /// # Errors
    /// Xenstore's, and [`Error::ChangedMeanwhile`] when something is not as they expect it.
    pub fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        if self.commit_if(changes)? { Ok(()) } else { Err(Error::ChangedMeanwhile) }
    }

    /// Makes the changes in one transaction if everything is as they expect it ([`Change::Expect`]).
    ///
    /// # Errors
    /// Xenstore's.
    pub fn commit_if(&self, changes: &[Change]) -> Result<bool, Error> {
        Ok(changes.is_empty() || self.store.commit(changes)?)
    }
}

/// The first `N` of these.
fn array<const N: usize>(values: Vec<Option<String>>) -> [Option<String>; N] {
    let mut values = values.into_iter();
    [(); N].map(|()| values.next().flatten())
}

/// A line on standard error. A process at work does not stop because nobody listens any more.
pub fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
