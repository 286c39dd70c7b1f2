//! Xenstore as broker and commands use it: single reads, changes that happen together or not at all, and watches.
//!
//! A transaction is a list of [`Change`]s and not a closure, so that it can be repeated when somebody else came in between,
//! shown under `-v`, and taken to pieces by tests.

mod channel;
mod connection;

pub use channel::StoreChannel;
pub use connection::{Connection, Timed, failure};

use xenstore::{Permission, XenbusState};

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value; the node and those above it are created if missing, with their parent's rights.
    Write {
        /// Which node.
        path: String,
        /// Its value.
        value: String,
    },
    /// Creates an empty node if there is none.
    Mkdir {
        /// Which node.
        path: String,
    },
    /// Says who may do what with a node; the first entry is the owner.
    Permit {
        /// Which node.
        path: String,
        /// Who may do what.
        permissions: Vec<Permission>,
    },
    /// Removes a node and all below it, if it is there.
    Remove {
        /// Which node.
        path: String,
    },
    /// Removes a node that has no children left.
    RemoveIfEmpty {
        /// Which node.
        path: String,
    },
    /// Gives a node the value that another one has by then, and leaves its rights; removes it where there is none to give.
    Copy {
        /// Whose value.
        from: String,
        /// Which node gets it.
        to: String,
    },
    /// Nothing of the transaction happens unless the node has this value.
    Expect {
        /// Which node.
        path: String,
        /// Its value.
        value: String,
    },
    /// Nothing of the transaction happens unless the node has this state, however its owner writes it: `4`, `04`.
    ExpectState {
        /// Which node.
        path: String,
        /// Its state.
        state: XenbusState,
    },
    /// Nothing of the transaction happens unless the node is absent, or has this value where one is named.
    ExpectNoOther {
        /// Which node.
        path: String,
        /// Its value.
        value: Option<String>,
    },
    /// Gives a node that is absent, or has the value `old`, the value `new`, or removes it; one that says something else stays.
    Replace {
        /// Which node.
        path: String,
        /// What it may have.
        old: String,
        /// What it gets; `None` for nothing.
        new: Option<String>,
    },
}

impl Change {
    /// The node that it changes, or looks at.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Write { path, .. }
            | Self::Mkdir { path }
            | Self::Permit { path, .. }
            | Self::Remove { path }
            | Self::RemoveIfEmpty { path }
            | Self::Copy { to: path, .. }
            | Self::Expect { path, .. }
            | Self::ExpectState { path, .. }
            | Self::ExpectNoOther { path, .. }
            | Self::Replace { path, .. } => path,
        }
    }

    /// A value.
    pub fn write(path: impl Into<String>, value: impl ToString) -> Self {
        Self::Write { path: path.into(), value: value.to_string() }
    }

    /// Removing a node.
    pub fn remove(path: impl Into<String>) -> Self {
        Self::Remove { path: path.into() }
    }

    /// Removing a node without children.
    pub fn remove_if_empty(path: impl Into<String>) -> Self {
        Self::RemoveIfEmpty { path: path.into() }
    }

    /// Copying a value.
    pub fn copy(from: impl Into<String>, to: impl Into<String>) -> Self {
        Self::Copy { from: from.into(), to: to.into() }
    }

    /// A condition: this value.
    pub fn expect(path: impl Into<String>, value: impl ToString) -> Self {
        Self::Expect { path: path.into(), value: value.to_string() }
    }

    /// A condition: this state.
    pub fn expect_state(path: impl Into<String>, state: XenbusState) -> Self {
        Self::ExpectState { path: path.into(), state }
    }

    /// A condition: nothing, or this value.
    pub fn expect_no_other(path: impl Into<String>, value: Option<String>) -> Self {
        Self::ExpectNoOther { path: path.into(), value }
    }

    /// A new value for an old one.
    pub fn replace(path: impl Into<String>, old: impl ToString, new: Option<String>) -> Self {
        Self::Replace { path: path.into(), old: old.to_string(), new }
    }

    /// A directory with rights of its own.
    pub fn directory(path: impl Into<String>, permissions: &[Permission]) -> [Self; 2] {
        let path = path.into();
        [Self::Mkdir { path: path.clone() }, Self::Permit { path, permissions: permissions.to_vec() }]
    }

    /// A node with a value and rights of its own.
    pub fn node(path: impl Into<String>, value: impl ToString, permissions: &[Permission]) -> [Self; 2] {
        let path = path.into();
        [Self::write(path.clone(), value), Self::Permit { path, permissions: permissions.to_vec() }]
    }
}

/// Xenstore did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("xenstore: {what}: {why}")]
pub struct StoreFailure {
    /// The request and its path.
    pub what: String,
    /// Its answer.
    pub why: String,
}

/// The tool's xenstore: [`Connection`] in dom0, a fake in tests.
pub trait Store {
    /// A node's value, `None` when there is no such node. What is not UTF-8 is replaced: a guest may write anything.
    ///
    /// # Errors
    /// Xenstore's.
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure>;

    /// As [`Store::read`] for several nodes, which may be under way together.
    ///
    /// # Errors
    /// Xenstore's.
    fn read_many(&self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        paths.iter().map(|path| self.read(path)).collect()
    }

    /// The names of a node's children; none as well when there is no such node.
    ///
    /// # Errors
    /// Xenstore's.
    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure>;

    /// Makes all the changes in one transaction. False when something that was expected is not so: then nothing has changed.
    ///
    /// # Errors
    /// Xenstore's.
    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure>;
}

/// News from xenstore, for a loop that must never wait.
pub trait Watches {
    /// Asks for news about a path and what is below it. A name with `@` is one of xenstore's special events.
    ///
    /// # Errors
    /// Xenstore's.
    fn watch(&self, path: &str) -> Result<(), StoreFailure>;
    /// Ends what [`Watches::watch`] began.
    ///
    /// # Errors
    /// Xenstore's.
    fn unwatch(&self, path: &str) -> Result<(), StoreFailure>;
    /// The next path at or below a watched one that changed; `None` when nothing has. An empty path means that some were lost.
    ///
    /// # Errors
    /// Xenstore's.
    fn next(&self) -> Result<Option<String>, StoreFailure>;
}
