//! Repairs the guards that keep xl off our devices (`guard.rs`). A watch on xl's notes tells when one changes; dom0 alone
//! can write there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xen_types::{DomId, Sbdf};
use xenstore::path;

use super::reclaim::Retry;
use super::table::Table;
use crate::guard::{self, Guard};
use crate::records::{self, Record};
use dom0::Dom0;
use dom0::Error;
use dom0::domain;

/// Guards that are looked at in one turn; stubs are served before the next ones.
const AT_ONCE: usize = 128;

/// Notes are looked at this often at most.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Time that xl may take from its note about a device to the guest's directories: it waits 10 s for a backend that is busy.
const XL_PATIENCE: Duration = Duration::from_secs(30);

/// Interval between log lines about a lasting inconsistency.
pub(super) const LOOK_AFTER_TROUBLE: Duration = Duration::from_secs(10);

/// Which guards to look at, and when.
#[derive(Debug)]
pub(super) struct Guards {
    all: bool,
    due: BTreeSet<Sbdf>,
    /// Not before this time.
    at: Duration,
    /// Devices of which it was told that xl has them.
    taken: BTreeSet<Sbdf>,
    /// Guests of ours to which xl gives a device of its own: until when, and when to look next.
    suspects: BTreeMap<DomId, (Duration, Retry)>,
}

impl Guards {
    /// All of them are to be looked at.
    pub(super) fn new() -> Self {
        Self { all: true, due: BTreeSet::new(), at: Duration::ZERO, taken: BTreeSet::new(), suspects: BTreeMap::new() }
    }

    /// Something changed below xl's notes; an empty path means that nobody knows what.
    pub(super) fn note(&mut self, path: &str) {
        let name = path.strip_prefix(path::LIBXL_PCI).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let mut parts = name.split('/');
        match parts.next().map(Sbdf::parse_path_component) {
            Some(Ok(device)) => drop(self.due.insert(device)),
            _ => self.all = true,
        }
    }

    /// When something is to be done; `None` for never.
    pub(super) fn at(&self) -> Option<Duration> {
        let guards = (self.all || !self.due.is_empty()).then_some(self.at);
        // After trouble with the others, they wait as those do.
        let suspects = self.suspects.values().map(|(_, retry)| retry.at().max(self.at)).min();
        guards.into_iter().chain(suspects).min()
    }

    /// Looks, and puts right what is wrong. After an error all of them are looked at again.
    pub(super) fn look(&mut self, host: &Dom0, table: &Table) -> Result<(), Error> {
        let now = host.elapsed();
        self.at = now + LOOK_AGAIN;
        self.mend(host, now, table).inspect_err(|_| {
            self.all = true;
            self.at = now + LOOK_AFTER_TROUBLE;
        })
    }

    fn mend(&mut self, host: &Dom0, now: Duration, table: &Table) -> Result<(), Error> {
        let records = table.records();
        if std::mem::take(&mut self.all) {
            self.due.extend(records.iter().map(|record| record.device));
        }
        let first_left = self.due.iter().nth(AT_ONCE).copied();
        let rest = first_left.map(|first| self.due.split_off(&first)).unwrap_or_default();
        let due = std::mem::replace(&mut self.due, rest);
        if !self.due.is_empty() {
            self.at = now;
        }
        let known: Vec<Record> = due.iter().filter_map(|device| table.record(*device)).collect();
        let mut suspicious = Vec::new();
        for (record, guard) in known.iter().zip(guard::look(host, &known)?) {
            if guard == Guard::Sound {
                self.taken.remove(&record.device);
            }
            if guard != Guard::Sound || !guard::is_parked(host, record.device) {
                // Commands change it together with the guard, and we hear of the one before the other.
                suspicious.extend(records::load_one(host, record.device)?);
            }
        }
        self.due.extend(guard::mend(host, &suspicious)?);
        self.tell_taken(host, &suspicious)?;
        for device in due.into_iter().filter(|device| table.record(*device).is_none()) {
            let owner = guard::libxl_owner(host, device)?;
            if owner.is_none() {
                guard::hold_again(host, device)?;
            }
            if let Some(guest) = owner
                && records.iter().any(|record| record.frontend == Some(guest))
            {
                self.suspects.entry(guest).or_insert((now + XL_PATIENCE, Retry::default()));
            }
        }
        self.look_at_suspects(host, &records)
    }

    fn tell_taken(&mut self, host: &Dom0, records: &[Record]) -> Result<(), Error> {
        for (record, guard) in records.iter().zip(guard::look(host, records)?) {
            let Guard::Names(owner) = guard else {
                self.taken.remove(&record.device);
                continue;
            };
            if guard::is_taken(host, record, guard)? && self.taken.insert(record.device) {
                let owner = domain::named(host, owner)?;
                host.note(&format!("{}: xl has given it to {owner}, out of our pool", record.device));
            }
        }
        Ok(())
    }

    /// Whether xl has put another backend's directory in the place of ours.
    fn look_at_suspects(&mut self, host: &Dom0, records: &[Record]) -> Result<(), Error> {
        let now = host.elapsed();
        let mut settled = Vec::new();
        for (guest, (until, retry)) in &mut self.suspects {
            let record = records.iter().find(|record| record.frontend == Some(*guest));
            let Some(record) = record.filter(|_| now < *until) else {
                settled.push(*guest);
                continue;
            };
            if !retry.is_due(now) {
                continue;
            }
            retry.tried(now);
            if let Some(other) = replaced(host, record.stub, *guest)? {
                let guest_name = domain::named(host, *guest)?;
                host.note(&format!(
                    "{guest_name}: its frontend directory was replaced and leads to {other}; it has no connection to our devices any more"
                ));
                settled.push(*guest);
            }
        }
        self.suspects.retain(|guest, _| !settled.contains(guest));
        Ok(())
    }
}

/// The backend that a guest's frontend directory names, if that is not ours: `xl pci-attach` of a device of its own replaces it.
///
/// # Errors
/// Xenstore's.
pub fn replaced(host: &Dom0, stub: DomId, guest: DomId) -> Result<Option<String>, Error> {
    let backend = host.read(&path::child(&path::frontend_dir(guest), path::key::BACKEND))?;
    Ok(backend.filter(|backend| *backend != path::backend_dir(stub, guest)))
}
