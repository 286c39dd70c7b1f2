//! Xenstore as the tool uses it: single reads, changes that happen together or not at all, and waiting for changes.
//!
//! A transaction is a list of [`Change`]s and not a closure, so that it can be repeated when somebody else came in between,
//! shown under `-v`, and taken to pieces by tests.

mod channel;
mod connection;
mod watches;

pub(crate) use channel::StoreChannel;
pub(crate) use connection::Connection;
#[cfg(test)]
pub(crate) use connection::Timed;
pub(crate) use watches::WatchConnection;

use std::time::Duration;

use xenstore::{Permission, XenbusState};

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Writes a value; the node and those above it are created if missing, with their parent's rights.
    Write { path: String, value: String },
    /// Creates an empty node if there is none.
    Mkdir { path: String },
    /// Says who may do what with a node; the first entry is the owner.
    Permit { path: String, permissions: Vec<Permission> },
    /// Removes a node and all below it, if it is there.
    Remove { path: String },
    /// Removes a node that has no children left.
    RemoveIfEmpty { path: String },
    /// Gives a node the value that another one has by then, and leaves its rights; removes it where there is none to give.
    Copy { from: String, to: String },
    /// Nothing of the transaction happens unless the node has this value.
    Expect { path: String, value: String },
    /// Nothing of the transaction happens unless the node has this state, however its owner writes it: `4`, `04`.
    ExpectState { path: String, state: XenbusState },
    /// Nothing of the transaction happens unless the node is absent, or has this value where one is named.
    ExpectNoOther { path: String, value: Option<String> },
    /// Gives a node that is absent, or has the value `old`, the value `new`, or removes it; one that says something else stays.
    Replace { path: String, old: String, new: Option<String> },
}

impl Change {
    pub(crate) fn write(path: impl Into<String>, value: impl ToString) -> Self {
        Self::Write { path: path.into(), value: value.to_string() }
    }

    pub(crate) fn remove(path: impl Into<String>) -> Self {
        Self::Remove { path: path.into() }
    }

    pub(crate) fn remove_if_empty(path: impl Into<String>) -> Self {
        Self::RemoveIfEmpty { path: path.into() }
    }

    pub(crate) fn copy(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::Copy { from: from.into(), to: to.into() }
    }

    pub(crate) fn expect(path: impl Into<String>, value: impl ToString) -> Self {
        Self::Expect { path: path.into(), value: value.to_string() }
    }

    pub(crate) fn expect_state(path: impl Into<String>, state: XenbusState) -> Self {
        Self::ExpectState { path: path.into(), state }
    }

    pub(crate) fn expect_no_other(path: impl Into<String>, value: Option<String>) -> Self {
        Self::ExpectNoOther { path: path.into(), value }
    }

    pub(crate) fn replace(path: impl Into<String>, old: impl ToString, new: Option<String>) -> Self {
        Self::Replace { path: path.into(), old: old.to_string(), new }
    }

    /// A directory with rights of its own.
    pub(crate) fn directory(path: impl Into<String>, permissions: &[Permission]) -> [Self; 2] {
        let path = path.into();
        [Self::Mkdir { path: path.clone() }, Self::Permit { path, permissions: permissions.to_vec() }]
    }

    /// A node with a value and rights of its own.
    pub(crate) fn node(path: impl Into<String>, value: impl ToString, permissions: &[Permission]) -> [Self; 2] {
        let path = path.into();
        [Self::write(path.clone(), value), Self::Permit { path, permissions: permissions.to_vec() }]
    }
}

/// Xenstore did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("xenstore: {what}: {why}")]
pub(crate) struct StoreFailure {
    /// The request and its path.
    pub(crate) what: String,
    pub(crate) why: String,
}

/// The tool's xenstore: [`Connection`] in dom0, a fake in tests.
pub(crate) trait Store {
    /// A node's value, `None` when there is no such node. What is not UTF-8 is replaced: a guest may write anything.
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure>;

    /// As [`Store::read`] for several nodes, which may be under way together.
    fn read_many(&self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        paths.iter().map(|path| self.read(path)).collect()
    }

    /// Writes a node and reads others as they are afterwards. All of it may be under way together: xenstored carries out what comes
    /// over one connection in its order.
    fn write_and_read(&self, path: &str, value: &str, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        self.commit(&[Change::write(path, value)])?;
        self.read_many(paths)
    }

    /// The names of a node's children; none as well when there is no such node.
    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure>;

    /// Makes all the changes in one transaction. False when something that was expected is not so: then nothing has changed.
    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure>;

    /// Starts watching these paths and what is below them. A name with `@` is one of xenstore's special events.
    fn watch(&self, paths: &[String]) -> Result<(), StoreFailure>;

    /// Ends what [`Store::watch`] began, and forgets events that came meanwhile.
    fn unwatch(&self, paths: &[String]) -> Result<(), StoreFailure>;

    /// Waits until something watched changes. False when `timeout` passed first.
    fn wait(&self, timeout: Duration) -> Result<bool, StoreFailure>;
}
