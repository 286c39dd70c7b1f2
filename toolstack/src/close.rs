//! Ending the connection of a guest that has no devices any more, so that its frontend is closed when the directories go.

use std::time::Duration;

use xen_types::DomId;
use xenstore::XenbusState;

use crate::directories::{Ends, set_back, set_online};
use crate::domain;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::pool::STUB_PATIENCE;
use crate::store::Change;

/// Asks the guest to close, and waits until it has. A guest that never connected need not be asked: it sees its directory vanish. False
/// when it did not close in time; then everything is as before.
pub(crate) fn close(host: &Host, stub: &DomainName, guest: &DomainName, timeout: Duration) -> Result<bool, Error> {
    let is_closed = |state| matches!(state, XenbusState::Unknown | XenbusState::Closed);
    let before = Ends::read(host, stub.id, guest.id)?;
    if is_closed(before.front) || before.front == XenbusState::Initialising {
        return Ok(true);
    }
    host.commit(&ask(stub.id, guest.id))?;
    let watched = Ends::watched(stub.id, guest.id);
    let closed = host.wait_for(&watched, timeout, || {
        let gone = !domain::is_alive(host, guest.id)? || !domain::is_alive(host, stub.id)?;
        Ok((gone || is_closed(Ends::read(host, stub.id, guest.id)?.front)).then_some(()))
    })?;
    if closed.is_some() {
        // The stub follows at once. If it does not, taking the directories away makes it let go, and that is waited for too.
        host.wait_for(&watched, STUB_PATIENCE, || {
            let back = Ends::read(host, stub.id, guest.id)?.back;
            Ok((is_closed(back) || !domain::is_alive(host, stub.id)?).then_some(()))
        })?;
        return Ok(true);
    }
    reopen(host, stub, guest)?;
    Ok(false)
}

fn ask(stub: DomId, guest: DomId) -> [Change; 2] {
    [set_online(stub, guest, 0), set_back(stub, guest, XenbusState::Closing)]
}

/// Takes the question back, if the guest has not moved. Where it has, it goes on closing.
pub(crate) fn reopen(host: &Host, stub: &DomainName, guest: &DomainName) -> Result<bool, Error> {
    let ends = Ends::read(host, stub.id, guest.id)?;
    if ends != (Ends { back: XenbusState::Closing, front: XenbusState::Connected }) {
        return Ok(false);
    }
    let mut changes = ends.expected(stub.id, guest.id);
    changes.push(set_online(stub.id, guest.id, 1));
    changes.push(set_back(stub.id, guest.id, XenbusState::Connected));
    host.commit_if(&changes)
}
