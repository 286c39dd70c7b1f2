//! Everything that the broker and the commands work on, in one place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pcidom_abi::paths;
use xen_types::DomId;

use crate::changes::TableChanges;
use crate::error::{Doing as _, Error};
use crate::store::{Change, Store};
use crate::sysfs::Sysfs;
use crate::xen::{DomainInfo, Hypervisor};

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
    /// Where changes of the device database are counted; `None` where nobody could look.
    pub changes: Option<Rc<dyn TableChanges>>,
    /// What was seen during [`Dom0::at_one_moment`].
    seen: RefCell<Option<Seen>>,
}

/// What was seen of xenstore and of domains.
#[derive(Default)]
struct Seen {
    values: BTreeMap<String, Option<String>>,
    children: BTreeMap<String, Vec<String>>,
    domains: BTreeMap<DomId, Option<DomainInfo>>,
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
        Self { hypervisor, sysfs, store, clock, console, changes: None, seen: RefCell::default() }
    }

    /// For work that only looks, and at many things that say the same of many devices: each node and each domain is asked for once, whoever wants to know
    /// it again, and what was asked for together before is not asked for again.
    pub fn at_one_moment<T>(&self, work: impl FnOnce() -> T) -> T {
        self.seen.replace(Some(Seen::default()));
        let done = work();
        self.seen.take();
        done
    }

    /// What is known already, or else the answer of `ask`, which is known from now on while [`Dom0::at_one_moment`] lasts.
    fn once<K: Ord + Clone, V: Clone>(
        &self,
        key: &K,
        place: impl Fn(&mut Seen) -> &mut BTreeMap<K, V>,
        ask: impl FnOnce() -> Result<V, Error>,
    ) -> Result<V, Error> {
        let known = self.seen.borrow_mut().as_mut().and_then(|seen| place(seen).get(key).cloned());
        if let Some(known) = known {
            return Ok(known);
        }
        let answer = ask()?;
        if let Some(seen) = &mut *self.seen.borrow_mut() {
            place(seen).insert(key.clone(), answer.clone());
        }
        Ok(answer)
    }

    /// Xen's information about a domain; `None` where there is none.
    ///
    /// # Errors
    /// Xen's.
    pub fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, Error> {
        let ask = || self.hypervisor.domain(id).doing(|| format!("looking at domain {id}"));
        self.once(&id, |seen| &mut seen.domains, ask)
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
        self.once(&path.to_owned(), |seen| &mut seen.values, || Ok(self.store.read(path)?))
    }

    /// As [`Dom0::read`] for several nodes, with one wait for all of them where that is possible.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn read_many<const N: usize>(&self, paths: [&str; N]) -> Result<[Option<String>; N], Error> {
        Ok(array(self.read_each(&paths)?))
    }

    /// As [`Dom0::read_many`] for any number.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn read_all(&self, paths: &[String]) -> Result<Vec<Option<String>>, Error> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        self.read_each(&paths.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn read_each(&self, paths: &[&str]) -> Result<Vec<Option<String>>, Error> {
        let Some(Seen { values, .. }) = &mut *self.seen.borrow_mut() else {
            return Ok(self.store.read_many(paths)?);
        };
        let mut unknown: Vec<&str> = paths.iter().copied().filter(|path| !values.contains_key(*path)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let answers = self.store.read_many(&unknown)?;
            values.extend(unknown.into_iter().map(str::to_owned).zip(answers));
        }
        Ok(paths.iter().map(|path| values.get(*path).cloned().flatten()).collect())
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
        self.once(&path.to_owned(), |seen| &mut seen.children, || Ok(self.store.list(path)?))
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
    /// Xenstore's, and the kernel's where a change of the device database cannot be counted.
    pub fn commit_if(&self, changes: &[Change]) -> Result<bool, Error> {
        let counted = [paths::DEVICES, paths::VECTOR_CLEANUPS];
        let is_counted = changes.iter().any(|change| counted.iter().any(|dir| change.path().starts_with(dir)));
        let counter = self.changes.as_ref().filter(|_| is_counted);
        let _change = counter.map(|counter| counter.begin()).transpose()?;
        Ok(changes.is_empty() || self.store.commit(changes)?)
    }

    /// As [`Dom0::commit`] for the broker's own nodes, which nobody else has in memory: not counted ([`TableChanges`]).
    ///
    /// # Errors
    /// Xenstore's, and [`Error::ChangedMeanwhile`] when something is not as they expect it.
    pub fn commit_own(&self, changes: &[Change]) -> Result<(), Error> {
        if self.store.commit(changes)? { Ok(()) } else { Err(Error::ChangedMeanwhile) }
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
