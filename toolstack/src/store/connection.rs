//! [`Store`] over a real connection.

use std::cell::RefCell;
use std::fmt::Display;
use std::time::Duration;

use xenstore::{Nodes, StoreError, Transaction, Transport};

use super::{Change, Store, StoreFailure};

/// The token of our watches. One is enough: whatever fires, everything watched is read again.
const TOKEN: &str = "pcidom";

/// A transport that can say what time it is, by the clock its deadlines are measured with.
pub(crate) trait Timed {
    fn now_ns(&self) -> u64;
}

/// A connection to xenstored.
pub(crate) struct Connection<T> {
    store: RefCell<xenstore::Store<T>>,
}

impl<T: Transport<Error: Display> + Timed> Connection<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self { store: RefCell::new(xenstore::Store::new(transport)) }
    }
}

pub(super) fn failure<E: Display>(what: &str, path: &str, error: &StoreError<E>) -> StoreFailure {
    StoreFailure { what: format!("{what} {path}"), why: error.to_string() }
}

/// What ends a transaction early.
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

fn apply<T: Transport>(nodes: &mut Transaction<'_, T>, change: &Change) -> Result<(), Inside<T::Error>> {
    let (path, result) = match change {
        Change::Write { path, value } => (path, nodes.write(path, value)),
        Change::Mkdir { path } => (path, nodes.mkdir(path)),
        Change::Permit { path, permissions } => (path, nodes.set_permissions(path, permissions)),
        Change::Remove { path } => (path, nodes.remove(path).map(drop)),
        Change::RemoveIfEmpty { path } => (path, remove_if_empty(nodes, path)),
        Change::Copy { from, to } => (from, copy(nodes, from, to)),
        Change::Expect { path, value } => match nodes.read_bytes(path) {
            Ok(found) if found.as_deref().map(text).as_ref() == Some(value) => return Ok(()),
            Ok(_) => return Err(Inside::Unexpected),
            Err(error) => (path, Err(error)),
        },
    };
    result.map_err(|error| Inside::Failed { path: path.clone(), error })
}

/// What is not UTF-8 is replaced, and what writers leave at the end goes.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\0', '\n']).to_owned()
}

fn copy<T: Transport>(nodes: &mut Transaction<'_, T>, from: &str, to: &str) -> Result<(), StoreError<T::Error>> {
    match nodes.read_bytes(from)? {
        Some(value) => nodes.write(to, &value),
        None => nodes.remove(to).map(drop),
    }
}

fn remove_if_empty<T: Transport>(nodes: &mut Transaction<'_, T>, path: &str) -> Result<(), StoreError<T::Error>> {
    match nodes.directory(path)? {
        Some(children) if children.is_empty() => nodes.remove(path).map(drop),
        _ => Ok(()),
    }
}

impl<T: Transport<Error: Display> + Timed> Store for Connection<T> {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        let bytes = self.store.borrow_mut().read_bytes(path).map_err(|error| failure("read", path, &error))?;
        Ok(bytes.as_deref().map(text))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        let children = self.store.borrow_mut().directory(path).map_err(|error| failure("list", path, &error))?;
        Ok(children.unwrap_or_default())
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        // One write is a transaction by itself.
        if let [Change::Write { path, value }] = changes {
            let done = self.store.borrow_mut().write(path, value).map_err(|error| failure("write", path, &error));
            return done.map(|()| true);
        }
        let done =
            self.store.borrow_mut().transaction(|nodes| changes.iter().try_for_each(|change| apply(nodes, change)));
        match done {
            Ok(()) => Ok(true),
            Err(Inside::Unexpected) => Ok(false),
            Err(Inside::Failed { path, error }) => Err(failure("transaction", &path, &error)),
        }
    }

    fn watch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        let mut store = self.store.borrow_mut();
        paths.iter().try_for_each(|path| store.watch(path, TOKEN).map_err(|error| failure("watch", path, &error)))
    }

    fn unwatch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        let mut store = self.store.borrow_mut();
        for path in paths {
            store.unwatch(path, TOKEN).map_err(|error| failure("unwatch", path, &error))?;
        }
        let now = store.transport().now_ns();
        while store.next_watch_event(Some(now)).map_err(|error| failure("wait", "", &error))?.is_some() {}
        Ok(())
    }

    fn wait(&self, timeout: Duration) -> Result<bool, StoreFailure> {
        let mut store = self.store.borrow_mut();
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let deadline = store.transport().now_ns().saturating_add(timeout);
        let event = store.next_watch_event(Some(deadline)).map_err(|error| failure("wait", "", &error))?;
        Ok(event.is_some())
    }
}
