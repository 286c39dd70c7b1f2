//! The real [`Rings`]: grants and event channels together.

use std::os::fd::{AsFd, BorrowedFd};

use xen_types::{DomId, GrantRef, Port};

use super::events::Events;
use super::grants::{Grants, MappedPage};
use super::{HypercallError, OpenError, Rings, XenVersion};

/// Both libraries, open.
pub struct LibxenRings {
    grants: Grants,
    events: Events,
}

impl LibxenRings {
    /// Loads both libraries and opens their devices.
    ///
    /// # Errors
    /// No library, a library that lacks a function, or a kernel that refuses.
    pub fn open(version: XenVersion) -> Result<Self, OpenError> {
        Ok(Self { grants: Grants::open(version)?, events: Events::open(version)? })
    }
}

impl AsFd for LibxenRings {
    /// Readable while an event waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Rings for LibxenRings {
    type Page = MappedPage;

    fn map(&self, stub: DomId, grant: GrantRef) -> Result<MappedPage, HypercallError> {
        self.grants.map(stub, grant)
    }

    fn bind(&self, stub: DomId, remote: Port) -> Result<Port, HypercallError> {
        self.events.bind(stub, remote)
    }

    fn notify(&self, port: Port) -> Result<(), HypercallError> {
        self.events.notify(port)
    }

    fn unbind(&self, port: Port) -> Result<(), HypercallError> {
        self.events.unbind(port)
    }

    fn next_event(&self) -> Result<Option<Port>, HypercallError> {
        self.events.next()
    }
}
