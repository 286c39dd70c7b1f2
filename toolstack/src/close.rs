//! Ending the connection of a guest that has no devices any more, so that its frontend is closed when the directories go.

use std::time::Duration;

use xenstore::XenbusState;

use crate::directories::{Ends, set_back, set_online};
use crate::domain;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::pool::STUB_PATIENCE;

/// Asks the guest to close, and waits until it has. A guest that never connected need not be asked: it sees its directory vanish. False
/// when it did not close in time: it may do so later, and then the next command removes the directories.
pub(crate) fn close(host: &Host, stub: &DomainName, guest: &DomainName, timeout: Duration) -> Result<bool, Error> {
    let is_closed = |state| matches!(state, XenbusState::Unknown | XenbusState::Closed);
    let front = Ends::read(host, stub.id, guest.id)?.front;
    if is_closed(front) || front == XenbusState::Initialising {
        return Ok(true);
    }
    host.commit(&[set_online(stub.id, guest.id, 0), set_back(stub.id, guest.id, XenbusState::Closing)])?;
    let watched = Ends::watched(stub.id, guest.id);
    let closed = host.wait_for(&watched, timeout, || {
        let gone = !domain::is_alive(host, guest.id)? || !domain::is_alive(host, stub.id)?;
        Ok((gone || is_closed(Ends::read(host, stub.id, guest.id)?.front)).then_some(()))
    })?;
    if closed.is_none() {
        return Ok(false);
    }
    // The stub follows at once. If it does not, taking the directories away makes it let go, and that is waited for too.
    host.wait_for(&watched, STUB_PATIENCE, || {
        let back = Ends::read(host, stub.id, guest.id)?.back;
        Ok((is_closed(back) || !domain::is_alive(host, stub.id)?).then_some(()))
    })?;
    Ok(true)
}
