//! Xenstore as commands use it: what the crate `dom0` has, and waiting for changes.

pub(crate) use ::dom0::store::{Change, Connection, Store, StoreChannel, StoreFailure, Timed};

use std::fmt::Display;
use std::time::Duration;

use ::dom0::store::failure;
use xenstore::{Nodes as _, Request, StoreError, Transport};

/// The token of our watches. One is enough: whatever fires, everything watched is read again.
const TOKEN: &str = "pcidom";

/// A store whose changes can be waited for: [`Connection`] in dom0, a fake in tests.
pub(crate) trait Waits: Store {
    /// Starts watching these paths and what is below them. A name with `@` is one of xenstore's special events.
    fn watch(&self, paths: &[String]) -> Result<(), StoreFailure>;

    /// Ends what [`Waits::watch`] began, and forgets events that came meanwhile.
    fn unwatch(&self, paths: &[String]) -> Result<(), StoreFailure>;

    /// Waits until something watched changes. False when `timeout` passed first.
    fn wait(&self, timeout: Duration) -> Result<bool, StoreFailure>;
}

impl<T: Transport<Error: Display> + Timed> Waits for Connection<T> {
    fn watch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        let requests: Vec<Request<'_>> = paths.iter().map(|path| Request::Watch { path, token: TOKEN }).collect();
        make_all(self, "watch", paths, &requests)
    }

    fn unwatch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        let requests: Vec<Request<'_>> = paths.iter().map(|path| Request::Unwatch { path, token: TOKEN }).collect();
        make_all(self, "unwatch", paths, &requests)?;
        forget_events(self)
    }

    fn wait(&self, timeout: Duration) -> Result<bool, StoreFailure> {
        let mut store = self.client();
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let deadline = store.transport().now_ns().saturating_add(timeout);
        let event = store.next_watch_event(Some(deadline)).map_err(|error| failure("wait", "", &error))?;
        drop(store);
        // Whatever else has fired: one look is enough for all.
        forget_events(self)?;
        Ok(event.is_some())
    }
}

/// Makes one request for each path, together.
fn make_all<T: Transport<Error: Display> + Timed>(
    connection: &Connection<T>,
    what: &str,
    paths: &[String],
    requests: &[Request<'_>],
) -> Result<(), StoreFailure> {
    let answers = connection.client().request_all(requests);
    let answers = answers.map_err(|error| failure(what, &paths.join(" "), &error))?;
    for (path, answer) in paths.iter().zip(answers) {
        answer.map_err(|error| failure(what, path, &StoreError::<T::Error>::from(error)))?;
    }
    Ok(())
}

/// Drops the events that are there.
fn forget_events<T: Transport<Error: Display> + Timed>(connection: &Connection<T>) -> Result<(), StoreFailure> {
    let mut store = connection.client();
    let now = store.transport().now_ns();
    while store.next_watch_event(Some(now)).map_err(|error| failure("wait", "", &error))?.is_some() {}
    Ok(())
}
