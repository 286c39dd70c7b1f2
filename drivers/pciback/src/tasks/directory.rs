//! Finds the frontends when an event did not name one: at the start, when a whole tree was removed, when events were lost.

use alloc::rc::Rc;
use alloc::vec::Vec;

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
        let listing = handle.ask(TxId::NONE, &Request::Directory { path: relative::BACKEND_ROOT }).await;
        // ENOENT is the ordinary case before the first frontend. Whatever it is, the next event brings us back here.
        let listing = match listing {
            Ok(listing) => listing,
            Err(error) if error.is(Errno::ENOENT) => Vec::new(),
            Err(_) => {
                handle.with(|core| core.raise_later(Rc::clone(&signal)));
                continue;
            }
        };
        handle.with(|core| {
            for domid in directory_entries(&listing).filter_map(|name| name.parse().ok()) {
                core.look_at_frontend(DomId(domid));
            }
            core.has_listed = true;
            core.end_adoption();
        });
    }
}
