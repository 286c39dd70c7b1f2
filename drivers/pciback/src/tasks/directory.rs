//! Finds the frontends when an event did not name one: at the start, when a whole tree was removed, when events were lost.

use alloc::rc::Rc;

use xen_types::{DomId, Errno};
use xenstore::{Request, TxId, directory_entries, path::relative};

use crate::platform::Platform;
use crate::shared::Handle;

/// Runs for ever. A directory that is gone is noticed by its frontend's own task.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let signal = handle.with(|core| Rc::clone(&core.list_backends));
    loop {
        signal.wait().await;
        if handle.with(|core| core.is_pool_first()) {
            continue; // there is a signal when the pool is there
        }
        // What a life before has said about a frontend whose directory went meanwhile is to go too: its task sees to that.
        let mut is_whole = true;
        for path in [relative::BACKEND_ROOT, relative::ERROR_ROOT] {
            let listing = handle.ask(TxId::NONE, &Request::Directory { path }).await;
            handle.with(|core| match listing {
                Ok(listing) => directory_entries(&listing)
                    .filter_map(|name| name.parse().ok())
                    .for_each(|domid| core.look_at_frontend(DomId(domid))),
                // ENOENT is the ordinary case before the first frontend. Whatever it is, the next event brings us back here.
                Err(error) if error.is(Errno::ENOENT) => {}
                Err(_) => is_whole = false,
            });
        }
        handle.with(|core| {
            if is_whole {
                core.has_listed();
            } else {
                core.raise_later(&signal);
            }
        });
    }
}
