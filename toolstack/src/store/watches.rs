//! Watches on a connection of their own, for a loop that must never wait.

use std::cell::RefCell;
use std::fmt::Display;

use xenstore::{Store, Transport};

use super::StoreFailure;
use super::connection::{Timed, failure};
use crate::broker::Watches;

/// The token of our watches: events are told apart by their paths.
const TOKEN: &str = "pcidom";

/// A connection that only watches.
pub(crate) struct WatchConnection<T>(RefCell<Store<T>>);

impl<T: Transport<Error: Display> + Timed> WatchConnection<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self(RefCell::new(Store::new(transport)))
    }
}

impl<T: Transport<Error: Display> + Timed> Watches for WatchConnection<T> {
    fn watch(&self, path: &str) -> Result<(), StoreFailure> {
        self.0.borrow_mut().watch(path, TOKEN).map_err(|error| failure("watch", path, &error))
    }

    fn unwatch(&self, path: &str) -> Result<(), StoreFailure> {
        self.0.borrow_mut().unwatch(path, TOKEN).map_err(|error| failure("unwatch", path, &error))
    }

    fn next(&self) -> Result<Option<String>, StoreFailure> {
        let mut store = self.0.borrow_mut();
        if store.take_overflowed() {
            return Ok(Some(String::new()));
        }
        let now = store.transport().now_ns();
        let event = store.next_watch_event(Some(now)).map_err(|error| failure("wait", "", &error))?;
        Ok(event.map(|event| event.path))
    }
}
