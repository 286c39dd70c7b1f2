//! [`Store`] over a real connection.

use std::cell::{RefCell, RefMut};
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

/// Makes the changes in their order, those in a row that need no look together.
fn apply<T: Transport>(nodes: &mut Transaction<'_, T>, changes: &[Change]) -> Result<(), Inside<T::Error>> {
    for run in changes.chunk_by(|one, next| simple(one).is_some() == simple(next).is_some()) {
        let (paths, requests): (Vec<&str>, Vec<Request<'_>>) = run.iter().filter_map(simple).unzip();
        for (answer, (path, request)) in nodes.request_all(&requests)?.into_iter().zip(paths.iter().zip(&requests)) {
            match answer {
                Ok(_) => {}
                Err(error) if error.is(Errno::ENOENT) && matches!(request, Request::Remove { .. }) => {}
                Err(error) => return Err(Inside::Failed { path: (*path).to_owned(), error: error.into() }),
            }
        }
        run.iter().filter(|change| simple(change).is_none()).try_for_each(|change| apply_one(nodes, change))?;
    }
    Ok(())
}

fn apply_one<T: Transport>(nodes: &mut Transaction<'_, T>, change: &Change) -> Result<(), Inside<T::Error>> {
    let (path, result) = match change {
        Change::Write { .. } | Change::Mkdir { .. } | Change::Permit { .. } | Change::Remove { .. } => return Ok(()),
        Change::RemoveIfEmpty { path } => (path, remove_if_empty(nodes, path)),
        Change::Copy { from, to } => (from, copy(nodes, from, to)),
        Change::Expect { path, value } => match nodes.read_bytes(path) {
            Ok(found) if found.as_deref().map(text).as_ref() == Some(value) => return Ok(()),
            Ok(_) => return Err(Inside::Unexpected),
            Err(error) => (path, Err(error)),
        },
        Change::ExpectState { path, state } => match nodes.read_bytes(path) {
            Ok(Some(found)) if XenbusState::parse(&found) == *state => return Ok(()),
            Ok(_) => return Err(Inside::Unexpected),
            Err(error) => (path, Err(error)),
        },
        Change::ExpectNoOther { path, value } => match nodes.read_bytes(path) {
            Ok(None) => return Ok(()),
            Ok(Some(found)) if Some(text(&found)) == *value => return Ok(()),
            Ok(Some(_)) => return Err(Inside::Unexpected),
            Err(error) => (path, Err(error)),
        },
        Change::Replace { path, old, new } => (path, replace(nodes, path, old, new.as_deref())),
    };
    result.map_err(|error| Inside::Failed { path: path.clone(), error })
}

/// Replaces invalid UTF-8, and strips the newline or NUL that some writers append.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches(['\0', '\n']).to_owned()
}

fn copy<T: Transport>(nodes: &mut Transaction<'_, T>, from: &str, to: &str) -> Result<(), StoreError<T::Error>> {
    match nodes.read_bytes(from)? {
        Some(value) => nodes.write(to, &value),
        None => nodes.remove(to).map(drop),
    }
}

fn replace<T: Transport>(
    nodes: &mut Transaction<'_, T>,
    path: &str,
    old: &str,
    new: Option<&str>,
) -> Result<(), StoreError<T::Error>> {
    match (nodes.read_bytes(path)?, new) {
        (Some(found), _) if text(&found) != old => Ok(()),
        (_, Some(new)) => nodes.write(path, new.as_bytes()),
        (Some(_), None) => nodes.remove(path).map(drop),
        (None, None) => Ok(()),
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
        let bytes = self.client().read_bytes(path).map_err(|error| failure("read", path, &error))?;
        Ok(bytes.as_deref().map(text))
    }

    fn read_many(&self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        let values = self.client().read_all(paths).map_err(|error| failure("read", &paths.join(" "), &error))?;
        Ok(values.iter().map(|value| value.as_deref().map(text)).collect())
    }

    fn write_and_read(&self, path: &str, value: &str, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        let requests: Vec<Request<'_>> = std::iter::once(Request::Write { path, value: value.as_bytes() })
            .chain(paths.iter().map(|path| Request::Read { path }))
            .collect();
        let answers = self.client().request_all(&requests);
        let mut answers = answers.map_err(|error| failure("write", path, &error))?.into_iter();
        if let Some(Err(error)) = answers.next() {
            return Err(failure("write", path, &StoreError::<T::Error>::from(error)));
        }
        let value = |(path, answer): (&&str, Result<Vec<u8>, xenstore::Error>)| match answer {
            Ok(bytes) => Ok(Some(text(&bytes))),
            Err(error) if error.is(Errno::ENOENT) => Ok(None),
            Err(error) => Err(failure("read", path, &StoreError::<T::Error>::from(error))),
        };
        paths.iter().zip(answers).map(value).collect()
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
