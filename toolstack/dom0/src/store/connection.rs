//! [`Store`] over a real connection.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use xen_types::Errno;
use xenstore::{Nodes, Request, StoreError, Transaction, Transport, XenbusState};

use super::{Change, Store, StoreFailure, Watches};

/// The token of our watches: events are told apart by their paths.
const TOKEN: &str = "pcidom";

/// A transport that can say what time it is, by the clock its deadlines are measured with.
pub trait Timed {
    /// Nanoseconds.
    fn now_ns(&self) -> u64;
}

/// A connection to xenstored.
pub struct Connection<T> {
    store: RefCell<xenstore::Store<T>>,
}

impl<T: Transport<Error: Display> + Timed> Connection<T> {
    /// Over a fresh transport.
    pub fn new(transport: T) -> Self {
        Self { store: RefCell::new(xenstore::Store::new(transport)) }
    }

    /// The client, for what [`Store`] and [`Watches`] do not have.
    pub fn client(&self) -> RefMut<'_, xenstore::Store<T>> {
        self.store.borrow_mut()
    }
}

/// An error of the client with the request that it is about.
pub fn failure<E: Display>(what: &str, path: &str, error: &StoreError<E>) -> StoreFailure {
    // What a reader of `errno(3)` would take for something else.
    let meant = [
        (Errno::E2BIG, "too long for this way to xenstored; oxenstored tells long lists over its socket only"),
        (Errno::EAGAIN, "others changed the same nodes each of many times; try again"),
        (Errno::ENOSPC, "a quota of xenstored is used up"),
    ];
    let meant = meant.iter().find(|(errno, _)| error.is(*errno)).map(|(_, meant)| format!(" ({meant})"));
    StoreFailure { what: format!("{what} {path}"), why: format!("{error}{}", meant.unwrap_or_default()) }
}

/// Reason to end a transaction early.
enum Inside<E> {
    /// An error, with the path it happened at.
    Failed { path: String, error: StoreError<E> },
    /// Something that was expected is not so.
    Unexpected,
}

impl<E> From<StoreError<E>> for Inside<E> {
    fn from(error: StoreError<E>) -> Self {
        Self::Failed { path: String::new(), error }
    }
}

/// A change that needs no look at what is there, as the request that makes it.
fn simple(change: &Change) -> Option<(&str, Request<'_>)> {
    Some(match change {
        Change::Write { path, value } => (path, Request::Write { path, value: value.as_bytes() }),
        Change::Mkdir { path } => (path, Request::Mkdir { path }),
        Change::Permit { path, permissions } => (path, Request::SetPermissions { path, permissions }),
        Change::Remove { path } => (path, Request::Remove { path }),
        Change::RemoveIfEmpty { .. }
        | Change::Copy { .. }
        | Change::Expect { .. }
        | Change::ExpectState { .. }
        | Change::ExpectNoOther { .. }
        | Change::Replace { .. } => return None,
    })
}

/// Makes the changes in their order, with two waits at most: one for all that they depend on, as it is before the first of them, and one for the requests
/// that follow from it. Nobody else's change comes in between: it is a transaction.
fn apply<T: Transport>(nodes: &mut Transaction<'_, T>, changes: &[Change]) -> Result<(), Inside<T::Error>> {
    let mut seen = Seen::look(nodes, changes)?;
    let mut requests: Vec<(&str, Request<'_>)> = Vec::new();
    // Values that are not in the changes.
    let outcomes = changes.iter().map(|change| seen.outcome(change)).collect::<Result<Vec<_>, _>>()?;
    for (change, outcome) in changes.iter().zip(&outcomes) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::AsItSays => requests.extend(simple(change)),
            Outcome::Write(path, value) => requests.push((path, Request::Write { path, value })),
            Outcome::Remove(path) => requests.push((path, Request::Remove { path })),
        }
    }
    let (paths, requests): (Vec<&str>, Vec<Request<'_>>) = requests.into_iter().unzip();
    if requests.is_empty() {
        return Ok(());
    }
    for (answer, (path, request)) in nodes.request_all(&requests)?.into_iter().zip(paths.iter().zip(&requests)) {
        match answer {
            Ok(_) => {}
            Err(error) if error.is(Errno::ENOENT) && matches!(request, Request::Remove { .. }) => {}
            Err(error) => return Err(Inside::Failed { path: (*path).to_owned(), error: error.into() }),
        }
    }
    Ok(())
}

/// What a change comes to.
enum Outcome<'a> {
    /// It was a condition, or nothing has to be done.
    Nothing,
    /// The request that [`simple`] makes of it.
    AsItSays,
    Write(&'a str, Vec<u8>),
    Remove(&'a str),
}

/// The nodes that changes depend on, as they are in the transaction, kept true while the changes are gone through.
struct Seen<'a> {
    values: BTreeMap<&'a str, Option<Vec<u8>>>,
    /// Names of the children of nodes that are to go when they have none; `None` where there is no such node.
    children: BTreeMap<&'a str, Option<BTreeSet<String>>>,
}

impl<'a> Seen<'a> {
    /// Asks for all of them at once.
    fn look<T: Transport>(nodes: &mut Transaction<'_, T>, changes: &'a [Change]) -> Result<Self, Inside<T::Error>> {
        let (mut read, mut listed) = (BTreeSet::new(), BTreeSet::new());
        for change in changes {
            match change {
                Change::Expect { path, .. }
                | Change::ExpectState { path, .. }
                | Change::ExpectNoOther { path, .. }
                | Change::Replace { path, .. }
                | Change::Copy { from: path, .. } => drop(read.insert(path.as_str())),
                Change::RemoveIfEmpty { path } => drop(listed.insert(path.as_str())),
                Change::Write { .. } | Change::Mkdir { .. } | Change::Permit { .. } | Change::Remove { .. } => {}
            }
        }
        let mut seen = Self { values: BTreeMap::new(), children: BTreeMap::new() };
        let requests: Vec<Request<'_>> = read
            .iter()
            .map(|path| Request::Read { path })
            .chain(listed.iter().map(|path| Request::Directory { path }))
            .collect();
        if requests.is_empty() {
            return Ok(seen);
        }
        let mut answers = nodes.request_all(&requests)?.into_iter();
        let failed = |path: &str, error: xenstore::Error| Inside::Failed { path: path.to_owned(), error: error.into() };
        for (path, answer) in read.into_iter().zip(&mut answers) {
            let value = match answer {
                Ok(value) => Some(value),
                Err(error) if error.is(Errno::ENOENT) => None,
                Err(error) => return Err(failed(path, error)),
            };
            seen.values.insert(path, value);
        }
        for (path, answer) in listed.into_iter().zip(answers) {
            let names = match answer {
                Ok(listing) => Some(names(&listing)),
                Err(error) if error.is(Errno::ENOENT) => None,
                // More than a message holds.
                Err(error) if error.is(Errno::E2BIG) => {
                    let listing = nodes.directory(path);
                    listing
                        .map_err(|error| Inside::Failed { path: path.to_owned(), error })?
                        .map(|names| names.into_iter().collect())
                }
                Err(error) => return Err(failed(path, error)),
            };
            seen.children.insert(path, names);
        }
        Ok(seen)
    }

    fn value(&self, path: &str) -> Option<&[u8]> {
        self.values.get(path)?.as_deref()
    }

    /// What the next change comes to, after those before it.
    fn outcome<E>(&mut self, change: &'a Change) -> Result<Outcome<'a>, Inside<E>> {
        let expected = |is_so: bool| if is_so { Ok(Outcome::Nothing) } else { Err(Inside::Unexpected) };
        match change {
            Change::Expect { path, value } => expected(self.value(path).map(text).as_ref() == Some(value)),
            Change::ExpectState { path, state } => {
                expected(self.value(path).is_some_and(|found| XenbusState::parse(found) == *state))
            }
            Change::ExpectNoOther { path, value } => {
                expected(self.value(path).is_none_or(|found| Some(text(found)) == *value))
            }
            Change::Write { path, value } => {
                self.written(path, value.as_bytes());
                Ok(Outcome::AsItSays)
            }
            Change::Mkdir { path } => {
                if self.value(path).is_none() {
                    self.written(path, &[]);
                }
                Ok(Outcome::AsItSays)
            }
            Change::Permit { .. } => Ok(Outcome::AsItSays),
            Change::Remove { path } => {
                self.removed(path);
                Ok(Outcome::AsItSays)
            }
            Change::RemoveIfEmpty { path } => match self.children.get(path.as_str()) {
                Some(Some(children)) if children.is_empty() => Ok(self.remove(path)),
                _ => Ok(Outcome::Nothing),
            },
            Change::Copy { from, to } => match self.value(from).map(<[u8]>::to_vec) {
                Some(value) => Ok(self.write(to, value)),
                None => Ok(self.remove(to)),
            },
            Change::Replace { path, old, new } => match (self.value(path).map(text), new) {
                (Some(found), _) if found != *old => Ok(Outcome::Nothing),
                (_, Some(new)) => Ok(self.write(path, new.as_bytes().to_vec())),
                (Some(_), None) => Ok(self.remove(path)),
                (None, None) => Ok(Outcome::Nothing),
            },
        }
    }

    fn write(&mut self, path: &'a str, value: Vec<u8>) -> Outcome<'a> {
        self.written(path, &value);
        Outcome::Write(path, value)
    }

    fn remove(&mut self, path: &'a str) -> Outcome<'a> {
        self.removed(path);
        Outcome::Remove(path)
    }

    /// A node has this value now, and those above it are there.
    fn written(&mut self, path: &str, value: &[u8]) {
        if let Some(known) = self.values.get_mut(path) {
            *known = Some(value.to_vec());
        }
        for (dir, known) in &mut self.values {
            if known.is_none() && is_below(path, dir) {
                *known = Some(Vec::new());
            }
        }
        for (dir, children) in &mut self.children {
            if *dir == path {
                children.get_or_insert_default();
            } else if let Some(name) = below(path, dir).and_then(|rest| rest.split('/').next()) {
                children.get_or_insert_default().insert(name.to_owned());
            }
        }
    }

    /// A node and all below it are gone.
    fn removed(&mut self, path: &str) {
        for (node, known) in &mut self.values {
            if *node == path || is_below(node, path) {
                *known = None;
            }
        }
        for (dir, children) in &mut self.children {
            if *dir == path || is_below(dir, path) {
                *children = None;
            } else if let (Some(children), Some(name)) = (children, below(path, dir)) {
                children.remove(name);
            }
        }
    }
}

/// The path from a node to one below it.
fn below<'p>(path: &'p str, dir: &str) -> Option<&'p str> {
    path.strip_prefix(dir)?.strip_prefix('/')
}

fn is_below(path: &str, dir: &str) -> bool {
    below(path, dir).is_some()
}

/// The names in an answer to DIRECTORY, each with a NUL behind it.
fn names(listing: &[u8]) -> BTreeSet<String> {
    let names = listing.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// Replaces invalid UTF-8, and strips the newline or NUL that some writers append.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\0', '\n']).to_owned()
}

impl<T: Transport<Error: Display> + Timed> Store for Connection<T> {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        let bytes = self.client().read_bytes(path).map_err(|error| failure("read", path, &error))?;
        Ok(bytes.as_deref().map(text))
    }

    fn read_many(&self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        let values = self.client().read_all(paths).map_err(|error| failure("read", &paths.join(" "), &error))?;
        Ok(values.iter().map(|value| value.as_deref().map(text)).collect())
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        let children = self.client().directory(path).map_err(|error| failure("list", path, &error))?;
        Ok(children.unwrap_or_default())
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        // One write is a transaction by itself.
        if let [Change::Write { path, value }] = changes {
            let done = self.client().write(path, value).map_err(|error| failure("write", path, &error));
            return done.map(|()| true);
        }
        let done = self.client().transaction(|nodes| apply(nodes, changes));
        match done {
            Ok(()) => Ok(true),
            Err(Inside::Unexpected) => Ok(false),
            Err(Inside::Failed { path, error }) => Err(failure("transaction", &path, &error)),
        }
    }
}

impl<T: Transport<Error: Display> + Timed> Watches for Connection<T> {
    fn watch(&self, path: &str) -> Result<(), StoreFailure> {
        self.client().watch(path, TOKEN).map_err(|error| failure("watch", path, &error))
    }

    fn unwatch(&self, path: &str) -> Result<(), StoreFailure> {
        self.client().unwatch(path, TOKEN).map_err(|error| failure("unwatch", path, &error))
    }

    fn next(&self) -> Result<Option<String>, StoreFailure> {
        let mut store = self.client();
        if store.take_overflowed() {
            return Ok(Some(String::new()));
        }
        let now = store.transport().now_ns();
        let event = store.next_watch_event(Some(now)).map_err(|error| failure("wait", "", &error))?;
        Ok(event.map(|event| event.path))
    }
}
