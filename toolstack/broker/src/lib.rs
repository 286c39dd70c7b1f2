//! The broker: carries out for stubs what Xen lets only dom0 do (`docs/broker.md`).
//!
//! | module | what |
//! |---|---|
//! | `serve` | the process: opens everything, waits, stops |
//! | [`Broker`] | which stubs there are, and whose turn it is |
//! | `ring` | one stub's page and port |
//! | `execute`, `failure` | one request and its end |
//! | `assignment`, `allow` | the checks: whose a device is, and the list of what may be written to it |
//! | `interrupts`, `vectors`, `power`, `quiesce`, `reset` | what is done; commands do some of it too |
//! | `log` | lines that a stub cannot flood the journal with |
//! | `table` | the device database in memory: who is to be served, and what is to be put right |
//! | `reclaim` | devices of guests that are gone |
//! | `guards` | what keeps xl off our devices |
//! | `watchdog` | has the image of a stub started again that hangs |
//! | `manager` | what systemd is told |
//!
//! A decision about a request comes from its device's nodes, read anew whenever somebody has begun to change anything of the database
//! ([`dom0::changes`]), and what is mapped stands in xenstore before and after each change. So a broker may be killed at any moment and another one
//! started.

#![forbid(unsafe_code)]

mod allow;
mod assignment;
pub mod commands;
pub mod due;
mod execute;
mod failure;
pub mod guard;
mod guards;
mod interrupts;
mod log;
mod manager;
mod power;
mod quiesce;
mod reclaim;
pub mod records;
mod reset;
mod resources;
mod ring;
mod serve;
mod table;
pub mod vectors;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dom0::domain::Names;
use dom0::process::Processes;
use dom0::store::{Change, Watches};
use dom0::xen::{HypercallError, Physdev, Rings};
use dom0::{Dom0, Error};
use pcidom_abi::{ANNOUNCEMENT, Fit, PartVersion, VERSION, paths};
use xen_types::DomId;
use xenstore::{Permission, path};

pub use guards::replaced;
pub use interrupts::{Settle, switch_on, unmap};
pub use manager::Manager;
pub use quiesce::quiesce_device;
pub use reclaim::Reclaimer;
pub use resources::DeviceResources;
pub use serve::serve;
pub use vectors::Vectors;

use assignment::Assigned;
use commands::Commands;
use guards::{Guards, LOOK_AFTER_TROUBLE};
use log::Log;
use reclaim::Retry;
use records::{Phase, Record};
use ring::{Announced, Ring};
use table::Table;
use vectors::Noted;
use watchdog::Watchdog;

/// Events of one kind taken in one turn; the rest waits until the stubs were served.
const EVENTS_A_TURN: usize = 64;
/// A stub can change what it announced as often as it likes; we look this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Interfaces that the broker uses.
pub struct Outside<'a, R: Rings> {
    /// Hypervisor, sysfs and xenstore.
    pub host: &'a Dom0,
    /// Where vectors are mapped.
    pub physdev: &'a dyn Physdev,
    /// Where pages and ports of stubs come from.
    pub rings: &'a R,
    /// News from xenstore.
    pub watches: &'a dyn Watches,
    /// Who is still there.
    pub processes: &'a dyn Processes,
    /// Who takes devices back.
    pub reclaimer: &'a dyn Reclaimer,
}

/// The stubs' servant.
pub struct Broker<'a, R: Rings> {
    outside: Outside<'a, R>,
    rings: BTreeMap<DomId, Ring<R::Page>>,
    /// The stubs whose announcements are watched, and when to try again what did not work.
    watched: BTreeMap<DomId, Retry>,
    log: Log,
    table: Table,
    /// The table is being read for the first time: what a dead broker was at may be in it.
    is_recovering: bool,
    /// When to look at table and announcements again.
    look_at: Option<Duration>,
    looked: Duration,
    retry: Retry,
    guards: Guards,
    /// Where hangs are looked for.
    watchdog: Option<Watchdog>,
    more_events: bool,
}

impl<'a, R: Rings> Broker<'a, R> {
    /// Takes up the work, wherever the last broker left it.
    ///
    /// # Errors
    /// Xenstore's. A device in trouble is noted and does not keep the others.
    pub fn start(outside: Outside<'a, R>) -> Result<Self, Error> {
        let now = outside.host.elapsed();
        let mut announce = Change::directory(paths::TOOL, &[Permission::none(DomId::DOM0)]).to_vec();
        announce.push(Change::write(paths::BROKER, ANNOUNCEMENT));
        outside.host.commit(&announce)?;
        outside.watches.watch(paths::DEVICES)?;
        outside.watches.watch(path::LIBXL_PCI)?;
        outside.watches.watch(path::RELEASE_DOMAIN)?;
        outside.watches.watch(path::INTRODUCE_DOMAIN)?;
        outside.watches.watch(paths::COMMANDS)?;
        let mut broker = Self {
            outside,
            rings: BTreeMap::new(),
            watched: BTreeMap::new(),
            log: Log::default(),
            table: Table::default(),
            is_recovering: true,
            look_at: Some(now),
            looked: now,
            retry: Retry::default(),
            guards: Guards::new(),
            watchdog: None,
            more_events: false,
        };
        broker.table.forget();
        broker.look_if_due()?;
        Ok(broker)
    }

    /// From now on stubs whose image hangs are interrupted, which starts it again.
    pub fn watch_for_hangs(&mut self) {
        self.watchdog = Some(Watchdog::default());
    }

    /// Takes the events that are there, serves every stub that asks once, and looks after what changed.
    ///
    /// # Errors
    /// Those after which nothing would work any more.
    pub fn turn(&mut self) -> Result<(), Error> {
        let Outside { host, physdev, rings, .. } = self.outside;
        let mut ports = 0;
        while ports < EVENTS_A_TURN
            && let Some(port) = rings.next_event().map_err(fatal)?
        {
            if let Some(ring) = self.rings.values_mut().find(|ring| ring.port == port) {
                ring.look = true;
            }
            ports += 1;
        }
        let mut changes = 0;
        while changes < EVENTS_A_TURN
            && let Some(path) = self.outside.watches.next()?
        {
            self.note_change(&path);
            changes += 1;
        }
        self.more_events = ports.max(changes) == EVENTS_A_TURN;
        for ring in self.rings.values_mut().filter(|ring| ring.look) {
            ring.serve(host, rings, physdev, &mut self.log);
        }
        self.look_if_due()
    }

    fn look_if_due(&mut self) -> Result<(), Error> {
        let host = self.outside.host;
        if self.look_at.is_some_and(|at| at <= host.elapsed()) {
            let looked = self.look();
            self.tolerate(looked)?;
        }
        if self.guards.at().is_some_and(|at| at <= host.elapsed()) {
            let looked = self.look_at_guards();
            self.tolerate(looked)?;
        }
        if self.watchdog_at().is_some_and(|at| at <= host.elapsed())
            && let Some(watchdog) = &mut self.watchdog
        {
            let served: Vec<DomId> = self.rings.keys().copied().collect();
            let looked = watchdog.look(host, &served, &mut self.log);
            self.tolerate(looked)?;
        }
        Ok(())
    }

    /// When to look for hangs: while there is a stub.
    fn watchdog_at(&self) -> Option<Duration> {
        self.watchdog.as_ref().filter(|_| !self.rings.is_empty()).map(Watchdog::at)
    }

    /// Without xenstore nothing works. Everything else may be better the next time: a node can go while others are read.
    fn tolerate(&mut self, outcome: Result<(), Error>) -> Result<(), Error> {
        match outcome {
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => {
                self.outside.host.note(&format!("looking who is there: {error}"));
                self.look_by(self.looked + LOOK_AFTER_TROUBLE);
            }
            Ok(()) => {}
        }
        Ok(())
    }

    /// Time until the broker must act without an event; `None` for never.
    #[must_use]
    pub fn idle(&self) -> Option<Duration> {
        if self.more_events || self.rings.values().any(|ring| ring.look) {
            return Some(Duration::ZERO);
        }
        let at = self.look_at.into_iter().chain(self.guards.at()).chain(self.watchdog_at()).min();
        at.map(|at| at.saturating_sub(self.outside.host.elapsed()))
    }

    /// A child has ended.
    pub fn child_ended(&mut self) {
        self.outside.reclaimer.is_busy();
        self.look_soon();
    }

    /// Lets go of every stub. Devices are left as they are.
    pub fn stop(mut self) {
        let stubs: Vec<DomId> = self.rings.keys().copied().collect();
        for stub in stubs {
            self.disconnect(stub);
        }
    }

    fn note_change(&mut self, path: &str) {
        if path.is_empty() {
            // Some were lost.
            self.guards.note(path);
            self.table.forget();
            self.rings.values_mut().for_each(|ring| ring.devices.clear());
        } else if path.starts_with(path::LIBXL_PCI) {
            self.guards.note(path);
            return;
        } else if path.starts_with(paths::DEVICES) {
            // Commands have counted it as well; whoever writes there by hand has not.
            if let Some(device) = Table::served_by(path) {
                self.rings.values_mut().for_each(|ring| drop(ring.devices.remove(&device)));
            }
            if !self.table.note(path) {
                return;
            }
        }
        self.look_soon();
    }

    fn look_soon(&mut self) {
        self.look_by(self.looked + LOOK_AGAIN);
    }

    fn look_by(&mut self, at: Duration) {
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Looks who is there. Of a table that is not read yet it reads a part: stubs are served before the next one.
    fn look(&mut self) -> Result<(), Error> {
        self.looked = self.outside.host.elapsed();
        self.look_at = None;
        self.table.retry_unclear();
        self.read_table()?;
        self.look_after_stubs()?;
        if self.table.is_stale() {
            self.look_by(self.looked);
            return Ok(());
        }
        self.is_recovering = false;
        if self.table.is_unclear() {
            self.look_by(self.looked + LOOK_AFTER_TROUBLE);
        }
        self.look_after_devices()
    }

    /// As [`Self::look`], for the guards: they are looked at when the whole table is read.
    fn look_at_guards(&mut self) -> Result<(), Error> {
        self.read_table()?;
        if self.table.is_stale() { Ok(()) } else { self.guards.look(self.outside.host, &self.table) }
    }

    /// Reads a part of what has changed, and finishes what a broker was doing there when it died.
    fn read_table(&mut self) -> Result<(), Error> {
        let host = self.outside.host;
        let read = self.table.read_some(host)?;
        if !self.is_recovering {
            return Ok(());
        }
        // Those on their way back are the commands' business.
        let is_served = |record: &Record| matches!(record.phase, Phase::Attaching | Phase::Attached);
        let served = read.into_iter().filter(is_served).filter_map(|record| Some((record, record.frontend?)));
        let served: Vec<(Record, DomId)> = served.collect();
        let nodes: Vec<String> = served.iter().map(|(record, _)| vectors::vectors_node(record.device)).collect();
        for ((record, guest), noted) in served.into_iter().zip(host.read_all(&nodes)?) {
            if Vectors::from_node(noted.as_deref()) == Vectors::Busy {
                match recover_device(host, record, guest) {
                    Ok(()) => {
                        host.note(&format!("cleared the vectors of {}: a broker died changing them", record.device))
                    }
                    Err(error) => host.note(&format!("the vectors of {} are not cleared: {error}", record.device)),
                }
            }
        }
        Ok(())
    }

    /// Connects to the stubs that have devices, and watches those that will be there.
    fn look_after_stubs(&mut self) -> Result<(), Error> {
        let host = self.outside.host;
        let (records, unassigned) = (self.table.records(), self.table.unassigned());
        let in_pool = due::are_in_pools(host, &records)?;
        let (there, lost): (Vec<_>, Vec<_>) = records.iter().zip(in_pool).partition(|(_, in_pool)| *in_pool);
        let stubs: BTreeSet<DomId> = there.into_iter().map(|(record, _)| record.stub).collect();
        // Where nobody is served yet, but somebody will be: a stub that was started again and is not ready. Devices of the one before it
        // are perhaps still with a guest.
        let mut awaited: BTreeSet<&str> = unassigned.iter().map(|(_, backend)| backend.as_str()).collect();
        awaited.extend(lost.into_iter().filter_map(|(record, _)| self.table.backend(record.device)));
        let mut expected = BTreeSet::new();
        if !awaited.is_empty() {
            let names = Names::read(host)?;
            for backend in awaited {
                expected.extend(names.find(host, backend)?.map(|(stub, _)| stub.id));
            }
        }
        let here = |stub: &DomId| stubs.contains(stub) || expected.contains(stub);
        let gone: Vec<DomId> = self.watched.keys().filter(|stub| !here(stub)).copied().collect();
        for stub in gone {
            self.disconnect(stub);
            self.outside.watches.unwatch(&paths::announcements_dir(stub))?;
            self.more_events = true;
            self.watched.remove(&stub);
            self.log.forget(stub);
        }
        for stub in stubs.union(&expected).copied() {
            if !self.watched.contains_key(&stub) {
                self.outside.watches.watch(&paths::announcements_dir(stub))?;
                // What came while it waited for the answer is there already, and wakes nobody.
                self.more_events = true;
                self.watched.insert(stub, Retry::default());
            }
        }
        for stub in stubs {
            self.meet(stub)?;
        }
        Ok(())
    }

    /// Connects to a stub that has announced a ring and its version, anew if the ring is another one. One that this broker does not understand is not served.
    fn meet(&mut self, stub: DomId) -> Result<(), Error> {
        let announcement = Announced::read(self.outside.host, stub)?;
        let (announced, misfit) = match announcement {
            Some((announced, version)) if version.fit(VERSION) == Fit::Same => (Some(announced), None),
            Some((_, version)) => (None, Some(version)),
            None => (None, None),
        };
        if let Some(version) = misfit {
            let detail = format!("it is of {version}, the broker of {}", PartVersion::own());
            self.log.tell(self.outside.host, stub, None, "is not served", Some(&detail));
        }
        if self.rings.get(&stub).map(|ring| ring.announced) == announced {
            return Ok(());
        }
        self.disconnect(stub);
        let now = self.outside.host.elapsed();
        let (Some(announced), Some(retry)) = (announced, self.watched.get_mut(&stub)) else { return Ok(()) };
        if retry.is_due(now) {
            match Ring::connect(self.outside.rings, stub, announced) {
                Ok(ring) => {
                    *retry = Retry::default();
                    self.rings.insert(stub, ring);
                    self.log.tell(self.outside.host, stub, None, "is served", None);
                    return Ok(());
                }
                Err(error) => {
                    retry.tried(now);
                    let (what, detail) = ("announced a ring that does not work", error.to_string());
                    self.log.tell(self.outside.host, stub, None, what, Some(&detail));
                }
            }
        }
        let at = retry.at();
        self.look_by(at);
        Ok(())
    }

    fn disconnect(&mut self, stub: DomId) {
        if let Some(ring) = self.rings.remove(&stub)
            && let Err(error) = self.outside.rings.unbind(ring.port)
        {
            self.outside.host.note(&format!("the port to domain {stub} was not closed: {error}"));
        }
    }

    /// Has the devices of dead guests taken back, those brought where they belong that are not there, and put right what a killed command
    /// left; tries again later if that did not work out.
    fn look_after_devices(&mut self) -> Result<(), Error> {
        let host = self.outside.host;
        let commands = Commands::look(host, self.outside.processes)?;
        if commands == Commands::AtWork {
            self.look_by(host.elapsed() + commands::LOOK_AFTER);
        }
        let table = &self.table;
        let is_due = || due::is_due(host, &table.records(), &table.unassigned(), &table.followers());
        if commands != Commands::Died && !is_due()? {
            self.retry = Retry::default();
            return Ok(());
        }
        if self.outside.reclaimer.is_busy() {
            return Ok(());
        }
        let now = host.elapsed();
        if self.retry.is_due(now) {
            self.retry.tried(now);
            match self.outside.reclaimer.start() {
                Ok(()) => return Ok(()), // its end is an event
                Err(error) => host.note(&format!("devices cannot be taken back or brought where they belong: {error}")),
            }
        }
        self.look_by(self.retry.at());
        Ok(())
    }
}

fn recover_device(host: &Dom0, record: Record, guest: DomId) -> Result<(), Error> {
    let config = host.sysfs.config(record.device)?;
    let permitted = records::permitted_writes(host, record.device)?;
    if permitted.identity.is_other(config.identity()?) {
        return Err(Error::Replaced(record.device));
    }
    let capabilities = permitted.capabilities;
    let assigned = Assigned { device: record.device, stub: record.stub, guest, changes: None };
    power::wake(host, &config, &capabilities, &DeviceResources::gather(host, record.device)?, || {
        assigned.is_current(host)
    })?;
    let noted = Noted { vectors: Vectors::Busy, ..Noted::load(host, record.device)? };
    interrupts::clear(host, guest, record.device, &config, &capabilities, &noted, &|other| vectors::load(host, other))?;
    noted.forget(host, record.device)
}

fn fatal(source: HypercallError) -> Error {
    Error::Hypercall { what: "waiting for stubs".to_owned(), source }
}
