//! Ending the connection of a guest that has no devices any more, so that its frontend is closed when the directories go.

use std::time::Duration;

use xen_types::DomId;
use xenstore::path::{self, key};
use xenstore::{Permission, XenbusState};

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::pool::STUB_PATIENCE;
use crate::records::directories::{Ends, end_state, set_back, set_online};
use crate::store::Change;

/// The least that is waited for a guest that is paused: an audit may have it stand still for a moment.
const PAUSED: Duration = Duration::from_millis(200);

/// Asks the guest to close, and waits until it has. A guest that never connected need not be asked: it sees its directory vanish. False
/// when it did not close in time: it may do so later, and then the next command removes the directories.
pub(crate) fn close(host: &Host, stub: &DomainName, guest: &DomainName, timeout: Duration) -> Result<bool, Error> {
    let is_closed = |state| matches!(state, XenbusState::Unknown | XenbusState::Closed);
    let Ends { back, front } = Ends::read(host, stub.id, guest.id)?;
    if is_closed(front) || front == XenbusState::Initialising {
        return Ok(true);
    }
    if back == XenbusState::Unknown {
        // Somebody removed the directory, and the stub has let go.
        return close_without_stub(host, stub.id, guest, timeout);
    }
    host.commit(&[set_online(stub.id, guest.id, 0), set_back(stub.id, guest.id, XenbusState::Closing)])?;
    let timeout = patience(host, guest, timeout)?;
    let closed = host.wait_for_guest(guest.id, &Ends::watched(stub.id, guest.id), timeout, || {
        let gone = !domain::is_alive(host, guest.id)? || !domain::is_alive(host, stub.id)?;
        Ok((gone || is_closed(Ends::read(host, stub.id, guest.id)?.front)).then_some(()))
    })?;
    if closed.is_none() {
        return Ok(false);
    }
    // The stub follows at once. If it does not, taking the directories away makes it let go, and that is waited for too.
    host.wait_for_guest(guest.id, &Ends::watched(stub.id, guest.id), STUB_PATIENCE, || {
        let back = Ends::read(host, stub.id, guest.id)?.back;
        Ok((is_closed(back) || !domain::is_alive(host, stub.id)?).then_some(()))
    })?;
    Ok(true)
}

/// The same for a guest whose stub is gone: the guest still watches the place where the stub's state was. Linux's pcifront does not
/// take to a new directory unless it closed the old one ("PCI frontend already installed").
pub(crate) fn close_orphan(host: &Host, stub: DomId, guest: &DomainName, timeout: Duration) -> Result<bool, Error> {
    if is_over(end_state(host, &path::frontend_dir(guest.id))?) {
        return Ok(true);
    }
    // Domain ids come again: nothing is to be written into another domain's directory.
    if domain::is_alive(host, stub)? {
        return Ok(false);
    }
    close_without_stub(host, stub, guest, timeout)
}

/// The frontend does not use what the backend's end says, or not yet.
const fn is_over(front: XenbusState) -> bool {
    matches!(front, XenbusState::Unknown | XenbusState::Closed | XenbusState::Initialising)
}

/// How long it makes sense to wait for a guest that may take so long: one that is paused answers when it goes on.
fn patience(host: &Host, guest: &DomainName, timeout: Duration) -> Result<Duration, Error> {
    let is_paused = domain::info(host, guest.id)?.is_some_and(|info| info.paused);
    Ok(if is_paused { timeout.min(PAUSED) } else { timeout })
}

/// Asks the guest to close where the stub's directory was, which is gone, and waits until it has. One that was asked by an earlier command
/// and has not answered is not waited for again: it finds the question when it looks.
fn close_without_stub(host: &Host, stub: DomId, guest: &DomainName, timeout: Duration) -> Result<bool, Error> {
    let frontend = path::frontend_dir(guest.id);
    let readable = [Permission::none(DomId::DOM0), Permission::read(guest.id)];
    let backend = path::backend_dir(stub, guest.id);
    // Says it where that was not said before, and waits; who was asked before is not waited for again.
    let ask = |state, others: &[(&str, &str)], is_there: fn(XenbusState) -> bool| {
        let was_asked = end_state(host, &backend)? == state;
        let timeout = if was_asked { Duration::ZERO } else { patience(host, guest, timeout)? };
        if !was_asked {
            let mut changes = Change::directory(backend.clone(), &readable).to_vec();
            for (name, value) in others {
                changes.extend(Change::node(path::child(&backend, name), value, &readable));
            }
            changes.extend(Change::node(path::child(&backend, "state"), state, &readable));
            host.commit(&changes)?;
        }
        let watched = [frontend.clone(), path::RELEASE_DOMAIN.to_owned()];
        let answered = host.wait_for_guest(guest.id, &watched, timeout, || {
            let gone = !domain::is_alive(host, guest.id)?;
            Ok((gone || is_there(end_state(host, &frontend)?)).then_some(()))
        })?;
        Ok::<_, Error>(answered.is_some())
    };
    if end_state(host, &frontend)? == XenbusState::Reconfiguring {
        // Linux's pcifront hears nothing but 8 there. It looks at the buses that are listed then, of which there are none that answer, and goes to 4.
        let buses = [(key::ROOT_NUM, "0"), (key::NUM_DEVS, "0")];
        if !ask(XenbusState::Reconfigured, &buses, |front| front != XenbusState::Reconfiguring)? {
            return Ok(false);
        }
    }
    ask(XenbusState::Closing, &[], is_over)
}
