//! The control plane: everything that talks to xenstore, as small tasks that wait for its answers and never for each other.
//!
//! | task | how many | does |
//! |---|---|---|
//! | [`startup`] | one | sets the stub's watches, then announces itself |
//! | [`shutdown`] | one | obeys `control/shutdown` |
//! | [`directory`] | one | lists `backend/pci` when an event did not say whose directory it was |
//! | [`frontend`] | one a frontend | the handshake: reads its nodes, asks [`decide`](crate::handshake::decide()), does it |
//! | [`pool_watcher`] | one | the pool's nodes |
//!
//! They share one [`Core`](crate::shared::Core), which no task borrows while it waits. Watch events are not queued: each raises
//! a flag ([`Signal`](crate::signal::Signal)) of the task that it concerns.

pub(crate) mod directory;
pub(crate) mod executor;
pub(crate) mod frontend;
pub(crate) mod pool_watcher;
pub(crate) mod read;
pub(crate) mod shutdown;
pub(crate) mod startup;
pub(crate) mod store;
pub(crate) mod values;
