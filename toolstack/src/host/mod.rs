//! The host as commands see it: hypervisor, sysfs, xenstore, clock, console; fakes in tests.

pub(crate) mod child;
pub(crate) mod command_lock;
pub(crate) mod ecam;
pub(crate) mod journal;
pub(crate) mod lock;
pub(crate) mod needs;
pub(crate) mod open;
pub(crate) mod process;
mod qmp;
pub(crate) mod settings;
pub(crate) mod terminal;
pub(crate) mod xl;

pub(crate) use ::dom0::domain;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ::dom0::changes::TableChanges;
use ::dom0::{Clock, Console, Dom0};
use pcidom_abi::paths;
use pcidom_broker::records::{self, Record, UnassignedEntry};
use xen_types::DomId;
use xenstore::XenbusState;

use crate::error::{Error, HostError};
use crate::host::command_lock::CommandLock;
use crate::host::lock::Lock;
use crate::host::process::{LinuxProcess, Process};
use crate::host::settings::Settings;
use crate::host::xl::{Toolstack, Xl};
use crate::store::{Change, Waits};
use crate::sysfs::Sysfs;
use crate::xen::Domctls;

/// Where the admin keeps the quirks file (`records/quirks.rs`).
pub(crate) const QUIRKS_FILE: &str = "/etc/pcidom/quirks";

/// Lock on a guest that this command is creating.
pub(crate) struct Creation(#[expect(dead_code, reason = "it is there to be dropped")] Option<Lock>);

/// The device table: devices of stubs, and those that wait for one.
pub(crate) type Table = (Vec<Record>, Vec<UnassignedEntry>);

/// Result of a repeated look: found, or how much longer to wait.
pub(crate) enum Look<T> {
    Found(T),
    /// How much longer to go on; nothing ends it.
    Wait(Duration),
}

/// dom0 as a command works on it: more of it than [`Dom0`], which it contains.
pub(crate) struct Host {
    dom0: Dom0,
    pub(crate) hypervisor: Rc<dyn Domctls>,
    pub(crate) sysfs: Sysfs,
    pub(crate) xl: Box<dyn Toolstack>,
    /// The quirks file.
    pub(crate) quirks: PathBuf,
    /// The root of the file system, for what is neither sysfs nor a setting: `/proc`, `/dev`, `/run`, `/etc`.
    pub(crate) root: PathBuf,
    /// The settings file, and what it says once it was read.
    pub(crate) settings_file: PathBuf,
    pub(crate) settings: Cell<Settings>,
    /// Where xenconsoled logs what domains say.
    pub(crate) console_logs: PathBuf,
    /// The last lines of the broker in the journal, or why there are none.
    pub(crate) journal: fn(usize) -> Result<String, String>,
    /// The admin wants devices taken that dom0 needs.
    pub(crate) seize_in_use: Cell<bool>,
    pub(crate) process: Box<dyn Process>,
    store: Rc<dyn Waits>,
    /// Where the locks of commands are.
    pub(crate) lock_folder: PathBuf,
    /// For commands that change something.
    command_lock: RefCell<Option<Rc<CommandLock>>>,
    /// The device table as this command read it, while it has its turn and nobody has changed anything of it.
    table: RefCell<Option<Rc<Table>>>,
    /// The state nodes as last shown, so that each transition is shown once.
    shown: RefCell<BTreeMap<String, String>>,
    /// Nesting depth of sections in which signals do not stop the command.
    unstoppable: Cell<u32>,
    /// The user knows that a signal is heeded.
    is_stopping: Cell<bool>,
}

impl Deref for Host {
    type Target = Dom0;

    fn deref(&self) -> &Dom0 {
        &self.dom0
    }
}

/// While this lives there is no safe point ([`Host::without_stopping`]).
struct Unstoppable<'a>(&'a Host);

impl Drop for Unstoppable<'_> {
    fn drop(&mut self) {
        self.0.unstoppable.set(self.0.unstoppable.get() - 1);
    }
}

/// While this lives no signal does anything ([`Host::undisturbed`]).
pub(crate) struct Undisturbed<'a>(&'a Host);

impl Drop for Undisturbed<'_> {
    fn drop(&mut self) {
        self.0.process.let_signals_come();
    }
}

impl Host {
    pub(crate) fn new(
        hypervisor: Rc<dyn Domctls>,
        sysfs: Sysfs,
        store: Rc<dyn Waits>,
        clock: Box<dyn Clock>,
        console: Box<dyn Console>,
    ) -> Self {
        Self {
            dom0: Dom0::new(hypervisor.clone(), (*sysfs).clone(), store.clone(), clock, console),
            hypervisor,
            sysfs,
            xl: Box::new(Xl),
            quirks: QUIRKS_FILE.into(),
            root: "/".into(),
            settings_file: settings::FILE.into(),
            settings: Cell::default(),
            console_logs: "/var/log/xen/console".into(),
            journal: journal::of_broker,
            seize_in_use: Cell::default(),
            process: Box::new(LinuxProcess::default()),
            store,
            lock_folder: lock::folder().to_owned(),
            command_lock: RefCell::default(),
            table: RefCell::default(),
            shown: RefCell::default(),
            unstoppable: Cell::default(),
            is_stopping: Cell::default(),
        }
    }

    /// Counts changes of the device database where the broker looks.
    pub(crate) fn count_changes(&mut self, changes: Rc<dyn TableChanges>) {
        self.dom0.changes = Some(changes);
    }

    /// Reads the settings.
    pub(crate) fn load_settings(&self) -> Result<(), Error> {
        let (settings, notes) = settings::load(&self.settings_file)?;
        notes.iter().for_each(|note| self.note(note));
        self.settings.set(settings);
        Ok(())
    }

    /// Here a command may stop, and what it has done is undone.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when a signal asked for it.
    pub(crate) fn safe_point(&self) -> Result<(), Error> {
        if self.unstoppable.get() > 0 {
            return Ok(());
        }
        let Some(signal) = self.process.signal() else { return Ok(()) };
        if !self.is_stopping.replace(true) {
            self.note(&format!("{signal}: stopping; a second signal ends the command at once"));
        }
        Err(Error::Interrupted(signal))
    }

    /// Runs work that cannot be undone half-way, or is the rollback itself: it has no safe points.
    pub(crate) fn without_stopping<T>(&self, work: impl FnOnce() -> T) -> T {
        self.unstoppable.set(self.unstoppable.get() + 1);
        let _end = Unstoppable(self);
        work()
    }

    /// Puts off every signal that can be put off, a second one too. Only for what does not wait for anybody.
    pub(crate) fn undisturbed(&self) -> Undisturbed<'_> {
        self.process.put_signals_off();
        Undisturbed(self)
    }

    /// Waits until this command may change something, which it then may as long as the host is there.
    ///
    /// # Errors
    /// The locks', and those of looking for `guest`.
    pub(crate) fn lock_commands(&self, guest: Option<&str>) -> Result<(), Error> {
        let find = || match guest {
            Some(guest) => Ok(domain::find_frontend(self, guest)?.map(|(guest, _)| guest.id)),
            None => Ok(None),
        };
        let waiting = || self.note("waiting for another pcidom command to end");
        let lock = CommandLock::take_in(&self.lock_folder, find, waiting)?;
        self.table.take();
        self.command_lock.replace(Some(Rc::new(lock)));
        Ok(())
    }

    /// Gives the turn away. This process goes on, and changes nothing until it has it again: others may do something now.
    pub(crate) fn unlock_commands(&self) {
        self.table.take();
        self.command_lock.replace(None);
    }

    /// As [`Host::lock_commands`], with locks in a folder of the test's own, which nobody else may have.
    #[cfg(test)]
    pub(crate) fn lock_commands_in(&self, folder: &std::path::Path) {
        let lock = CommandLock::take_in(folder, || Ok(None), || panic!("another command is at work"));
        self.command_lock.replace(Some(Rc::new(lock.unwrap())));
    }

    /// Whether another command is busy with this guest: everything about it is that command's.
    pub(crate) fn is_others(&self, guest: DomId) -> Result<bool, Error> {
        let lock = self.command_lock.borrow().clone();
        lock.map_or(Ok(false), |lock| lock.is_others(guest))
    }

    /// Makes this a command about a guest that it has just made: others leave it alone.
    pub(crate) fn adopt(&self, guest: DomId) -> Result<(), Error> {
        let lock = self.command_lock.borrow().clone();
        lock.map_or(Ok(()), |lock| lock.adopt(guest))
    }

    /// Lets other commands run during `work`, which takes long. What was known of devices and guests may be different
    /// afterwards.
    pub(crate) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        let lock = self.command_lock.borrow().clone();
        let done = match lock {
            Some(lock) => lock.aside(work),
            None => work(),
        };
        self.table.take();
        done
    }

    /// The device table. A command that has its turn asks for it once, and again when it has changed something there, or has let others have theirs.
    ///
    /// # Errors
    /// Xenstore's, and what makes no sense.
    pub(crate) fn table(&self) -> Result<Rc<Table>, Error> {
        if let Some(known) = &*self.table.borrow() {
            return Ok(known.clone());
        }
        let table = Rc::new(records::load_all(self)?);
        if self.command_lock.borrow().is_some() {
            self.table.replace(Some(table.clone()));
        }
        Ok(table)
    }

    /// Says to other commands that the guest with this id is being made, until the result is dropped; `None` where another command says
    /// so.
    pub(crate) fn take_creation(&self, uuid: &str) -> Result<Option<Creation>, Error> {
        let lock = self.command_lock.borrow().clone();
        let Some(lock) = lock else { return Ok(Some(Creation(None))) };
        Ok(lock.take_creation(uuid)?.map(|lock| Creation(Some(lock))))
    }

    pub(crate) fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let value = self.dom0.read(path)?;
        self.show(path, value.as_deref());
        Ok(value)
    }

    /// As [`Host::read`] for several nodes, with one wait for all of them where that is possible.
    pub(crate) fn read_many<const N: usize>(&self, paths: [&str; N]) -> Result<[Option<String>; N], Error> {
        let values = self.dom0.read_many(paths)?;
        self.show_all(paths, &values);
        Ok(values)
    }

    /// As [`Host::read_many`] for any number.
    pub(crate) fn read_all(&self, paths: &[String]) -> Result<Vec<Option<String>>, Error> {
        let values = self.dom0.read_all(paths)?;
        self.show_all(paths.iter().map(String::as_str), &values);
        Ok(values)
    }

    fn show_all<'a>(&self, paths: impl IntoIterator<Item = &'a str>, values: &[Option<String>]) {
        for (path, value) in paths.into_iter().zip(values) {
            self.show(path, value.as_deref());
        }
    }

    /// A `state` or `state-N` node; [`XenbusState::Unknown`] when it is missing or holds nonsense.
    pub(crate) fn read_state(&self, path: &str) -> Result<XenbusState, Error> {
        Ok(self.read(path)?.map(XenbusState::parse).unwrap_or_default())
    }

    pub(crate) fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.read(path)?.is_some())
    }

    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        Ok(self.dom0.list(path)?)
    }

    /// Makes the changes in one transaction.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        if self.commit_if(changes)? { Ok(()) } else { Err(HostError::ChangedMeanwhile.into()) }
    }

    /// Makes the changes in one transaction if everything is as they expect it ([`Change::Expect`]).
    pub(crate) fn commit_if(&self, changes: &[Change]) -> Result<bool, Error> {
        if changes.iter().any(|change| change.path().starts_with(paths::DEVICES)) {
            self.table.take();
        }
        let done = self.dom0.commit_if(changes)?;
        for change in changes.iter().filter(|_| done) {
            if let Change::Write { path, value } = change {
                self.show(path, Some(value));
            }
        }
        Ok(done)
    }

    /// As [`Dom0::at_one_moment`], where these nodes are asked for together first.
    pub(crate) fn looking_ahead<T>(
        &self,
        nodes: impl IntoIterator<Item = String>,
        look: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.at_one_moment(|| {
            self.read_all(&nodes.into_iter().collect::<Vec<_>>())?;
            look()
        })
    }

    /// Waits until `check` answers, looking again whenever something below `paths` changes; `None` when `timeout` passed
    /// first. `check` also runs about once a second, for what xenstore does not tell. Waiting is a safe point.
    pub(crate) fn wait_for<T>(
        &self,
        paths: &[String],
        timeout: Duration,
        check: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        self.wait_while(None, paths, self.until(timeout, check))
    }

    /// Looks whether `check` answers, until it has not for so long.
    fn until<T>(
        &self,
        timeout: Duration,
        mut check: impl FnMut() -> Result<Option<T>, Error>,
    ) -> impl FnMut() -> Result<Look<T>, Error> {
        let mut deadline = None;
        move || {
            if let Some(answer) = check()? {
                return Ok(Look::Found(answer));
            }
            let now = self.elapsed();
            let deadline = *deadline.get_or_insert(now + timeout);
            Ok(Look::Wait(deadline.saturating_sub(now)))
        }
    }

    /// As [`Host::wait_for`], where each look says anew how long to go on. Where it is this guest that is waited for, others have their turn meanwhile.
    fn wait_while<T>(
        &self,
        guest: Option<DomId>,
        paths: &[String],
        mut look: impl FnMut() -> Result<Look<T>, Error>,
    ) -> Result<Option<T>, Error> {
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        // Often there is nothing to wait for.
        if let Look::Found(answer) = look()? {
            return Ok(Some(answer));
        }
        let mut wait = || loop {
            match look()? {
                Look::Found(answer) => return Ok(Some(answer)),
                Look::Wait(left) if left.is_zero() => return Ok(None),
                Look::Wait(left) => {
                    self.safe_point()?;
                    terminal::still_waiting();
                    self.store.wait(left.min(LOOK_AGAIN)).map_err(HostError::from)?
                }
            };
        };
        let mut watch = || {
            self.store.watch(paths).map_err(HostError::from)?;
            let result = wait();
            self.store.unwatch(paths).map_err(HostError::from)?;
            result
        };
        match guest {
            Some(guest) => self.aside_for(guest, watch),
            None => watch(),
        }
    }

    /// As [`Host::wait_for`] for something of this guest's. Other commands may do what they want with other guests meanwhile.
    pub(crate) fn wait_for_guest<T>(
        &self,
        guest: DomId,
        paths: &[String],
        timeout: Duration,
        check: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        self.wait_while(Some(guest), paths, self.until(timeout, check))
    }

    /// Looks whenever something below `paths` changes, and every `at_least`, until a look fails or this process is told to stop. In between it sleeps.
    pub(crate) fn watch_while(
        &self,
        paths: &[String],
        at_least: Duration,
        mut look: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.store.watch(paths).map_err(HostError::from)?;
        loop {
            look()?;
            if self.process.signal().is_some() {
                return Ok(());
            }
            self.store.wait(at_least).map_err(HostError::from)?;
        }
    }

    /// As [`Host::wait_for_guest`], where each look says anew how long to go on.
    pub(crate) fn wait_for_guest_while<T>(
        &self,
        guest: DomId,
        paths: &[String],
        look: impl FnMut() -> Result<Look<T>, Error>,
    ) -> Result<Option<T>, Error> {
        self.wait_while(Some(guest), paths, look)
    }

    /// Lets other commands run while `wait` waits for this guest.
    fn aside_for<T>(&self, guest: DomId, wait: impl FnOnce() -> T) -> T {
        let lock = self.command_lock.borrow().clone();
        let done = match lock {
            Some(lock) => lock.waiting_for(guest, wait),
            None => wait(),
        };
        self.table.take();
        done
    }

    /// Shows a state node's transition.
    fn show(&self, path: &str, value: Option<&str>) {
        let is_state = path.rsplit('/').next().is_some_and(|name| name == "state" || name.starts_with("state-"));
        let (true, Some(value)) = (is_state, value) else {
            return;
        };
        let old = self.shown.borrow_mut().insert(path.to_owned(), value.to_owned());
        if old.as_deref() != Some(value) {
            let old = old.map(|old| format!("{} -> ", words(&old))).unwrap_or_default();
            self.trace(&format!("{path}: {old}{}", words(value)));
        }
    }
}

/// A state with its name: `4 Connected`. The pool's states are words already.
fn words(value: &str) -> String {
    match XenbusState::parse(value) {
        XenbusState::Unknown => value.to_owned(),
        state => format!("{state} {}", state.name()),
    }
}
